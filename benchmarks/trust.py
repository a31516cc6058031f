"""Calibration, prediction sets and familiarity, measured over HTTP on every test image.

The figures are the calibration error in 15 bins of equally many images, the coverage of prediction
sets, the truth of the sentence of each set ("of sets like this one at least …"), and the area under
the ROC curve of familiarity for out-of-distribution images. All come from /predict of a real server
with default settings. The last figure is their cost: throughput beside a bundle without.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnx

from benchmarks.bulk import unpack
from service.bundle import folder as contract
from service.bundle.folder import PREDICT
from service.image import decode
from service.settings import EMBEDDED_BUNDLE
from support import arrivals, load
from support.arrivals import Answer
from support.load import Server, Wrk, table
from training.audit.measures.calibration import calibration_error
from training.audit.measures.familiarity import auroc
from training.audit.measures.out_of_distribution import out_of_distribution
from training.autodiff import prune
from training.data.read import read
from training.figures.intervals import wilson

OUT_OF_DISTRIBUTION, SEED = 1000, 0
COVERAGE, COVERAGES = "0.95", ("0.90", "0.95", "0.99")
CONNECTIONS, WARM_SECONDS = 16, 2


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--rounds",
    default=7,
    show_default=True,
    type=click.IntRange(1, 50),
    help="Interleaved rounds of the cost.",
)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=click.FloatRange(1, 60),
    help="Duration of one measurement of the cost.",
)
@click.option(
    "--model",
    "bundle",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=EMBEDDED_BUNDLE,
)
def main(data: Path, bundle: Path, rounds: int, seconds: float) -> None:
    """Prints the figures for the test images in the tar DATA."""
    load.stop_on_sigterm()
    labels = contract.load(bundle).manifest.labels
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = sorted(
            path for path in unpack(data, folder / "images").rglob("*") if path.is_file()
        )
        truth, bodies = (
            [labels.index(path.parent.name) for path in files],
            [path.read_bytes() for path in files],
        )
        with load.candor_running(folder, bundle, load.image("/predict", bodies[0])) as server:
            paths = {
                (
                    coverage,
                    kind,
                ): f"/predict?top_k={len(labels)}&coverage={coverage}&by_class={kind}"
                for coverage in COVERAGES
                for kind in ("false", "true")
            }
            every = {key: answers(server, path, bodies, "jpeg") for key, path in paths.items()}
            predicted = {kind: every[COVERAGE, kind] for kind in ("false", "true")}
            strange = {
                kind: answers(server, "/predict", pngs, "png") for kind, pngs in drawn(data, bundle)
            }
    click.echo(f"{len(files):,} test images over HTTP.\n")
    error = calibration_error(probabilities(predicted["false"], len(labels)), np.array(truth))
    click.echo(f"Expected calibration error (15 bins of equally many): {error:.2%}.\n")
    rows = [
        (kind, *covered(predicted[key], truth, labels))
        for key, kind in (("false", "over all"), ("true", "by class"))
    ]
    click.echo(table((f"prediction sets of {COVERAGE}", "cover", "worst class", "mean size"), rows))
    judged = {key: sentences(answered, truth) for key, answered in every.items()}
    shown = [entry.row() for kind in ("false", "true") for entry in judged[COVERAGE, kind]]
    click.echo("\n" + table(("the set", "says at least", "images", "held the class"), shown))
    said = [entry for entries in judged.values() for entry in entries]
    click.echo(
        f"\n{len(said)} sentences of {len(COVERAGES)} coverages and both kinds: "
        f"{sum(entry.high < entry.least for entry in said)} are contradicted by the interval of "
        f"their test images, {sum(entry.share >= entry.least for entry in said)} have a share that "
        "is not below the one that is said."
    )
    header = ("out of distribution", "images", "AUROC")
    click.echo("\n" + table(header, familiar(predicted["false"], strange)))
    click.echo("\n" + cost(bundle, rounds, seconds))


def answers(
    server: Server, path: str, bodies: Sequence[bytes], kind: str
) -> list[Mapping[str, Any]]:
    """The answers to all `bodies`, in order.

    Raises:
        RuntimeError: An answer is not 200, or missing.
    """
    received: list[Answer] = []
    requests = (load.image(path, body, kind).raw() for body in bodies)
    arrivals.run(arrivals.closed_loop(server.port, requests, CONNECTIONS, received.append))
    wrong = next((answer for answer in received if answer.status != 200), None)
    if wrong is not None or len(received) < len(bodies):
        raise RuntimeError(
            f"{len(received)} of {len(bodies)} requests were answered; wrong: {wrong}"
        )
    return [
        json.loads(answer.body) for answer in sorted(received, key=lambda answer: answer.number)
    ]


def drawn(data: Path, bundle: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Out-of-distribution images by kind, as PNGs, which are lossless."""
    spec = contract.load(bundle).manifest.input
    test = read(str(data), spec, seed=SEED).test
    for kind, pixels in out_of_distribution(test.pixels, spec, OUT_OF_DISTRIBUTION, SEED).items():
        yield kind, [decode.encode(image, "PNG") for image in pixels]


