"""Real images read by Candor, by OpenCV and by a browser: the test images of Pillow, pillow-heif
and thumbor, a thousand files.

A file holds if Candor's pixels, as they are stored, are OpenCV's within a mean of 1 of 255; or,
where a profile is embedded, its colours are those of a browser's canvas within a mean of 3. Where
OpenCV reads something else, or nothing, the canvas decides, within 1: OpenCV leaves the orientation
of transparent and of WebP images undone. What nobody else reads, as HEIC, is counted apart.

The exit status is 1 if a file differs for no KNOWN reason, fewer than LEAST_FILES could be
compared, or of fewer than LEAST_KINDS kinds.
"""

import io
import re
import struct
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from benchmarks.picture_readers import Canvas, OpenCV, Pixels
from benchmarks.picture_sources import SOURCES, cache_folder, images
from service.errors import RequestError
from service.image import decode
from service.image.budget import MAX_PIXELS
from support.browser import chromium

AS_STORED, IN_SRGB = 1.0, 3.0  # of 255: the most by which a mean may differ
LEAST_FILES, LEAST_KINDS = 400, 10
SHOWN = 8  # of the worst
ORIENTATION = 0x0112
# Kinds of files at which the others are wrong, or differ by their own choice.
KNOWN: dict[str, Callable[[Path, Image.Image], bool]] = {
    "APNG: its default image, where the others show the first frame of the animation": (
        lambda _, image: bool(image.info.get("default_image"))
    ),
    "WebP: turned as its EXIF says, which the others leave; as its twin in JPEG": (
        lambda _, image: image.format == "WEBP" and image.getexif().get(ORIENTATION, 1) != 1
    ),
    "TIFF with transparency: OpenCV multiplies by it once too often, or too seldom": (
        lambda _, image: image.format == "TIFF" and image.mode == "RGBA"
    ),
    "TIFF in planes of 16 bits: OpenCV reads others at every run; as its twin without planes": (
        lambda path, _: "planar_16bit" in path.name
    ),
    "TIFF in CIELAB: OpenCV's white is yellow": lambda _, image: image.mode == "LAB",
    "BMP cut off in its palette: each reads another": lambda path, _: path.name == "mmap_error.bmp",
}

AGREES, PROFILED, CANVAS, ALONE, EXPLAINED, DIFFERS, REFUSED = VERDICTS = (
    "as OpenCV",
    "as the canvas, with its profile",
    "as the canvas, unlike OpenCV",
    "read by Candor alone",
    "differs for a known reason",
    "differs",
    "refused",
)


class Outcome(NamedTuple):
    """What became of a file; `distance`: the mean of 255 from the reader that decided.

    `profile`: its name, and `change`: what it does to the colours, the mean of 255.
    """

    path: Path
    kind: str
    verdict: str
    distance: float = 0.0
    reason: str = ""
    profile: str = ""
    change: float = 0.0


class Bench:
    """The readers that a file is compared with."""

    def __init__(self, opencv: OpenCV, canvas: Canvas) -> None:
        self._opencv, self._canvas = opencv, canvas

    def outcome(self, path: Path) -> Outcome:
        """Reads a file by all of them."""
        body = path.read_bytes()
        kind, has_profile, known = described(path, body)
        differs = EXPLAINED if known else DIFFERS
        try:
            stored = decode.decode(body, MAX_PIXELS).pixels
        except RequestError as error:
            return Outcome(path, kind, REFUSED, reason=sentence(error))
        if has_profile:
            colours = decode.decode(body, MAX_PIXELS, "srgb").pixels
            drawn = distance(colours, self._canvas.read(path))
            if drawn is not None:
                verdict = PROFILED if drawn <= IN_SRGB else differs
                change = distance(stored, colours) or 0.0
                return Outcome(path, kind, verdict, drawn, known, name_of_profile(body), change)
        apart = distance(stored, self._opencv.read(path))
        if apart is not None and apart <= AS_STORED:
            return Outcome(path, kind, AGREES, apart)
        drawn = distance(stored, self._canvas.read(path))
        if apart is None and drawn is None:
            return Outcome(path, kind, ALONE)
        found = min(each for each in (apart, drawn) if each is not None)
        return Outcome(path, kind, CANVAS if found <= AS_STORED else differs, found, known)


