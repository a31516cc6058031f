"""Familiarity: how well the score separates test images from images of other kinds.

`auroc`, the area under the receiver operating characteristic, is 0.5 for a guess and 1.0 without
errors. `rate` is the share of images of another kind that the served threshold calls unfamiliar.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import roc_auc_score

from service.bundle.manifest import Manifest
from service.predictions import Familiarity, PredictionOptions, predict
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from training.audit.measures.out_of_distribution import AnyPixels


def familiarity(
    engine: Engine, familiar: Outputs, others: Mapping[str, AnyPixels]
) -> Mapping[str, Any]:
    """The share of test images called familiar, and how well each kind of `others` is detected.

    `familiar` are the outputs for the test images.
    """
    known = engine.manifest.familiarity
    if known is None:
        return {}
    own = served(familiar, engine.manifest)
    kinds = {
        kind: served(engine.predict(images), engine.manifest) for kind, images in others.items()
    }
    return {
        "evidence": known.evidence,
        "test_familiar": float(np.mean([each.familiar for each in own])),
        "strangers": {
            kind: {
                "pictures": len(answers),
                "auroc": auroc(scores(own), scores(answers)),
                "rate": float(np.mean([not each.familiar for each in answers])),
            }
            for kind, answers in kinds.items()
        },
    }


def served(outputs: Outputs, manifest: Manifest) -> list[Familiarity]:
    """The familiarity of every image, as the service answers it."""
    answers = (predict(row, manifest, PredictionOptions(1)).familiarity for row in outputs.rows())
    return [each for each in answers if each is not None]


def scores(answers: Sequence[Familiarity]) -> Float64[np.ndarray, " rows"]:
    """The scores of these answers."""
    return np.array([each.score for each in answers], np.float64)


def auroc(familiar: Float64[np.ndarray, " rows"], others: Float64[np.ndarray, " others"]) -> float:
    """The probability that a familiar image scores higher than an image of another kind."""
    truth = np.r_[np.ones(len(familiar)), np.zeros(len(others))]
    return float(roc_auc_score(truth, np.r_[familiar, others]))
