"""Drift indices of predictions and maps of test images, plain, corrupted, framed, marked, mixed and
out of distribution; false alarms; and the cost.

The distributions are fitted here, on the held-out images of DATA, as an export fits them. An index
is the mean over windows of images drawn without replacement; in brackets, where 95 % of them are.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from jaxtyping import Bool, Float64
from tqdm import tqdm

from service.bundle.folder import load
from service.bundle.manifest import Distribution, MapDistribution
from service.explain.maps.mass import mass_of
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE
from service.telemetry.drift import (
    LEAST,
    MAPS,
    PREDICTIONS,
    WINDOW,
    Records,
    Watched,
    Window,
    drift,
)
from support.load import table
from training.audit.measures.corruptions import corrupted
from training.audit.measures.out_of_distribution import out_of_distribution
from training.data import ClassIndices, Pixels
from training.data.images import Images
from training.data.read import read
from training.figures.intervals import wilson
from training.reliability.distribution import fit_distribution
from training.reliability.familiarity import scores
from training.reliability.maps import fit_maps, outputs_and_maps

SEED, WINDOWS, PLAIN_WINDOWS = 0, 100, 1000
IMAGES, MIXED = 2000, 2000  # of each kind, which windows are drawn from
ALARM = 0.25
STRANGE = -1  # the label of images of no class
PLAIN = "as they are"
FRAMES, MARKS = (1 / 32, 2 / 32, 4 / 32), (4 / 32, 6 / 32, 8 / 32)
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "brightness", "contrast", "jpeg")
SEVERITIES = (1, 3, 5)
ROUNDS = 30
PROCESSES = (1, 2, 16)


class Known(NamedTuple):
    """The distributions over held-out images."""

    predictions: Distribution
    maps: MapDistribution


class Seen(NamedTuple):
    """The aspects of predictions and of maps, and the predictions that are right; None of images of
    no class.
    """

    predictions: Float64[np.ndarray, "images aspects"]
    maps: Float64[np.ndarray, "images aspects"]
    right: Bool[np.ndarray, " images"] | None

    def take(self, chosen: np.ndarray) -> "Seen":
        """Those of the `chosen` images."""
        right = None if self.right is None else self.right[chosen]
        return Seen(self.predictions[chosen], self.maps[chosen], right)

    def records(self, watched: Watched) -> Records:
        """The records of a kind, as a window has them."""
        aspects = self.predictions if watched is PREDICTIONS else self.maps
        return np.insert(aspects, 0, 1.0, axis=1)


@click.command()
@click.argument("data")
@click.option(
    "--bundle",
    "folder",
    default=EMBEDDED_BUNDLE,
    type=click.Path(path_type=Path),
    help="The bundle; the embedded one if not given.",
)
def main(data: str, folder: Path) -> None:
    """Prints both tables as Markdown."""
    click.echo(f"{costs()}\n")
    engine = Engine(load(folder), "cpu")
    if not engine.one_pass:
        raise click.ClickException("this bundle has no map in the pass of a prediction")
    dataset = read(data, engine.manifest.input, 5000, SEED)
    for part in shown(engine, dataset.test, fitted(engine, dataset.validation)):
        click.echo(f"{part}\n")


def costs() -> str:
    """The cost of a request, and of a scrape beside full windows of several workers."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        window = Window(Path(name))
        rng = np.random.default_rng(SEED)
        cells = rng.normal(size=(7, 7)).astype(np.float32)
        maps = Window(None, MAPS)
        record = lambda: maps.add(*mass_of(cells, 1.0), 0.5)  # noqa: E731
        lines.append(("a prediction", f"{least(lambda: window.add(0.9, 0.8, 3.0), 20_000):.2f} µs"))
        lines.append(("a map of 7 × 7 cells", f"{least(record, 2000):.2f} µs"))
        known = fit_distribution(
            rng.uniform(size=5000), rng.uniform(size=5000), rng.integers(0, 10, 5000), 10
        )
        full = next(Path(name).iterdir()).read_bytes()
        for processes in PROCESSES:
            for number in range(processes - 1):
                (Path(name) / f"{number}.predictions").write_bytes(full)
            lines.append(
                (
                    f"a scrape, windows of {processes}",
                    f"{least(lambda: drift(window.latest(), known), 20):.0f} µs",
                )
            )
    return table(("what", "processor time"), lines)


