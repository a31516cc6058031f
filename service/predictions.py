"""Logits → what a caller reads: calibrated probabilities, the classes that may be meant, and whether the image is a familiar one.

A prediction set holds the classes whose probability is not below a threshold, and
the most probable one in any case. Familiarity is a score from the nearest training images or from the logits, with a threshold. All
thresholds are in the manifest; docs/trust.md says what they promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from service.bundle.manifest import Manifest
from service.bundle.reference import Nearest
from service.errors import InvalidParameter, short
from service.runtime.engine import Logits, OutputRow

TOP_K = 3
COVERAGE = "0.95"


@dataclass(frozen=True)
class PredictionOptions:
    """What a caller wants to read: `top_k` classes, the set that has a `coverage`, `by_class` or over all, and `nearest` reference images."""

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
    """The `labels`, most probable first, among which the true one is with probability `coverage`; of each class if `by_class`."""

    labels: tuple[str, ...]
    coverage: float
    by_class: bool


class Familiarity(NamedTuple):
    """How like the images of the training this one is: a `score`, and the `threshold` that 5 % of held-out images are below."""

    score: float
    threshold: float

    @property
    def familiar(self) -> bool:
        """Whether it is not below the threshold."""
        return self.score >= self.threshold


class Prediction(NamedTuple):
    """The classes of one image, most probable first; `logits` float32 (K,) as the network gave them, and the `temperature` that divided them.

    What the bundle cannot tell is None; of the `nearest` reference images as many are there as were asked for.
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
    """What predict.onnx says of one image, the `temperature` of its logits, its `shares` (K,), and the classes in their `order`."""

    row: OutputRow
    temperature: float
    shares: list[float]
    order: list[int]


def calibrate(rows: Sequence[OutputRow], logits: Logits, manifest: Manifest) -> list[Calibrated]:
    """The probabilities of several images at once, which takes little more than those of one; `logits` are those of the `rows`.

    Of equally probable classes the first in the order of the labels comes first.
    """
    temperatures, shares = manifest.calibration.applied(logits)
    orders = (-shares).argsort(-1, "stable")
    told = zip(rows, temperatures[:, 0].tolist(), shares.tolist(), orders.tolist(), strict=True)
    return [Calibrated(*one) for one in told]


def predict(
    row: OutputRow, manifest: Manifest, asked: PredictionOptions = PredictionOptions()
) -> Prediction:
    """What is `asked` of one image."""
    return prediction_of(calibrate([row], row.logits[None], manifest)[0], manifest, asked)


def prediction_of(found: Calibrated, manifest: Manifest, asked: PredictionOptions) -> Prediction:
    """What is `asked` of an image whose probabilities are known."""
    row, temperature, shares, order = found
    top = tuple(
        Class(manifest.labels[index], index, shares[index]) for index in order[: asked.top_k]
    )
    kinds = _set(order, shares, manifest, asked), _familiarity(row, manifest), _nearest(row, asked)
    return Prediction(top, row.logits, temperature, *kinds)


def _set(
    order: list[int], shares: list[float], manifest: Manifest, asked: PredictionOptions
) -> PredictionSet | None:
    sets = manifest.prediction_sets
    if sets is None:
        return None
    if asked.by_class:
        thresholds = sets.by_class[asked.coverage]
        held = [index for index in order if shares[index] >= thresholds[index]]
    else:
        threshold = sets.marginal[asked.coverage]
        held = [index for index in order if shares[index] >= threshold]
    return PredictionSet(
        tuple(manifest.labels[index] for index in held or order[:1]),
        float(asked.coverage),
        asked.by_class,
    )


def _familiarity(row: OutputRow, manifest: Manifest) -> Familiarity | None:
    known = manifest.familiarity
    if known is None:
        return None
    score = float(row.similarity[-1]) if row.similarity is not None else energy(row.logits)
    return Familiarity(score, known.threshold)


def _nearest(row: OutputRow, asked: PredictionOptions) -> tuple[Nearest, ...]:
    if not asked.nearest or row.similarity is None or row.neighbour is None:
        return ()
    pairs = zip(row.neighbour.tolist(), row.similarity.tolist(), strict=True)
    return tuple(Nearest(*pair) for pair in pairs)[: asked.nearest]


def energy(logits: Float32[np.ndarray, " classes"]) -> float:
    """Log Σ exp(logits): high for images like those of the training (Liu et al., NeurIPS 2020, arXiv 2010.03759)."""
    values = logits.astype(np.float64)
    most = values.max()
    return float(most + np.log(np.exp(values - most).sum()))


def check_top_k(top_k: int, manifest: Manifest) -> int:
    """`top_k` if the model has so many classes.

    Raises:
        InvalidParameter: it is below 1 or above the number of classes.
    """
    if not 1 <= top_k <= len(manifest.labels):
        raise InvalidParameter(
            f"top_k is {top_k}; the model has {len(manifest.labels)} classes: ask for 1 to {len(manifest.labels)}"
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
    """`nearest` if the model knows so many reference images.

    Raises:
        InvalidParameter: it does not.
    """
    known = manifest.familiarity.neighbours if manifest.familiarity else 0
    if not known and nearest:
        raise InvalidParameter(
            f"nearest is {nearest}, and this model has no reference images: leave it out"
        )
    if not 0 <= nearest <= known:
        raise InvalidParameter(f"nearest is {nearest}; give 0 to {known}")
    return nearest


def find_class(target: str, manifest: Manifest) -> int:
    """The index of the class that `target` names, by label or by number.

    Raises:
        InvalidParameter: there is no such class.
    """
    if target in manifest.labels:
        return manifest.labels.index(target)
    if target.isdecimal() and int(target) < len(manifest.labels):
        return int(target)
    shown = ", ".join(manifest.labels[:20]) + (", …" if len(manifest.labels) > 20 else "")  # noqa: PLR2004
    raise InvalidParameter(
        f"target is {short(target)}; name a label ({shown}) or an index from 0 to {len(manifest.labels) - 1}"
    )
