"""Logits → probabilities that mean what they say: of the images that get 0.8, about eight in ten are right.

Concept: softmax(logits / T), and T is the image's own: `temperature` · H^`entropy_power`, where H is the entropy of softmax(logits) as a
share of the most there can be, log K. A power of 0 is the plain temperature of Guo et al. (ICML 2017, arXiv 1706.04599); above 0, what the
network is sure of is trusted more than what it doubts (after Balanya, Maroñas, Ramos, arXiv 2208.00461, who put a softplus around it).

Law: the classes keep the order of their logits, so no decision changes.
"""

import math
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
        """What divides the logits of each image."""
        return self._temperatures(_below_most(logits))

    def probabilities(self, logits: Logits) -> Float64[np.ndarray, "*rows classes"]:
        """The calibrated probabilities of the classes."""
        return self.applied(logits)[1]

    def applied(
        self, logits: Logits
    ) -> tuple[Float64[np.ndarray, "*rows 1"], Float64[np.ndarray, "*rows classes"]]:
        """Temperatures and probabilities."""
        below = _below_most(logits)
        temperatures = self._temperatures(below)
        raised = np.exp(below / temperatures)
        return temperatures, np.asarray(raised / np.add.reduce(raised, -1, keepdims=True))

    def _temperatures(
        self, below: Float64[np.ndarray, "*rows classes"]
    ) -> Float64[np.ndarray, "*rows 1"]:
        if not self.entropy_power:
            return np.full((*below.shape[:-1], 1), self.temperature)
        return np.asarray(
            self.temperature * np.maximum(_entropy(below), LEAST_ENTROPY) ** self.entropy_power
        )


def _below_most(logits: Logits) -> Float64[np.ndarray, "*rows classes"]:
    """How far each logit is below the largest of its image."""
    return np.asarray(logits.astype(np.float64) - np.maximum.reduce(logits, -1, keepdims=True))


def _entropy(below: Float64[np.ndarray, "*rows classes"]) -> Float64[np.ndarray, "*rows 1"]:
    """The entropy of softmax(`below`) as a share of log K, 0…1."""
    raised = np.exp(below)
    total = np.add.reduce(raised, -1, keepdims=True)
    return np.asarray(
        (np.log(total) - np.add.reduce(raised * below, -1, keepdims=True) / total)
        / math.log(below.shape[-1])
    )
