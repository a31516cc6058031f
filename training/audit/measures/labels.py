"""Test images with labels that may be wrong, for a person to look at.

Confident learning (Northcutt, Jiang, Chuang, JAIR 2021, arXiv 1911.00068): an image is suspect if
the model gives another class at least the mean probability that images of that class get. Suspects
are ranked by how much more probable that class is than the label.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64

from service.bundle.manifest import Manifest
from training.data import ClassIndices

MOST = 100


def label_issues(
    probabilities: Float64[np.ndarray, "rows classes"],
    labels: ClassIndices,
    names: np.ndarray,
    manifest: Manifest,
) -> list[dict[str, Any]]:
    """At most MOST suspects, the likeliest error first; `names` are those of the images."""
    # a class without test images has no usual probability, and no suspect is moved to it
    usual = np.array(
        [
            probabilities[labels == label, label].mean() if (labels == label).any() else 1.0
            for label in range(len(manifest.labels))
        ]
    )
    confident = np.where(probabilities >= usual, probabilities, 0.0)
    likely, own = confident.argmax(1), probabilities[np.arange(len(labels)), labels]
    suspect = np.flatnonzero((likely != labels) & (confident.max(1) > 0))
    lead = probabilities[suspect, likely[suspect]] - own[suspect]
    ranked = suspect[np.argsort(-lead, kind="stable")][:MOST]
    return [
        {
            "name": str(names[row]),
            "label": manifest.labels[labels[row]],
            "label_probability": float(own[row]),
            "likely": manifest.labels[likely[row]],
            "likely_probability": float(probabilities[row, likely[row]]),
        }
        for row in ranked.tolist()
    ]
