"""Logits → probabilities that mean what they say: of the pictures that get 0.8, about eight in ten are right.

Concept: softmax(logits / T), and T is the picture's own: `temperature` · H^`entropy_power`, where H is the entropy of softmax(logits) as a
share of the most there can be, log K. A power of 0 is the plain temperature of Guo et al. (ICML 2017, arXiv 1706.04599); above 0, what the
network is sure of is trusted more than what it doubts (after Balanya, Maroñas, Ramos, arXiv 2208.00461, who put a softplus around it).

Law: the classes keep the order of their logits, so no decision changes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num

LEAST_ENTROPY = 1e-6  # as a share: what a float32 network can still tell from none

Logits = Num[np.ndarray, "*rows classes"]


@dataclass(frozen=True)
class Calibration:
    """The two numbers: `temperature` above 0, `entropy_power` in 0…1."""

    temperature: float = 1.0
    entropy_power: float = 0.0

    def temperatures(self, logits: Logits) -> Float64[np.ndarray, "*rows 1"]:
        """What divides the logits of each picture."""
        if not self.entropy_power:
            return np.full((*logits.shape[:-1], 1), self.temperature)
        return np.asarray(self.temperature * np.maximum(entropy(logits), LEAST_ENTROPY) ** self.entropy_power)

    def probabilities(self, logits: Logits) -> Float64[np.ndarray, "*rows classes"]:
        """The calibrated probabilities of the classes."""
        return softmax(logits / self.temperatures(logits))


def entropy(logits: Logits) -> Float64[np.ndarray, "*rows 1"]:
    """The entropy of softmax(logits) as a share of log K, 0…1."""
    below = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    raised = np.exp(below)
    total = raised.sum(-1, keepdims=True)
    return np.asarray((np.log(total) - (raised * below).sum(-1, keepdims=True) / total) / np.log(logits.shape[-1]))


def softmax(logits: Logits) -> Float64[np.ndarray, "*rows classes"]:
    """exp(logits) as shares of their sum, along the last axis."""
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))
