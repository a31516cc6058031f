"""Whether prediction sets keep their promise on the test images, over all and class by class, and how large they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from service.bundle.manifest import Manifest

Members = Bool[np.ndarray, "rows classes"]


def sets(
    probabilities: Float64[np.ndarray, "rows classes"],
    labels: Int64[np.ndarray, " rows"],
    manifest: Manifest,
) -> Mapping[str, Any]:
    """By coverage: what the marginal sets and those by class cover, of all and of the worst class, and their mean size."""
    known = manifest.prediction_sets
    if known is None:
        return {}
    kinds = {"marginal": known.marginal, "by_class": known.by_class}
    return {
        coverage: {
            kind: _kept(members(probabilities, np.asarray(found[coverage])), labels, manifest)
            for kind, found in kinds.items()
        }
        for coverage in known.marginal
    }


def members(probabilities: Float64[np.ndarray, "rows classes"], thresholds: np.ndarray) -> Members:
    """Which classes are in each set, the most probable one in any case: as `service.predictions` says."""
    held = probabilities >= thresholds
    held[np.arange(len(held)), probabilities.argmax(1)] |= ~held.any(1)
    return held


def _kept(
    held: Members, labels: Int64[np.ndarray, " rows"], manifest: Manifest
) -> Mapping[str, Any]:
    inside, sizes = held[np.arange(len(labels)), labels], held.sum(1)
    by_class = {
        name: float(inside[labels == index].mean())
        for index, name in enumerate(manifest.labels)
        if (labels == index).any()
    }
    return {
        "coverage": float(inside.mean()),
        "worst_class": min(by_class.values()),
        "by_class": by_class,
        "mean_size": float(sizes.mean()),
        "alone": float((sizes == 1).mean()),
    }
