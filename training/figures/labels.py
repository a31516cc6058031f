"""Images with labels that may be wrong, for a person to look at.

Confident learning (Northcutt, Jiang, Chuang, JAIR 2021, arXiv 1911.00068): an image is suspect if
the model gives another class at least the mean probability that images of that class get. Suspects
are ranked by how much more probable that class is than the label. The model must not have learnt
from these images: it would agree with the labels that it has learnt.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from training.data import ClassIndices

MOST = 100


def label_issues(
    probabilities: Float[np.ndarray, "rows classes"],
    labels: ClassIndices,
    names: np.ndarray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """At most MOST suspects, the likeliest error first; `names` (N,) are those of the images."""
    own = probabilities[np.arange(len(labels)), labels]
    confident = np.where(probabilities >= _usual(own, labels, len(classes)), probabilities, 0.0)
    likely = confident.argmax(1)
    suspect = np.flatnonzero((likely != labels) & (confident.max(1) > 0))
    lead = probabilities[suspect, likely[suspect]] - own[suspect]
    ranked = suspect[np.argsort(-lead, kind="stable")][:MOST]
    return [
        {
            "name": str(names[row]),
            "label": classes[labels[row]],
            "label_probability": float(own[row]),
            "likely": classes[likely[row]],
            "likely_probability": float(probabilities[row, likely[row]]),
        }
        for row in ranked.tolist()
    ]


def _usual(
    own: Float[np.ndarray, " rows"], labels: ClassIndices, classes: int
) -> Float[np.ndarray, " classes"]:
    """The mean probability of its class that an image of each class gets."""
    count = np.bincount(labels, minlength=classes)
    # a class without images has no usual probability, and no suspect is moved to it
    return np.where(count > 0, np.bincount(labels, own, classes) / np.maximum(count, 1), 1.0)
