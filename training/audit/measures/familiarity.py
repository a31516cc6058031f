"""Whether strange images are told from familiar ones: the area under the receiver operating characteristic, and the share that is found.

0.5 is a guess, 1.0 never errs. `rate` is the share of the strangers that the served threshold calls unfamiliar.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import roc_auc_score

from service.bundle.manifest import Manifest
from service.predictions import PredictionOptions, predict
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from training.audit.measures.out_of_distribution import Pixels


def familiarity(
    engine: Engine, familiar: Outputs, strange: Mapping[str, Pixels]
) -> Mapping[str, Any]:
    """Of the test images the share called familiar; of each kind of strangers, how well they are found."""
    known = engine.manifest.familiarity
    if known is None:
        return {}
    own = scores(familiar, engine.manifest)
    kinds = {
        kind: scores(engine.predict(pixels), engine.manifest) for kind, pixels in strange.items()
    }
    return {
        "evidence": known.evidence,
        "test_familiar": float((own >= known.threshold).mean()),
        "strangers": {
            kind: {
                "pictures": len(found),
                "auroc": auroc(own, found),
                "rate": float((found < known.threshold).mean()),
            }
            for kind, found in kinds.items()
        },
    }


def scores(found: Outputs, manifest: Manifest) -> Float64[np.ndarray, " rows"]:
    """The served score of every image."""
    told = [predict(row, manifest, PredictionOptions(1)).familiarity for row in found.rows()]
    return np.array([each.score for each in told if each is not None], np.float64)


def auroc(
    familiar: Float64[np.ndarray, " rows"], strange: Float64[np.ndarray, " strangers"]
) -> float:
    """The probability that a familiar image scores higher than a strange one."""
    return float(
        roc_auc_score(
            np.r_[np.ones(len(familiar)), np.zeros(len(strange))], np.r_[familiar, strange]
        )
    )
