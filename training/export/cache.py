"""The bundle of an ONNX file, made at the first use and kept in a cache.

Its name is the SHA-256 of the file, of the weights beside it and of what was asked for, so that
another file or another wish has a bundle of its own. `python -m service why` and `serve` use it.
"""

import hashlib
import os
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from service import __version__
from service.bundle.manifest import MANIFEST, Manifest
from service.image.resize import Input, Resize, Size
from service.workers import memory
from training.autodiff import DifferentiationError
from training.export import foreign, labels
from training.export.ends import ForeignError, Names
from training.export.foreign import ForeignCore
from training.export.foreign_bundle import make_foreign_bundle
from training.export.progress import Progress, Say
from training.export.source import Asked, numbers

PART = 2**20  # bytes that are read at once


@dataclass(frozen=True)
class Wishes:
    """What a caller says of a file; None = the file says it, or a default does."""

    labels: Path | None = None
    size: Size | None = None
    resize: Resize = "crop"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def wishes(
    *, labels: Path | None, size: str | None, resize: Resize, mean: str | None, std: str | None
) -> Wishes:
    """What the options of a command line say.

    Raises:
        ForeignError: a number cannot be read.
    """
    return Wishes(labels, _size(size), resize, numbers("mean", mean), numbers("std", std))


def bundle_of(file: Path, wishes: Wishes, say: Say) -> Path:
    """The folder of the bundle of `file`; `say` gets a sentence for each step of making it.

    Raises:
        ForeignError: no bundle can be made of the file.
    """
    place = folder() / _key(file, wishes)
    if (place / MANIFEST).exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        made = Path(scratch) / "bundle"
        _make(file, wishes, made, say)
        memory.trim()  # the caller opens the bundle, which takes as much again
        try:
            made.rename(place)  # whole or not at all, for another process may look for it now
        except OSError:
            if not (place / MANIFEST).exists():  # else another process made it meanwhile
                raise
    return place


def folder() -> Path:
    """The folder of the cache: candor/ in XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "candor"


def manifest_of(
    file: Path, core: ForeignCore, given: labels.Labels | None, name: str | None, spec: Input
) -> Manifest:
    """The manifest of a file's bundle before anything is measured; None: labels are numbers.

    Raises:
        ForeignError: there are more labels than classes.
    """
    provenance = {"file": file.name, **foreign.weights_of(file)}
    if core.source is not None and core.source.colours != "rgb":
        provenance["channels"] = core.source.colours
    names = labels.numbered(core.classes) if given is None else given
    if len(names) != core.classes:
        raise ForeignError(
            "the file gives one value for an image, which is that of the second of two classes: "
            f"give two labels, not {len(names)}"
        )
    return Manifest(name or file.stem, names, spec, provenance=provenance)


def _make(file: Path, wishes: Wishes, place: Path, say: Say) -> None:
    progress = Progress(say)
    progress(f"makes a bundle of {file}, once")
    given = labels.of_file(file) if wishes.labels is None else labels.read(wishes.labels)
    classes = None if given is None else len(given)
    asked = Asked(mean=wishes.mean, std=wishes.std)
    core = foreign.read_core(file, wishes.size, classes, Names(), asked)
    source = core.source
    assert source is not None
    for note in source.notes:
        say(note)
    if given is None:
        say(f"neither --labels nor the file names the classes: they are 0 to {core.classes - 1}")
    spec = Input(source.size, source.mean, source.std, wishes.resize)
    manifest = manifest_of(file, core, given, None, spec)
    try:
        make_foreign_bundle(core, manifest, place, say=progress)
    except DifferentiationError as error:
        say(f"{error}; makes the bundle without the methods that need gradients")
        make_foreign_bundle(core, manifest, place, gradients=False, say=progress)
    progress("is done")


def _key(file: Path, wishes: Wishes) -> str:
    digest = hashlib.sha256()
    for path in (file, *_beside(file), *([wishes.labels] if wishes.labels else [])):
        with path.open("rb") as content:
            while part := content.read(PART):
                digest.update(part)
    digest.update(repr((astuple(wishes), __version__)).encode())
    return digest.hexdigest()


def _beside(file: Path) -> list[Path]:
    """The files that hold weights of `file`, if they exist; a missing one is named later."""
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception:  # noqa: BLE001 - onnx raises many types on damaged bytes, and is asked again
        return []
    names = {
        ExternalDataInfo(tensor).location
        for tensor in model.graph.initializer
        if uses_external_data(tensor)
    }
    paths = [file.parent / name for name in sorted(names)]
    return [path for path in paths if path.is_file()]


def _size(text: str | None) -> Size | None:
    if text is None:
        return None
    numbers = [int(part) if part.isdecimal() else 0 for part in text.lower().split("x")]
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ForeignError(f"--size is {text}; give N or HEIGHTxWIDTH, in pixels")
    return numbers[0] if len(set(numbers)) == 1 else (numbers[0], numbers[1])
