"""Familiarity: how well the score separates test images from images of other kinds.

`auroc`, the area under the receiver operating characteristic, is 0.5 for a guess and 1.0 without
errors. `rate` is the share of images of another kind that the served threshold calls unfamiliar.
The score was tuned with the kinds that the audit makes. It was not tuned with images that the
auditor gives, nor with the classes that are left out here.

`left_out` has every class as a stranger in turn: its test images against those of the other
classes, with the class left out of the reference images. These are near strangers, photographs of
the same kind. The network learnt its features with the class, though: a class that it never saw
is harder to detect.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from service.bundle.folder import REFERENCE, Bundle
from service.bundle.manifest import Manifest
from service.predictions import Familiarity, PredictionOptions, predict
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from training.audit.measures.out_of_distribution import AnyPixels
from training.data import ClassIndices
from training.figures.intervals import NORMAL, wilson
from training.reliability.familiarity import FAMILIAR_SHARE, Reference

Scores = Float64[np.ndarray, " rows"]


def familiarity(
    engine: Engine,
    familiar: Outputs,
    others: Mapping[str, AnyPixels],
    untuned: Collection[str] = (),
) -> Mapping[str, Any]:
    """The share of test images called familiar, and how well each kind of `others` is detected.

    `familiar` are the outputs for the test images; `untuned` names the kinds that nothing was tuned
    with.
    """
    known = engine.manifest.familiarity
    if known is None:
        return {}
    own = served(familiar, engine.manifest)
    kinds = {
        kind: served(engine.predict(images), engine.manifest) for kind, images in others.items()
    }
    called = [each.familiar for each in own]
    return {
        "evidence": known.evidence,
        "test_familiar": float(np.mean(called)),
        "test_familiar_interval": wilson(sum(called), len(called)),
        "strangers": {
            kind: {
                "pictures": len(answers),
                "tuned": kind not in untuned,
                **detected(scores(own), scores(answers), known.threshold),
            }
            for kind, answers in kinds.items()
        },
    }


def left_out(bundle: Bundle, familiar: Outputs, labels: ClassIndices) -> Mapping[str, Any]:
    """How well each class is detected if it is left out of the reference images.

    `familiar` are the outputs for the test images, of which `labels` are the classes. The threshold
    is that of the test images of the other classes. Nothing for a bundle without reference images.
    """
    known = bundle.manifest.familiarity
    if known is None or not bundle.has(REFERENCE) or familiar.features is None:
        return {}
    reference = Reference.read(bundle.read(REFERENCE))
    cosines = _directions(familiar.features) @ _directions(reference.features).T
    found = {
        bundle.manifest.name_of(index): _detected_class(
            cosines[:, reference.labels != index], labels == index, known.neighbours
        )
        for index in np.unique(labels).tolist()
        if known.neighbours <= (reference.labels != index).sum()
    }
    return {"left_out": found} if found else {}


def _detected_class(
    cosines: Float32[np.ndarray, "rows references"],
    strange: Bool[np.ndarray, " rows"],
    neighbours: int,
) -> Mapping[str, Any]:
    last = -np.partition(-cosines, neighbours - 1, axis=1)[:, neighbours - 1].astype(np.float64)
    threshold = float(np.quantile(last[~strange], 1 - FAMILIAR_SHARE))
    return {"pictures": int(strange.sum()), **detected(last[~strange], last[strange], threshold)}


def _directions(features: np.ndarray) -> Float32[np.ndarray, "rows features"]:
    values = features.astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


def served(outputs: Outputs, manifest: Manifest) -> list[Familiarity]:
    """The familiarity of every image, as the service answers it."""
    answers = (predict(row, manifest, PredictionOptions(1)).familiarity for row in outputs.rows())
    return [each for each in answers if each is not None]


def scores(answers: Sequence[Familiarity]) -> Scores:
    """The scores of these answers."""
    return np.array([each.score for each in answers], np.float64)


def detected(
    familiar: Scores, others: Float64[np.ndarray, " others"], threshold: float
) -> Mapping[str, Any]:
    """The area and the share below `threshold`, each with its interval."""
    below = others < threshold
    return {
        "auroc": auroc(familiar, others),
        "auroc_interval": auroc_interval(familiar, others),
        "rate": float(below.mean()),
        "rate_interval": wilson(int(below.sum()), len(below)),
    }


def auroc(familiar: Scores, others: Float64[np.ndarray, " others"]) -> float:
    """The probability that a familiar image scores higher than an image of another kind."""
    truth = np.r_[np.ones(len(familiar)), np.zeros(len(others))]
    return float(roc_auc_score(truth, np.r_[familiar, others]))


def auroc_interval(familiar: Scores, others: Float64[np.ndarray, " others"]) -> list[float]:
    """The interval of that area (DeLong, DeLong, Clarke-Pearson, Biometrics 1988), within 0…1."""
    if min(len(familiar), len(others)) < 2:  # noqa: PLR2004 - one image has no variance
        return [0.0, 1.0]
    # the share of the others below each familiar image, and of the familiar ones above each other
    together = rankdata(np.r_[familiar, others])
    own = (together[: len(familiar)] - rankdata(familiar)) / len(others)
    theirs = 1 - (together[len(familiar) :] - rankdata(others)) / len(familiar)
    error = np.sqrt(own.var(ddof=1) / len(own) + theirs.var(ddof=1) / len(theirs))
    area = own.mean()
    return [
        float(max(0.0, area - NORMAL * error)),
        float(min(1.0, area + NORMAL * error)),
    ]
