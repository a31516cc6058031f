"""Real images, read by Candor, by OpenCV and by a browser: the test images of Pillow, pillow-heif and
thumbor, a thousand files.

A file holds if Candor's pixels, as they are stored, are OpenCV's within a mean of 1 of 255; or, where
a profile is embedded, its colours are those of a browser's canvas within a mean of 3. Where OpenCV
reads something else, or nothing, the canvas decides, within 1: OpenCV leaves the orientation of
transparent and of WebP images undone. What nobody else reads, as HEIC, is counted apart.

The exit status is 1 if a file differs that is not in KNOWN, fewer than LEAST_FILES could be compared,
or of fewer than LEAST_KINDS kinds.
"""

import io
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image, UnidentifiedImageError

from benchmarks.picture_readers import Canvas, OpenCV, Pixels
from benchmarks.picture_sources import SOURCES, cache_folder, images
from service.errors import RequestError
from service.image import decode
from service.image.budget import MAX_PIXELS
from support.browser import chromium

AS_STORED, IN_SRGB = 1.0, 3.0  # of 255: the most by which a mean may differ
LEAST_FILES, LEAST_KINDS = 400, 10
SHOWN = 8  # of the worst
# Files at which the others are wrong, or differ by their own choice.
KNOWN: dict[str, str] = {}

AGREES, PROFILED, CANVAS, ALONE, DIFFERS, REFUSED = (
    "as OpenCV",
    "as the canvas, with its profile",
    "as the canvas, unlike OpenCV",
    "read by Candor alone",
    "differs",
    "refused",
)


class Outcome(NamedTuple):
    """What became of a file; `distance`: the mean of 255 from the reader that decided."""

    path: Path
    kind: str
    verdict: str
    distance: float = 0.0
    reason: str = ""


class Bench:
    """The readers that a file is compared with."""

    def __init__(self, opencv: OpenCV, canvas: Canvas) -> None:
        self._opencv, self._canvas = opencv, canvas

    def outcome(self, path: Path) -> Outcome:
        """Reads a file by all of them."""
        body = path.read_bytes()
        kind, has_profile = described(path, body)
        try:
            stored = decode.decode(body, MAX_PIXELS).pixels
        except RequestError as error:
            return Outcome(path, kind, REFUSED, reason=sentence(error))
        if has_profile:
            colours = decode.decode(body, MAX_PIXELS, "srgb").pixels
            drawn = distance(colours, self._canvas.read(path))
            if drawn is not None:
                return Outcome(path, kind, PROFILED if drawn <= IN_SRGB else DIFFERS, drawn)
        apart = distance(stored, self._opencv.read(path))
        if apart is not None and apart <= AS_STORED:
            return Outcome(path, kind, AGREES, apart)
        drawn = distance(stored, self._canvas.read(path))
        if apart is None and drawn is None:
            return Outcome(path, kind, ALONE)
        found = min(each for each in (apart, drawn) if each is not None)
        return Outcome(path, kind, CANVAS if found <= AS_STORED else DIFFERS, found)


def described(path: Path, body: bytes) -> tuple[str, bool]:
    """The kind of a file by Pillow, its format and its mode; and whether it has a profile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(body))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return path.suffix.lower(), False
    return f"{image.format} {image.mode}", bool(image.info.get("icc_profile"))


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
    differing = [each for each in outcomes if each.verdict == DIFFERS and name(each) not in KNOWN]
    kinds = {each.kind for each in compared}
    return not differing and len(compared) >= LEAST_FILES and len(kinds) >= LEAST_KINDS


def name(outcome: Outcome) -> str:
    """The file as a reader finds it in its package."""
    return "/".join(outcome.path.parts[-3:])


def table(outcomes: Iterable[Outcome]) -> str:
    """A row a kind, as Markdown."""
    verdicts = (AGREES, PROFILED, CANVAS, ALONE, DIFFERS, REFUSED)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for each in outcomes:
        counts[each.kind][each.verdict] += 1
        counts["all"][each.verdict] += 1
    rows = [f"| kind | files | {' | '.join(verdicts)} |", "| --- |" + " ---: |" * 7]
    for kind in sorted(counts, key=lambda kind: (kind == "all", kind)):
        found = counts[kind]
        cells = " | ".join(str(found[each]) for each in verdicts)
        rows.append(f"| {kind} | {found.total()} | {cells} |")
    return "\n".join(rows)


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints the table, the reasons of refusals, and the files that differ the most."""
    print(table(outcomes))
    print("\nRefused:")
    reasons = Counter(each.reason for each in outcomes if each.verdict == REFUSED)
    for reason, count in reasons.most_common():
        print(f"- {count} × {reason}")
    for verdict in (AGREES, PROFILED, CANVAS, DIFFERS):
        found = [each for each in outcomes if each.verdict == verdict]
        print(f"\n{verdict}, the worst of {len(found)}:")
        shown = sorted(found, key=lambda each: -each.distance)
        for each in shown[: len(shown) if verdict == DIFFERS else SHOWN]:
            print(f"- {each.distance:.2f} {name(each)} ({each.kind}) {KNOWN.get(name(each), '')}")


@click.command(help=__doc__)
@click.option("--cache", type=click.Path(path_type=Path), help="Where the images are kept.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Other images instead.")
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
