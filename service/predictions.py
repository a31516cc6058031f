"""Logits → a prediction: calibrated probabilities, a prediction set, and familiarity.

Where the classes do not exclude each other (multi-label), the prediction is a list: every class
with a probability of at least LIKELY, which may be none.

A prediction set holds the classes whose probability is at least a threshold, and always the most
probable class; in a multi-label model each class is a member for itself, and a set may be empty.
Familiarity is a score, of the nearest reference images or of the logits, and a
threshold. The thresholds are in the manifest; docs/trust.md states what they promise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from service.bundle.manifest import Manifest
from service.bundle.prediction_sets import Counted
from service.bundle.reference import Nearest
from service.errors import SHOWN, InvalidParameter, short
from service.runtime.graphs import Logits, OutputRow

TOP_K, MOST_TOP_K = 3, 1000
LIKELY = 0.5  # where a sigmoid's class is as probable as its absence
COVERAGE = "0.95"
SET_LABELS = 100  # listed of a prediction set; a larger top_k lists more
MOST_CLASSES = 100  # named by a request
SHOWN_LABELS = 20  # of a model with more classes, in a message
MOST_COMPARED = 100  # with a label that is misspelt
SORTED_CLASSES = 128  # of fewer, all are sorted
MOST_DIGITS = 9  # of an index

Probabilities = Float64[np.ndarray, " classes"]
Indices = Int64[np.ndarray, " indices"]


@dataclass(frozen=True)
class PredictionOptions:
    """The parts of a prediction: `top_k` classes, those of the indices `classes`, a set, and
    `nearest` reference images.

    The set has a `coverage` over all classes, or of each class if `by_class`.
    """

    top_k: int = TOP_K
    coverage: str = COVERAGE
    by_class: bool = False
    nearest: int = 0
    classes: tuple[int, ...] = ()


@dataclass(slots=True)
class Class:
    """One class with its calibrated probability in 0…1."""

    label: str
    index: int
    probability: float


class PredictionSet(NamedTuple):
    """The classes that may be the true one, most probable first.

    Of the sets of all images a share `coverage` holds the true class. Sets of one class hold it
    more often than large ones: `counted` are the held-out images' sets like this one, if they were
    counted. In a multi-label model each class is in it for so many of the images that have it.

    `labels` are those of the first SET_LABELS or `top_k`, whichever is more; `indices` int64 (n,)
    are all. With `by_class` the coverage holds for the images of each class.
    """

    labels: tuple[str, ...]
    coverage: float
    by_class: bool
    indices: Indices
    counted: Counted | None = None


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

    `logits` float32 (K,) are those of the network; `temperature` divided them. `activation` is that
    of the last layer, if a class activation map follows. A part for which the bundle has no figures
    is None; `nearest` has as many reference images as were requested, and `classes` the classes.
    `likely` are the first SET_LABELS or `top_k` of the classes from LIKELY on, most probable first;
    None where an image has one class.
    """

    top: tuple[Class, ...]
    logits: Float32[np.ndarray, " classes"]
    temperature: float
    prediction_set: PredictionSet | None = None
    familiarity: Familiarity | None = None
    nearest: tuple[Nearest, ...] = ()
    classes: tuple[Class, ...] = ()
    likely: tuple[Class, ...] | None = None
    activation: Float32[np.ndarray, "channels height width"] | None = None

    @property
    def best(self) -> Class:
        """The predicted class; the most probable one, if an image may have several."""
        return self.top[0]


class Calibrated(NamedTuple):
    """One image with all `probabilities` float64 (K,), in the order of the labels.

    `row` are the outputs of predict.onnx; `temperature` divided its logits.
    """

    row: OutputRow
    temperature: float
    probabilities: Probabilities


def calibrate(rows: Sequence[OutputRow], logits: Logits, manifest: Manifest) -> list[Calibrated]:
    """The calibrated probabilities of `rows`, which have the `logits` (N, K)."""
    # Several images at once take little longer than one.
    temperatures, probabilities = manifest.calibration.applied(logits)
    columns = temperatures[:, 0].tolist(), probabilities
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
    row, temperature, probabilities = calibrated

    def classes(indices: Iterable[int]) -> tuple[Class, ...]:
        return tuple(
            Class(manifest.labels[index], index, float(probabilities[index])) for index in indices
        )

    return Prediction(
        classes(most_probable(probabilities, options.top_k).tolist()),
        row.logits,
        temperature,
        _set(probabilities, manifest, options),
        _familiarity(row, manifest),
        _nearest(row, options),
        classes(options.classes),
        classes(_likely(probabilities, options)) if manifest.is_multi_label else None,
        row.activation,
    )


