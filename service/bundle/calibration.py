"""Logits → calibrated probabilities: of the images that get 0.8, about eight in ten are right.

Probabilities are softmax(logits / T). T depends on the image: `temperature` · H^`entropy_power`,
with H the entropy of softmax(logits) as a share of log K, the largest possible. A power of 0 is the
plain temperature of Guo et al. (ICML 2017, arXiv 1706.04599). A power above 0 trusts the images
that the network is sure of more than the others (after Balanya, Maroñas, Ramos, arXiv 2208.00461,
without their softplus).

A network may be too sure of its dogs and not sure enough of its horses, which one T cannot correct.
T then has a factor for each class, too: Π `class_temperatures`[k]^p[k], with p = softmax(logits),
so that the factor of a class counts as far as the network sees that class. A bias for each class
(vector scaling, Guo et al.) would do so by changing decisions.

Classes that do not exclude each other have a head of sigmoids, each calibrated for itself:
sigmoid(`scale` · logit / `temperature` + `bias`), which is Platt's (Advances in Large Margin
Classifiers, 1999).

Law: with a softmax the classes keep the order of their logits, so calibration changes no decision.
With sigmoids each class keeps the order of its images.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64, Num

# As a share. Below it a float32 network cannot distinguish its certainty from rounding, and 0 to
# a power would make the temperature 0.
LEAST_ENTROPY = 1e-6

Head = Literal["softmax", "sigmoid"]
Logits = Num[np.ndarray, "*rows classes"]


@dataclass(frozen=True)
class Calibration:
    """The numbers: `temperature` above 0, `entropy_power` in 0…1, which sigmoids do without.

    `class_temperatures` are factors of the temperature, above 0, one for each class, or none.
    Sigmoids may have a `scale` above 0 and a `bias` for each class instead.
    """

    temperature: float = 1.0
    entropy_power: float = 0.0
    head: Head = "softmax"
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    class_temperatures: tuple[float, ...] = ()

    def temperatures(self, logits: Logits) -> Float64[np.ndarray, "*rows 1"]:
        """The divisor of each image's logits."""
        return self._temperatures(below_largest(logits))

    def probabilities(self, logits: Logits) -> Float64[np.ndarray, "*rows classes"]:
        """The calibrated probabilities of the classes."""
        return self.applied(logits)[1]

    def applied(
        self, logits: Logits
    ) -> tuple[Float64[np.ndarray, "*rows 1"], Float64[np.ndarray, "*rows classes"]]:
        """Temperatures and probabilities."""
        below = below_largest(logits)
        temperatures = self._temperatures(below)
        if self.head == "sigmoid":
            return temperatures, _sigmoid(self._scaled(logits.astype(np.float64) / temperatures))
        return temperatures, shares(below / temperatures)

    def _scaled(
        self, values: Float64[np.ndarray, "*rows classes"]
    ) -> Float64[np.ndarray, "*rows classes"]:
        if not self.scale:
            return values
        scale, bias = self._by_class
        return np.asarray(scale * values + bias)

    @cached_property
    def _by_class(self) -> tuple[Float64[np.ndarray, " classes"], Float64[np.ndarray, " classes"]]:
        return np.array(self.scale), np.array(self.bias)

    def _temperatures(
        self, below: Float64[np.ndarray, "*rows classes"]
    ) -> Float64[np.ndarray, "*rows 1"]:
        if self.entropy_power:
            share = np.maximum(entropy_share(below), LEAST_ENTROPY)
            temperatures = np.asarray(self.temperature * share**self.entropy_power)
        else:
            temperatures = np.full((*below.shape[:-1], 1), self.temperature)
        if self.class_temperatures:
            temperatures *= np.exp(shares(below) @ self._log_factors[:, None])
        return temperatures

    @cached_property
    def _log_factors(self) -> Float64[np.ndarray, " classes"]:
        return np.log(self.class_temperatures)


def _sigmoid(values: Float64[np.ndarray, "*rows classes"]) -> Float64[np.ndarray, "*rows classes"]:
    # As it is usually written, 1 / (1 + exp(−x)), it overflows.
    return np.asarray(np.exp(-np.logaddexp(0, -values)))


def below_largest(logits: Logits) -> Float64[np.ndarray, "*rows classes"]:
    """Each logit minus the largest of its image, so that no exponential overflows."""
    return np.asarray(logits.astype(np.float64) - np.maximum.reduce(logits, -1, keepdims=True))


def shares(below: Float64[np.ndarray, "*rows classes"]) -> Float64[np.ndarray, "*rows classes"]:
    """softmax(`below`), of logits that are nowhere above 0."""
    exponentials = np.exp(below)
    return np.asarray(exponentials / np.add.reduce(exponentials, -1, keepdims=True))


def entropy_share(below: Float64[np.ndarray, "*rows classes"]) -> Float64[np.ndarray, "*rows 1"]:
    """The entropy of softmax(`below`) as a share of log K, 0…1."""
    exponentials = np.exp(below)
    total = np.add.reduce(exponentials, -1, keepdims=True)
    return np.asarray(
        (np.log(total) - np.add.reduce(exponentials * below, -1, keepdims=True) / total)
        / math.log(below.shape[-1])
    )
