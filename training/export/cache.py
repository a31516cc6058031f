"""The bundle of an ONNX file, made at the first use and kept in a cache.

Its name is the SHA-256 of the file, of the weights beside it and of what was asked for, so that
another file or another wish has a bundle of its own. `python -m service why` and `serve` use it.
"""

import hashlib
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from service import __version__
from service.bundle import source
from service.bundle.manifest import MANIFEST
from service.image.colour import Colour
from service.image.resize import Resize, Size
from service.workers import memory
from training.export.ends import ForeignError
from training.export.progress import Say
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
    colour: Colour = "as-sent"


def wishes(
    *,
    labels: Path | None,
    size: str | None,
    resize: Resize,
    mean: str | None,
    std: str | None,
    colour: Colour,
) -> Wishes:
    """What the options of a command line say.

    Raises:
        ForeignError: a number cannot be read.
    """
    return Wishes(labels, _size(size), resize, numbers("mean", mean), numbers("std", std), colour)


def bundle_of(file: Path, wishes: Wishes, say: Say) -> Path:
    """The folder of the bundle of `file`; `say` gets a sentence for each step of making it.

    Raises:
        ForeignError: no bundle can be made of the file.
    """
    place = source.cache() / _key(file, wishes)
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


def _make(file: Path, wishes: Wishes, place: Path, say: Say) -> None:
    # onnxscript takes a second to import, and a bundle that is in the cache needs none.
    from training.export import maker  # noqa: PLC0415

    asked = Asked(mean=wishes.mean, std=wishes.std)
    maker.make(file, place, say, wishes.labels, wishes.size, wishes.resize, asked, wishes.colour)


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