def most_probable(probabilities: Probabilities, count: int) -> Indices:
    """The indices (count,) of the most probable classes, most probable first.

    Equally probable classes keep the order of the labels.
    """
    # To sort some thousand classes takes a millisecond, to find the largest of them a tenth.
    if len(probabilities) <= SORTED_CLASSES:
        return np.asarray((-probabilities).argsort(kind="stable")[:count])
    least = np.partition(probabilities, -count)[-count]
    # NaN, of a network that overflows, is not below anything.
    return _ordered(np.flatnonzero(~(probabilities < least)), probabilities)[:count]


def _likely(probabilities: Probabilities, options: PredictionOptions) -> list[int]:
    members = _ordered(np.flatnonzero(probabilities >= LIKELY), probabilities)
    return list(members[: max(SET_LABELS, options.top_k)].tolist())


def _ordered(indices: Indices, probabilities: Probabilities) -> Indices:
    return np.asarray(indices[(-probabilities[indices]).argsort(kind="stable")])


def _set(
    probabilities: Probabilities, manifest: Manifest, options: PredictionOptions
) -> PredictionSet | None:
    sets = manifest.prediction_sets
    if sets is None:
        return None
    by_class = options.by_class or manifest.is_multi_label
    thresholds = sets.thresholds(options.coverage, by_class=by_class)
    members = np.flatnonzero(probabilities >= thresholds)
    if not len(members) and not manifest.is_multi_label:
        # An empty set would keep the promised coverage, and be of no use.
        members = np.array([probabilities.argmax()])
    indices = _ordered(members, probabilities)
    listed = indices[: max(SET_LABELS, options.top_k)].tolist()
    labels = tuple(manifest.labels[index] for index in listed)
    counted = (
        sets.like(len(indices), int(indices[0]), options.coverage, by_class=by_class)
        if len(indices)
        else None
    )
    return PredictionSet(labels, float(options.coverage), by_class, indices, counted)


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
        InvalidParameter: it is below 1, or above the number of classes or MOST_TOP_K.
    """
    classes, most = len(manifest.labels), most_top_k(manifest)
    if not 1 <= top_k <= most:
        rest = "" if most == classes else ", or for the output `probabilities` of /v2"
        raise InvalidParameter(
            f"top_k is {top_k}; the model has {classes:,} classes: ask for 1 to {most:,}{rest}"
        )
    return top_k


def most_top_k(manifest: Manifest) -> int:
    """The largest `top_k`: the number of classes, at most MOST_TOP_K."""
    return min(MOST_TOP_K, len(manifest.labels))


def check_coverage(coverage: str, manifest: Manifest) -> str:
    """`coverage` as the manifest writes it.

    Raises:
        InvalidParameter: the model has no prediction sets, or none of that coverage.
    """
    if manifest.prediction_sets is None:
        raise InvalidParameter(
            f"coverage is {short(coverage)}, and this model has no prediction sets: leave it out"
        )
    known = {float(key): key for key in manifest.prediction_sets.coverages}
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


def find_classes(given: str, manifest: Manifest, name: str = "classes") -> tuple[int, ...]:
    """The indices of the classes `given`: labels or indices, with commas between them.

    Raises:
        InvalidParameter: there is no such class, or a label is that of several classes; `name` is
            the parameter in its message.
    """
    # A label may hold a comma itself.
    if given in manifest.classes_of:
        return (find_class(given, manifest, name),)
    parts = given.split(",", MOST_CLASSES)
    if len(parts) > MOST_CLASSES:
        raise InvalidParameter(f"{name} has more than {MOST_CLASSES} classes: name fewer")
    return tuple(find_class(part.strip(), manifest, name) for part in parts)


def find_class(target: str, manifest: Manifest, name: str = "target") -> int:
    """The index of the class `target`: a label, or else an index.

    Raises:
        InvalidParameter: there is no such class, or a label is that of several classes; `name` is
            the parameter in its message.
    """
    # A label first: the classes of MNIST are called 0 to 9, and need not be in that order.
    found = manifest.classes_of.get(target, ())
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(map(str, found[:SHOWN_LABELS]))
        raise InvalidParameter(
            f"{name} is {short(target)}, the label of {len(found):,} classes: "
            f"give the index of one of them, such as {listed}"
        )
    if target.isdecimal() and len(target) <= MOST_DIGITS and int(target) < len(manifest.labels):
        return int(target)
    more = ", …" if len(manifest.labels) > SHOWN_LABELS else ""
    like = _like(target[:SHOWN].lower(), manifest.labels)
    meant = f": did you mean {like}? Name a label" if like else "; name a label"
    raise InvalidParameter(
        f"{name} is {short(target)}{meant} "
        f"({', '.join(manifest.labels[:SHOWN_LABELS])}{more}) or an index from 0 to "
        f"{len(manifest.labels) - 1}"
    )


def _like(target: str, labels: Sequence[str]) -> str | None:
    """The label that `target`, in lower case, may stand for."""
    lower = {label.lower(): label for label in labels}
    if target in lower:
        return lower[target]
    # Of thousands of labels the comparison would take a second.
    found = get_close_matches(target, list(lower)[:MOST_COMPARED], 1)
    return lower[found[0]] if found else None
