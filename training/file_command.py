"""The command `bundle --onnx`. It needs no torch, but for --calibrate and --half."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.explain import available
from service.image.kinds import SUFFIXES
from service.image.resize import Input
from service.runtime.engine import Engine
from training.data import multi_label, read
from training.data.images import Images, Tagged, load_image
from training.export import foreign, labels
from training.export.foreign import ForeignCore, ForeignError
from training.export.foreign_bundle import compare, make_foreign_bundle
from training.export.labels import Labels
from training.export.maker import manifest_of
from training.export.original import Original
from training.export.progress import Progress
from training.export.source import Asked, numbers


def bundle_file(
    file: Path,
    *,
    folder: Path,
    check: Path | None,
    calibrate: Path | None,
    without_gradient: bool,
    half: bool,
    **options: Any,
) -> None:
    """Makes a bundle of an ONNX file; its steps go to stderr, with the seconds."""
    progress = Progress(partial(click.echo, err=True))
    progress(f"runs {file} to learn its shapes and its answers")
    given = labels.of_file(file) if options["labels"] is None else labels.read(options["labels"])
    core = _core(file, given, options)
    _check_possible(file, core, check, calibrate)
    manifest = _manifest(file, core, given, options)
    held_out = None
    if calibrate is not None:
        held_out = _held_out(calibrate, manifest, several=core.head == "sigmoid")
    bundle = make_foreign_bundle(
        core,
        manifest,
        folder,
        held_out,
        gradients=not without_gradient,
        halves=half,
        say=progress,
    )
    progress("is done")
    print_summary(bundle)
    if core.original is None:
        click.echo(f"{file.name} cannot be run as it is: nothing was compared with its answers")
    elif check is not None:
        _compare_with_file(core.original, bundle, check)


def print_summary(bundle: Bundle) -> None:
    """Prints the parity, the methods and the version of a bundle that was made."""
    for method, parity in bundle.manifest.parity.items():
        click.echo(
            f"{method:<22} differs from {parity.against} by {parity.relative_difference:.1e}, "
            f"cosine {parity.cosine:.6f}"
        )
    methods = ", ".join(method.name for method in available(bundle.manifest))
    click.echo(f"explanation methods: {methods}")
    print_version(bundle)


def print_version(bundle: Bundle) -> None:
    """Prints the folder, the name and the version of a bundle."""
    click.echo(f"{bundle.folder}: {bundle.manifest.name} {bundle.manifest.version}")


def _core(file: Path, given: Labels | None, options: dict[str, Any]) -> ForeignCore:
    """The core of the file; what it leaves open is said."""
    names = foreign.Names(options["input_name"], options["output_name"], options["cam_layer"])
    asked = Asked(options["channels"], *(numbers(name, options[name]) for name in ("mean", "std")))
    classes = None if given is None else len(given)
    core = foreign.read_core(file, options["size"], classes, names, asked)
    assert core.source is not None
    for note in core.source.notes:
        click.echo(note, err=True)
    if given is None:
        numbered = f"they are 0 to {core.classes - 1}"
        click.echo(f"neither --labels nor the file names the classes: {numbered}", err=True)
    return core


def _check_possible(
    file: Path, core: ForeignCore, check: Path | None, calibrate: Path | None
) -> None:
    """Checks that --check and --calibrate can be done with the file.

    Raises:
        ForeignError: one of them cannot.
    """
    if core.head == "sigmoid" and calibrate is not None and calibrate.suffix.lower() != ".csv":
        raise ForeignError(
            f"{file.name} is multi-label, and folders have one label for an image: give "
            "--calibrate a CSV of path,labels, with semicolons between the labels of an image"
        )
    if core.original is None and check is not None:
        raise ForeignError(
            f"{file.name} cannot be run as it is (ONNX Runtime does not open it, or --input names "
            "a tensor inside): leave out --check"
        )


def _manifest(
    file: Path, core: ForeignCore, given: Labels | None, options: dict[str, Any]
) -> Manifest:
    source = core.source
    assert source is not None
    short_side = options["short_side"] or 0
    spec = Input(
        source.size, source.mean, source.std, options["resize"], short_side, options["colour"]
    )
    return manifest_of(file, core, given, options["name"], spec)


def _held_out(source: Path, manifest: Manifest, *, several: bool) -> Images | Tagged:
    """The images in `source`, with the labels of the manifest; skipped files are listed."""
    reader = multi_label.read if several else read.read_labelled
    held_out, skipped = reader(source, manifest.input, manifest.labels)
    if skipped:
        click.echo(read.describe(skipped), err=True)
    return held_out


def _compare_with_file(original: Original, bundle: Bundle, images: Path) -> None:
    """Compares the bundle's probabilities, at temperature 1, with those of its ONNX file.

    Raises:
        ForeignError: `images` holds no images, or the probabilities of one differ.
    """
    # both on the CPU, so that no difference between devices is counted
    engine = Engine(bundle, "cpu")
    paths = [images] if images.is_file() else images.rglob("*")
    files = sorted(path for path in paths if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ForeignError(f"{images} holds no images ({', '.join(SUFFIXES)})")
    found = []
    for path in files:
        pixels = load_image(str(path), path.read_bytes(), bundle.manifest.input)[None]
        found.append(compare(original, engine, pixels))
    worst = max(found)
    click.echo(
        f"{sum(each.same for each in found)} of {len(files)} images get the class that "
        f"{original.path.name} gives them; probabilities differ by {worst.difference:.1e} at most, "
        f"the limit is {worst.limit:.1e}"
    )
