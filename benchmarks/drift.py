"""Drift indices of test images, plain, corrupted, mixed and out of distribution; and their cost.

The distribution is fitted here, on the held-out images of DATA, as an export fits it. An index is
that of one window of images drawn without replacement; of plain images, that of many windows.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from service.bundle.folder import load
from service.bundle.manifest import Distribution
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE
from service.telemetry.drift import ASPECTS, LEAST, WINDOW, Records, Window, drift
from support.load import table
from training.audit.measures.corruptions import corrupted
from training.audit.measures.out_of_distribution import out_of_distribution
from training.data.images import Images
from training.data.read import read
from training.reliability.distribution import fit_distribution
from training.reliability.familiarity import scores

SEED, WINDOWS = 0, 1000
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "brightness", "contrast", "jpeg")
SEVERITIES = (1, 3, 5)
ROUNDS = 30
PROCESSES = (1, 2, 16)


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
    dataset = read(data, engine.manifest.input, 5000, SEED)
    known = fitted(engine, dataset.validation)
    click.echo(table(("images", *ASPECTS, "accuracy"), list(rows(engine, dataset.test, known))))


def costs() -> str:
    """The cost of a request, and of a scrape beside full windows of several workers."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        window = Window(Path(name))
        lines.append(("a prediction", f"{least(lambda: window.add(0.9, 0.8, 3), 20_000):.2f} µs"))
        rng = np.random.default_rng(SEED)
        known = fit_distribution(
            rng.uniform(size=5000), rng.uniform(size=5000), rng.integers(0, 10, 5000), 10
        )
        full = next(Path(name).iterdir()).read_bytes()
        for processes in PROCESSES:
            for number in range(processes - 1):
                (Path(name) / f"{number}.window").write_bytes(full)
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


def rows(engine: Engine, test: Images, known: Distribution) -> Iterator[tuple[str, ...]]:
    """The rows of the table of indices."""
    rng = np.random.default_rng(SEED)
    plain, right = answers(engine, test.pixels, test.labels)
    for count in (LEAST, WINDOW):
        windows = [drift(plain[rng.permutation(len(plain))[:count]], known) for _ in range(WINDOWS)]
        for what, of in (("mean", np.mean), ("largest", np.max)):
            indices = (f"{of([found[aspect] for found in windows]):.3f}" for aspect in ASPECTS)
            yield (
                f"plain, {WINDOWS} windows of {count}: {what}",
                *indices,
                f"{right.mean():.3f}",
            )
    yield from mixes(plain, right, test.labels, known)
    chosen = test.take(rng.permutation(len(test))[:WINDOW])
    for name in tqdm(CORRUPTIONS, unit="kind", disable=None):
        for severity in SEVERITIES:
            yield line(
                f"{name} {severity}",
                *answers(engine, corrupted(name, severity, chosen.pixels, SEED), chosen.labels),
                known,
            )
    for name, pixels in out_of_distribution(
        chosen.pixels, engine.manifest.input, WINDOW, SEED
    ).items():
        yield (
            *line(name, *answers(engine, pixels, np.zeros(len(pixels), np.int64)), known)[:-1],
            "–",
        )


def mixes(
    plain: Records, right: np.ndarray, labels: np.ndarray, known: Distribution
) -> Iterator[tuple[str, ...]]:
    """Plain test images in other proportions: one class more frequent than the others."""
    rng = np.random.default_rng(SEED)
    for times in (2, 4, 8):
        weights = np.where(labels == 0, times, 1.0)
        chosen = rng.choice(len(plain), WINDOW, replace=False, p=weights / weights.sum())
        yield line(f"one class {times} times as frequent", plain[chosen], right[chosen], known)


def line(what: str, records: Records, right: np.ndarray, known: Distribution) -> tuple[str, ...]:
    """The row of one window."""
    return (
        what,
        *(f"{index:.3f}" for index in drift(records, known).values()),
        f"{right.mean():.3f}",
    )


def answers(engine: Engine, pixels: np.ndarray, labels: np.ndarray) -> tuple[Records, np.ndarray]:
    """The records, (N, 4), that the service would keep of images uint8 (N, H, W, 3).

    With them a bool (N,): whether the prediction is right.
    """
    found = engine.predict(pixels)
    shares = engine.manifest.calibration.probabilities(found.logits)
    predicted = shares.argmax(1)
    return np.stack(
        [np.ones(len(pixels)), shares.max(1), scores(found), predicted.astype(np.float64)], axis=1
    ), predicted == labels


def fitted(engine: Engine, held_out: Images) -> Distribution:
    """The distribution that an export would put into the manifest."""
    records, _ = answers(engine, held_out.pixels, held_out.labels)
    known = fit_distribution(
        records[:, 1], records[:, 2], records[:, 3].astype(np.int64), len(engine.manifest.labels)
    )
    assert known is not None
    return known


if __name__ == "__main__":
    main()