def described(path: Path, body: bytes) -> tuple[str, bool, str]:
    """The kind of a file by Pillow, its format and its mode; whether it has a profile; and what is
    KNOWN of it, else nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(body))
            known = next((why for why, is_such in KNOWN.items() if is_such(path, image)), "")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error):
        return path.suffix.lower(), False, ""
    return f"{image.format} {image.mode}", bool(image.info.get("icc_profile")), known


def name_of_profile(body: bytes) -> str:
    """What the profile in a file calls itself."""
    packed = Image.open(io.BytesIO(body)).info["icc_profile"]
    try:
        return ImageCms.getProfileDescription(io.BytesIO(packed)).strip()
    except ImageCms.PyCMSError:
        return "damaged"


def profiles(outcomes: Iterable[Outcome]) -> str:
    """A row a profile, as Markdown: its files, what it changes, how far a browser is."""
    found = defaultdict(list)
    for each in outcomes:
        if each.verdict == PROFILED:
            found[each.profile].append(each)
    rows = ["| profile | files | changes colours by, at most | from the canvas, at most |"]
    rows.append("| --- | ---: | ---: | ---: |")
    for profile, files in sorted(found.items(), key=lambda item: -max(e.change for e in item[1])):
        change, apart = max(e.change for e in files), max(e.distance for e in files)
        rows.append(f"| {profile} | {len(files)} | {change:.1f} | {apart:.2f} |")
    return "\n".join(rows)


def sentence(error: RequestError) -> str:
    """The error without its numbers, to count those that are alike."""
    return re.sub(r"[\d,.×]+", "…", re.sub(r"\((?:[^()]|\([^()]*\))*\)", "(…)", str(error)))


def distance(ours: Pixels, theirs: Pixels | None) -> float | None:
    """The mean difference of two images, of 255; None without a second one."""
    if theirs is None:
        return None
    if ours.shape != theirs.shape:
        return 255.0
    return float(np.abs(ours.astype(np.int16) - theirs).mean())


def holds(outcomes: Sequence[Outcome]) -> bool:
    """True if what is claimed above is true of all."""
    compared = [each for each in outcomes if each.verdict in (AGREES, PROFILED, CANVAS)]
    differing = [each for each in outcomes if each.verdict == DIFFERS]
    kinds = {each.kind for each in compared}
    return not differing and len(compared) >= LEAST_FILES and len(kinds) >= LEAST_KINDS


def name(outcome: Outcome) -> str:
    """The file as a reader finds it in its package."""
    return "/".join(outcome.path.parts[-3:])


def table(outcomes: Iterable[Outcome]) -> str:
    """A row a kind, as Markdown."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for each in outcomes:
        counts[each.kind][each.verdict] += 1
        counts["all"][each.verdict] += 1
    rows = [
        f"| kind | files | {' | '.join(VERDICTS)} |",
        "| --- |" + " ---: |" * (1 + len(VERDICTS)),
    ]
    for kind in sorted(counts, key=lambda kind: (kind == "all", kind)):
        found = counts[kind]
        cells = " | ".join(str(found[each]) for each in VERDICTS)
        rows.append(f"| {kind} | {found.total()} | {cells} |")
    return "\n".join(rows)


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints the table, the reasons of refusals, and the files that differ the most."""
    print(table(outcomes))
    print(f"\n{profiles(outcomes)}")
    for verdict in (REFUSED, EXPLAINED):
        print(f"\n{verdict}:")
        reasons = Counter(each.reason for each in outcomes if each.verdict == verdict)
        for reason, count in reasons.most_common():
            print(f"- {count} × {reason}")
    for verdict in (AGREES, PROFILED, CANVAS, DIFFERS):
        found = [each for each in outcomes if each.verdict == verdict]
        print(f"\n{verdict}, the worst of {len(found)}:")
        shown = sorted(found, key=lambda each: -each.distance)
        for each in shown[: len(shown) if verdict == DIFFERS else SHOWN]:
            print(f"- {each.distance:.2f} {name(each)} ({each.kind})")


@click.command(help=__doc__)
@click.option("--cache", type=click.Path(path_type=Path), help="Where the images are kept.")
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True), help="Other images instead."
)
def main(cache: Path | None, folder: Path | None) -> None:
    """Compares all files, and says whether they hold."""
    paths = [*folder.rglob("*")] if folder else [*images(SOURCES, cache or cache_folder())]
    with OpenCV() as opencv, chromium() as browser:
        bench = Bench(opencv, Canvas(browser))
        outcomes = [bench.outcome(path) for path in paths if path.is_file()]
    show(outcomes)
    sys.exit(0 if holds(outcomes) else 1)


if __name__ == "__main__":
    main()
