"""What the commands of `python -m training` do, and what they tell on the way."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from scipy.special import softmax
from tqdm import tqdm

from service.bundle import folder as contract
from service.bundle.folder import CARD, Bundle
from service.bundle.manifest import Manifest
from service.explain import available
from service.image import decode, resize
from service.image.decode import MAX_LOCAL_PIXELS, SUFFIXES
from service.image.resize import Input
from service.runtime.engine import Engine
from training import audit
from training.audit import board, comparison, schema
from training.audit.card import card
from training.audit.plots import plots
from training.data import planted, read
from training.data.read import Dataset
from training.export import foreign, int8
from training.export import ours as export_ours
from training.export.foreign import ForeignError
from training.fit import runs
from training.fit.recipes import RECIPES, Recipe
from training.fit.runs import Run


def recipe_for(
    network: str | None, activation: str | None, start: Run | None, changes: Mapping[str, Any]
) -> Recipe:
    """The recipe of `start`, or of `network`, with what the command line changes."""
    recipe = RECIPES[network or "candor_net"] if start is None else start.recipe
    options: dict[str, Any] = {"options": {"activation": activation}} if activation else {}
    return replace(recipe, **changes, **options)


def bundle_run(
    run_folder: Path, folder: Path, source: str | None, name: str | None, *, half: bool
) -> None:
    """Exports a run."""
    run = runs.load(run_folder)
    dataset = read.read(
        source or run.subject.source, run.input, run.recipe.held_out, run.recipe.seed
    )
    read.check_same(dataset, run.subject.fingerprint, run_folder)
    made = export_ours.make_bundle(run, dataset, folder, name or dataset.name, halves=half)
    _tell(made)
    click.echo(made.read(CARD).decode())


def bundle_file(
    file: Path,
    *,
    folder: Path,
    check: Path | None,
    calibrate: Path | None,
    without_gradient: bool,
    half: bool,
    **given: Any,
) -> None:
    """Makes a bundle of an ONNX file."""
    labels, spec = _labels(given["labels"]), _input(given)
    names = foreign.Names(given["input_name"], given["output_name"], given["cam_layer"])
    core = foreign.read_core(file, spec.size, len(labels), names)
    manifest = Manifest(given["name"] or file.stem, labels, spec, provenance={"file": file.name})
    held_out = None if calibrate is None else read.read_labelled(calibrate, spec, labels)
    made = export_ours.make_foreign_bundle(
        core, manifest, folder, held_out, gradients=not without_gradient, halves=half
    )
    _tell(made)
    if check is not None:
        _check(file, made, names, check)


def audit_bundle(
    bundle_folder: Path,
    source: str,
    folder: Path,
    seed: int,
    *,
    other_folder: Path | None,
    board_folder: Path | None,
) -> None:
    """Measures a bundle and writes the report, its plots and the card into it."""
    bundle, other = (
        contract.load(bundle_folder),
        None if other_folder is None else contract.load(other_folder),
    )
    dataset = _data_for(bundle, source, seed)
    beside = None if other is None else _data_for(other, source, seed)
    report = audit.audit(bundle, dataset, seed, _watched)
    if other is not None and beside is not None:
        known = comparison.report_of(other, beside.fingerprint, seed)
        report["comparison"] = comparison.comparison(
            report, known or audit.audit(other, beside, seed, _watched), other
        )
    schema.check(report)
    files = {name: bundle.read(name) for name in bundle.manifest.files if not name.endswith(".png")}
    files[contract.REPORT] = (json.dumps(report, indent=1) + "\n").encode()
    files[CARD] = card(bundle.manifest, report).encode()
    made = contract.write(folder, bundle.manifest, files | plots(report))
    if board_folder is not None:
        board.show(board_folder, made, report)
    click.echo(made.read(CARD).decode())
    click.echo(f"{made.folder}: {made.manifest.name} {made.manifest.version}")


def _data_for(bundle: Bundle, source: str, seed: int) -> Dataset:
    """The images of `source` as `bundle` takes them."""
    dataset = read.read(source, bundle.manifest.input, 10 * len(bundle.manifest.labels), seed)
    read.check_classes(dataset, bundle.manifest.labels)
    return dataset


def _watched(sections: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What the sections say, with a bar that names the one at work."""
    found = {}
    with tqdm(total=len(sections), unit="section", disable=None) as bar:
        for name, section in sections.items():
            bar.set_description(name)
            found[name] = section()
            bar.update()
    return found