def probabilities(answered: Sequence[Mapping[str, Any]], classes: int) -> np.ndarray:
    """The probabilities of N answers: float64 (N, K)."""
    shares = np.zeros((len(answered), classes))
    for row, answer in enumerate(answered):
        for entry in answer["top"]:
            shares[row, entry["index"]] = entry["probability"]
    return shares


def covered(
    answered: Sequence[Mapping[str, Any]], truth: Sequence[int], labels: Sequence[str]
) -> tuple[str, str, str]:
    """The coverage of the sets, over all and of the worst class, and their mean size."""
    sets = [answer["prediction_set"]["labels"] for answer in answered]
    inside = np.array([labels[index] in held for index, held in zip(truth, sets, strict=True)])
    worst = min(float(inside[np.array(truth) == index].mean()) for index in range(len(labels)))
    return f"{inside.mean():.4f}", f"{worst:.4f}", f"{np.mean([len(held) for held in sets]):.2f}"


class Sentence(NamedTuple):
    """The words on `images` sets of one kind, and the share of them that held the true class.

    `least` is the share that is said, `high` the upper end of the interval of the `share`.
    """

    name: str
    least: float
    images: int
    share: float
    high: float

    def row(self) -> tuple[str, str, int, str]:
        """A row of the table."""
        return self.name, f"{self.least:.0%}", self.images, f"{self.share:.3f}"


def sentences(answered: Sequence[Mapping[str, Any]], truth: Sequence[int]) -> list[Sentence]:
    """The sentence of each size and of each class alone, against the test images that got it."""
    held: dict[tuple[str, float], list[bool]] = {}
    for answer, label in zip(answered, truth, strict=True):
        found = answer["prediction_set"]
        measured = found["measured"]
        name = f"classes: {measured['least_size']} to {measured['most_size'] or 'any'}"
        if measured["same_label"]:
            name = f"only {found['labels'][0]}"
        least = math.floor(100 * measured["interval"][0]) / 100  # as page and `why` say it
        held.setdefault((name, least), []).append(label in found["indices"])
    return [
        Sentence(name, least, len(rows), sum(rows) / len(rows), wilson(sum(rows), len(rows))[1])
        for (name, least), rows in sorted(held.items())
    ]


def familiar(
    own: Sequence[Mapping[str, Any]], strange: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[tuple[str, int, str]]:
    """A row for each kind of images."""
    scores = {
        kind: np.array([answer["familiarity"]["score"] for answer in answered])
        for kind, answered in strange.items()
    }
    test = np.array([answer["familiarity"]["score"] for answer in own])
    return [(kind, len(found), f"{auroc(test, found):.4f}") for kind, found in scores.items()]


def cost(bundle: Path, rounds: int, seconds: float) -> str:
    """A sentence on the throughput beside the same network without calibration, sets and the rest.

    Rounds of both are interleaved, both in float32: the bare bundle has no other graph.
    """
    mix = [(load.image("/predict", load.jpeg("32×32")), 1.0)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrk, bare = Wrk(folder), without_trust(bundle, folder / "bare")
        with (
            load.candor_running(
                _made(folder / "a"), bundle, mix[0][0], precision="float32"
            ) as whole,
            load.candor_running(_made(folder / "b"), bare, mix[0][0], precision="float32") as less,
        ):
            for server in (whole, less):
                wrk.drive(server.port, mix, CONNECTIONS, WARM_SECONDS)
            pairs = [
                [load.driven(wrk, server, mix, CONNECTIONS, seconds) for server in (whole, less)]
                for _ in range(rounds)
            ]
    rate = statistics.median(ours.rate / theirs.rate for (ours, _), (theirs, _) in pairs)
    spent = statistics.median(ours / theirs for (_, ours), (_, theirs) in pairs)
    return (
        f"Calibration, sets, familiarity and drift leave {rate:.3f} of the throughput without them,"
        f" by the clock, and a request takes {spent:.3f} times the processor time"
        f" ({CONNECTIONS} connections, medians of {rounds} interleaved rounds of {seconds:g} s)."
    )


def without_trust(bundle: Path, folder: Path) -> Path:
    """A bundle of the same network with classes and uncalibrated probabilities alone."""
    known = contract.load(bundle)
    graph = onnx.load_model_from_string(known.read(PREDICT))
    logits = next(output for output in graph.graph.output if output.name == "logits")
    del graph.graph.output[:]
    graph.graph.output.append(logits)
    prune(graph)
    files = {name: known.read(name) for name in (contract.GRADIENT, contract.CAM)} | {
        PREDICT: graph.SerializeToString()
    }
    manifest = replace(
        known.manifest,
        temperature=1.0,
        entropy_power=0.0,
        class_temperatures=(),
        features=None,
        prediction_sets=None,
        familiarity=None,
        distribution=None,
        int8=None,
    )
    return contract.write(folder, manifest, files).folder


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
