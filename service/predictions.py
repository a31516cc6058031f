"""Logits → what a caller reads: calibrated probabilities and the labels that they belong to.

Probabilities are softmax(logits / temperature), the temperature fitted on pictures held out of training (Guo et al., "On Calibration
of Modern Neural Networks", ICML 2017, arXiv 1706.04599).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from service.bundle import Manifest
from service.errors import InvalidParameter, short

TOP_K = 3


@dataclass(frozen=True)
class Class:
    """One class with its calibrated probability in 0…1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The classes of one picture, most probable first; `logits` float32 (K,) as the network gave them."""

    top: tuple[Class, ...]
    logits: Float32[np.ndarray, " classes"]

    @property
    def best(self) -> Class:
        """The predicted class."""
        return self.top[0]


def predict(logits: Float32[np.ndarray, " classes"], manifest: Manifest, top_k: int = TOP_K) -> Prediction:
    """The `top_k` most probable classes of one row of logits; of equal ones the first in the order of the labels."""
    share = probabilities(logits, manifest.temperature)
    order, shares = np.argsort(-share, kind="stable")[:top_k].tolist(), share.tolist()
    return Prediction(tuple(Class(manifest.labels[index], index, shares[index]) for index in order), logits)


def probabilities(logits: Float32[np.ndarray, "*rows classes"], temperature: float) -> Float64[np.ndarray, "*rows classes"]:
    """softmax(logits / temperature) along the last axis, float64."""
    scaled = logits.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


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
    raise InvalidParameter(f"target is {short(target)}; name a label ({shown}) or an index from 0 to {len(manifest.labels) - 1}")