def plant(source: str, folder: Path, share: float, seed: int) -> None:
    """Writes the images of a source with a colour for each class."""
    splits, classes = read.read_splits(source, RECIPES["seed_cnn"].input(), seed)
    planted.write(folder, splits, classes, share, seed)
    counts = ", ".join(
        f"{len(images):,} in {split}" for split, images in sorted(splits.items(), reverse=True)
    )
    click.echo(
        f"{folder}: {counts}; {share:.0%} of the training images of each class in its colour"
    )


def quantise(bundle_folder: Path, source: str, folder: Path, images: int, seed: int) -> None:
    """Adds the int8 graph to a bundle."""
    bundle = contract.load(bundle_folder)
    made = int8.add_int8(bundle, read.read(source, bundle.manifest.input, images, seed), folder)
    told = made.manifest.int8
    assert told is not None
    speed = ", ".join(f"{ratio:.2f} (batch {rows})" for rows, ratio in told.speed_ratio.items())
    click.echo(
        f"macro F1 {told.macro_f1:.4f}, in float32 {told.macro_f1_float32:.4f}, over {told.test_pictures:,} test images"
    )
    click.echo(
        f"log loss {told.log_loss:.4f}, in float32 {told.log_loss_float32:.4f}; same class for {told.agreement:.2%}"
    )
    click.echo(f"times as fast on one core of {told.machine}: {speed}")
    click.echo(f"{made.folder}: {made.manifest.name} {made.manifest.version}")


def _tell(made: Bundle) -> None:
    for method, parity in made.manifest.parity.items():
        click.echo(
            f"{method:<22} differs from {parity.against} by {parity.relative_difference:.1e}, cosine {parity.cosine:.6f}"
        )
    click.echo(
        f"can be explained by {', '.join(method.name for method in available(made.manifest))}"
    )
    click.echo(f"{made.folder}: {made.manifest.name} {made.manifest.version}")


def _labels(path: Path | None) -> tuple[str, ...]:
    if path is None:
        raise ForeignError(
            "--labels is missing: give a text file with one label a line, in the order of the outputs"
        )
    try:
        return tuple(
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignError(
            f"{path} cannot be read as text ({error}): give one label a line"
        ) from None


def _input(given: dict[str, Any]) -> Input:
    if given["size"] is None:
        raise ForeignError(
            "--size is missing: give the side of the network's square input, in pixels"
        )
    mean, std = (_numbers(name, given[name]) for name in ("mean", "std"))
    return Input(given["size"], mean, std, given["resize"], given["short_side"] or given["size"])


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Three numbers with commas between, fractions allowed."""
    try:
        parts = [part.partition("/") for part in text.split(",")]
        values = tuple(float(top) / float(below or 1) for top, _, below in parts)
    except (ValueError, ZeroDivisionError):
        values = ()
    if len(values) != 3:  # noqa: PLR2004
        raise ForeignError(
            f"--{name} is {text!r}; give three numbers with commas between, for example 0.485,0.456,0.406"
        )
    return values


def _check(file: Path, made: Bundle, names: foreign.Names, images: Path) -> None:
    """Compares the bundle's predictions with those of the file itself, fed as its own code would feed it."""
    engine = Engine(made, "cpu")
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    image = next(i for i in session.get_inputs() if names.input in (None, i.name))
    last = image.shape[-1] == foreign.CHANNELS
    files = sorted(
        path
        for path in ([images] if images.is_file() else images.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    )
    if not files:
        raise ForeignError(f"{images} holds no images ({', '.join(SUFFIXES)})")
    same, largest = 0, 0.0
    for path in files:
        fitted = resize.to_input(
            decode.decode(path.read_bytes(), MAX_LOCAL_PIXELS).pixels, made.manifest.input
        )[None]
        x = engine.normalise(fitted)
        theirs = session.run(
            [names.output] if names.output else None,
            {image.name: np.moveaxis(x, 1, -1) if last else x},
        )[0][0]
        ours = engine.predict(fitted).logits[0]
        same += int(ours.argmax() == theirs.argmax())
        largest = max(
            largest,
            float(
                np.abs(
                    softmax(ours) - (theirs if _are_probabilities(theirs) else softmax(theirs))
                ).max()
            ),
        )
    told = f"{same} of {len(files)} images get the class that {file.name} gives them; probabilities differ by {largest:.1e} at most"
    if same < len(files):
        raise ForeignError(f"{told}: the bundle does not answer as the file does")
    click.echo(told)


def _are_probabilities(values: np.ndarray) -> bool:
    return bool(values.min() >= 0 and abs(float(values.sum()) - 1) < 1e-3)  # noqa: PLR2004
