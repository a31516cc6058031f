"""Logits → a prediction: calibrated probabilities, a prediction set, and familiarity.

A prediction set holds the classes whose probability is at least a threshold, and always the most
probable class. Familiarity is a score, of the nearest reference images or of the logits, and a
threshold. The thresholds are in the manifest; docs/trust.md states what they promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from service.bundle.manifest import Manifest
from service.bundle.reference import Nearest
from service.errors import InvalidParameter, short
from service.runtime.graphs import Logits, OutputRow

TOP_K = 3
COVERAGE = "0.95"
SHOWN_LABELS = 20  # of a model with more classes, in a message


@dataclass(frozen=True)
class PredictionOptions:
    """The parts of a prediction: `top_k` classes, a set, and `nearest` reference images.

    The set has a `coverage` over all classes, or of each class if `by_class`.
    """

    top_k: int = TOP_K
    coverage: str = COVERAGE
    by_class: bool = False
    nearest: int = 0


@dataclass(slots=True)
class Class:
    """One class with its calibrated probability in 0…1."""

    label: str
    index: int
    probability: float


class PredictionSet(NamedTuple):
    """The `labels`, most probable first, that hold the true one with probability `coverage`.

    With `by_class` that holds for the images of each class.
    """

    labels: tuple[str, ...]
    coverage: float
    by_class: bool


class Familiarity(NamedTuple):
    """The likeness to the training images, as a `score`.

    The `threshold` is fitted so that 5 % of the held-out images are below it.
    """

    score: float
    threshold: float

    @property
    def familiar(self) -> bool:
        """True if the score is at least the threshold."""
        return self.score >= self.threshold


class Prediction(NamedTuple):
    """The `top` classes of one image, most probable first, with what they were made from.

    `logits` float32 (K,) are those of the network; `temperature` divided them. A part for which the
    bundle has no figures is None; `nearest` has as many reference images as were requested.
    """

    top: tuple[Class, ...]
    logits: Float32[np.ndarray, " classes"]
    temperature: float
    prediction_set: PredictionSet | None = None
    familiarity: Familiarity | None = None
    nearest: tuple[Nearest, ...] = ()

    @property
    def best(self) -> Class:
        """The predicted class."""
        return self.top[0]


class Calibrated(NamedTuple):
    """One image with all `probabilities` (K,), in the order of the labels.

    `row` are the outputs of predict.onnx, `temperature` divided its logits, and `order` (K,) holds
    the class indices, most probable first.
    """

    row: OutputRow
    temperature: float
    probabilities: list[float]
    order: list[int]


def calibrate(rows: Sequence[OutputRow], logits: Logits, manifest: Manifest) -> list[Calibrated]:
    """The calibrated probabilities of `rows`, which have the `logits` (N, K).

    Equally probable classes keep the order of the labels.
    """
    # Several images at once take little longer than one.
    temperatures, probabilities = manifest.calibration.applied(logits)
    orders = (-probabilities).argsort(-1, "stable")
    columns = temperatures[:, 0].tolist(), probabilities.tolist(), orders.tolist()
    return [Calibrated(*image) for image in zip(rows, *columns, strict=True)]


def predict(
    row: OutputRow, manifest: Manifest, options: PredictionOptions = PredictionOptions()
) -> Prediction:
    """The prediction of one image from the outputs of predict.onnx."""
    return prediction_of(calibrate([row], row.logits[None], manifest)[0], manifest, options)


def prediction_of(
    calibrated: Calibrated, manifest: Manifest, options: PredictionOptions
) -> Prediction:
    """The prediction of one image whose probabilities are known."""
    row, temperature, probabilities, order = calibrated
    top = tuple(
        Class(manifest.labels[index], index, probabilities[index])
        for index in order[: options.top_k]
    )
    return Prediction(
        top,
        row.logits,
        temperature,
        _set(order, probabilities, manifest, options),
        _familiarity(row, manifest),
        _nearest(row, options),
    )


def _set(
    order: list[int], probabilities: list[float], manifest: Manifest, options: PredictionOptions
) -> PredictionSet | None:
    sets = manifest.prediction_sets
    if sets is None:
        return None
    if options.by_class:
        thresholds = sets.by_class[options.coverage]
        members = [index for index in order if probabilities[index] >= thresholds[index]]
    else:
        threshold = sets.marginal[options.coverage]
        members = [index for index in order if probabilities[index] >= threshold]
    # An empty set would keep the promised coverage, and be of no use.
    labels = tuple(manifest.labels[index] for index in members or order[:1])
    return PredictionSet(labels, float(options.coverage), options.by_class)


def _familiarity(row: OutputRow, manifest: Manifest) -> Familiarity | None:
    if manifest.familiarity is None:
        return None
    # The farthest of the k nearest: a single near image may be a chance.
    score = float(row.similarity[-1]) if row.similarity is not None else energy(row.logits)
    return Familiarity(score, manifest.familiarity.threshold)


def _nearest(row: OutputRow, options: PredictionOptions) -> tuple[Nearest, ...]:
    if not options.nearest or row.similarity is None or row.neighbour is None:
        return ()
    pairs = zip(row.neighbour.tolist(), row.similarity.tolist(), strict=True)
    return tuple(Nearest(*pair) for pair in pairs)[: options.nearest]


def energy(logits: Float32[np.ndarray, " classes"]) -> float:
    """Log Σ exp(logits), high for images like the training images.

    Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, arXiv 2010.03759.
    """
    values = logits.astype(np.float64)
    largest = values.max()  # keeps exp from overflowing
    return float(largest + np.log(np.exp(values - largest).sum()))


def check_top_k(top_k: int, manifest: Manifest) -> int:
    """`top_k`, if the model has that many classes.

    Raises:
        InvalidParameter: it is below 1 or above the number of classes.
    """
    classes = len(manifest.labels)
    if not 1 <= top_k <= classes:
        raise InvalidParameter(
            f"top_k is {top_k}; the model has {classes} classes: ask for 1 to {classes}"
        )
    return top_k


def check_coverage(coverage: str, manifest: Manifest) -> str:
    """`coverage` as the manifest writes it.

    Raises:
        InvalidParameter: the model has no prediction sets, or none of that coverage.
    """
    if manifest.prediction_sets is None:
        raise InvalidParameter(
            f"coverage is {short(coverage)}, and this model has no prediction sets: leave it out"
        )
    known = {float(key): key for key in manifest.prediction_sets.marginal}
    try:
        return known[float(coverage)]
    except (ValueError, KeyError):
        raise InvalidParameter(
            f"coverage is {short(coverage)}; it is one of {', '.join(known.values())}"
        ) from None


def check_nearest(nearest: int, manifest: Manifest) -> int:
    """`nearest`, if the model gives that many reference images.

    Raises:
        InvalidParameter: it gives fewer, or none.
    """
    most = manifest.familiarity.neighbours if manifest.familiarity else 0
    if not most and nearest:
        raise InvalidParameter(
            f"nearest is {nearest}, and this model has no reference images: leave it out"
        )
    if not 0 <= nearest <= most:
        raise InvalidParameter(f"nearest is {nearest}; give 0 to {most}")
    return nearest


def find_class(target: str, manifest: Manifest) -> int:
    """The index of the class `target`: a label, or else an index.

    Raises:
        InvalidParameter: there is no such class.
    """
    # A label first: the classes of MNIST are called 0 to 9, and need not be in that order.
    if target in manifest.labels:
        return manifest.labels.index(target)
    if target.isdecimal() and int(target) < len(manifest.labels):
        return int(target)
    more = ", …" if len(manifest.labels) > SHOWN_LABELS else ""
    raise InvalidParameter(
        f"target is {short(target)}; name a label "
        f"({', '.join(manifest.labels[:SHOWN_LABELS])}{more}) or an index from 0 to "
        f"{len(manifest.labels) - 1}"
    )