def least(work: Callable[[], object], calls: int) -> float:
    """The processor time of one call in µs, in the best of ROUNDS."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(calls):
            work()
        seconds.append((time.process_time() - started) / calls)
    return 1e6 * min(seconds)


def shown(engine: Engine, test: Images, known: Known) -> Iterator[str]:
    """A table of the indices of predictions, and one of those of maps."""
    seen = {}
    for name, images in tqdm(list(cases(engine, test)), unit="kind", disable=None):
        seen[name] = answers(engine, images)
    seen |= mixes(seen[PLAIN], test.labels)
    for watched, held_out in ((PREDICTIONS, known.predictions), (MAPS, known.maps)):
        lines = []
        for name, found in seen.items():
            indices = windows(found.records(watched), held_out, watched)
            right = "–" if found.right is None else f"{found.right.mean():.3f}"
            lines.append((name, *map(interval, indices.T), right))
        yield table(("images", *watched.aspects, "accuracy"), lines)
        for count in (LEAST, WINDOW):
            indices = windows(seen[PLAIN].records(watched), held_out, watched, count, PLAIN_WINDOWS)
            yield alarms(indices, watched, count)


def windows(
    records: Records,
    held_out: Distribution | MapDistribution,
    watched: Watched,
    count: int = WINDOW,
    many: int = WINDOWS,
) -> Float64[np.ndarray, "windows aspects"]:
    """The indices of so many windows of `count` records each, drawn without replacement."""
    rng = np.random.default_rng(SEED)
    drawn = (records[rng.permutation(len(records))[:count]] for _ in range(many))
    return np.array([list(drift(each, held_out, watched).values()) for each in drawn])


def interval(indices: Float64[np.ndarray, " windows"]) -> str:
    """The mean of an index over windows, and where 95 % of the windows are; bold if it alarms."""
    low, high = np.quantile(indices, (0.025, 0.975))
    text = f"{indices.mean():.2f} ({low:.2f}–{high:.2f})"
    return f"**{text}**" if low > ALARM else text


def alarms(indices: Float64[np.ndarray, "windows aspects"], watched: Watched, count: int) -> str:
    """How often plain images alarm, as a sentence."""
    false = int((indices > ALARM).any(1).sum())
    low, high = wilson(false, len(indices))
    return (
        f"{watched.kind}, windows of {count} plain images: {false} of {len(indices)} above {ALARM} "
        f"in any aspect (95 % interval {low:.2%} to {high:.2%}); the largest is {indices.max():.3f}"
    )


def cases(engine: Engine, test: Images) -> Iterator[tuple[str, Images]]:
    """Plain test images, and what may become of them on the way to a service."""
    yield PLAIN, test
    chosen = test.take(np.random.default_rng(SEED).permutation(len(test))[:IMAGES])
    changed = {
        f"{name} {severity}": corrupted(name, severity, chosen.pixels, SEED)
        for name in CORRUPTIONS
        for severity in SEVERITIES
    }
    for share in FRAMES:
        changed[f"a white frame, {share:.0%} of the side"] = framed(chosen.pixels, share)
    for share in MARKS:
        changed[f"a watermark in a corner, {share:.0%} of the side"] = marked(chosen.pixels, share)
    for name, pixels in changed.items():
        yield name, replace(chosen, held=pixels)
    strangers = out_of_distribution(chosen.pixels, engine.manifest.input, IMAGES, SEED)
    for name, pixels in strangers.items():
        yield name, Images(pixels, np.full(len(pixels), STRANGE))


def framed(pixels: Pixels, share: float) -> Pixels:
    """The images with a white border."""
    width = max(1, round(share * pixels.shape[1]))
    inner = slice(width, -width)
    result = np.full_like(pixels, 255)
    result[:, inner, inner] = pixels[:, inner, inner]
    return result


def marked(pixels: Pixels, share: float) -> Pixels:
    """The images with white and black stripes in the lower right corner, a pixel from the border.

    The same mark in all, as a logo is.
    """
    side = round(share * pixels.shape[1])
    place = slice(-side - 1, -1)
    result = pixels.copy()
    result[:, place, place] = 255
    result[:, place, place][:, ::2] = 0
    return result


def mixes(plain: Seen, labels: ClassIndices) -> dict[str, Seen]:
    """Plain test images in other proportions: one class more frequent than the others."""
    rng = np.random.default_rng(SEED)
    found = {}
    for times in (2, 4, 8):
        weights = np.where(labels == 0, times, 1.0)
        chosen = rng.choice(len(labels), MIXED, replace=False, p=weights / weights.sum())
        found[f"one class {times} times as frequent"] = plain.take(chosen)
    return found


def answers(engine: Engine, images: Images) -> Seen:
    """What the service would keep of `images`."""
    outputs, maps = outputs_and_maps(engine, images)
    assert maps is not None
    shares = engine.manifest.calibration.probabilities(outputs.logits)
    predicted = shares.argmax(1)
    right = None if images.labels[0] == STRANGE else predicted == images.labels
    predictions = [shares.max(1), scores(outputs), predicted.astype(np.float64)]
    return Seen(np.stack(predictions, axis=1), maps, right)


def fitted(engine: Engine, held_out: Images) -> Known:
    """The distributions that an export would put into the manifest."""
    predictions, aspects, _ = answers(engine, held_out)
    confidence, familiarity, classes = predictions.T
    count = len(engine.manifest.labels)
    known = fit_distribution(confidence, familiarity, classes.astype(np.int64), count)
    maps = fit_maps(aspects)
    if known is None or maps is None:
        raise click.ClickException("DATA holds too few images: 50 that the training held out")
    return Known(known, maps)


if __name__ == "__main__":
    main()
