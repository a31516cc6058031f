"""The algebra of LIME and KernelSHAP: linear models of scores of coalitions of segments.

Least squares in float64 by normal equations, in steps of some milliseconds, between which the
engine may pause. `shown` bool (N, M): the segments in each of N coalitions; scores float64 (N, T).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from service.runtime.engine import Engine

LIME_RIDGE = 1.0  # as in https://github.com/marcotcr/lime
# Rows of coalitions in one step of algebra: about 10 ms of a core with the most segments.
ALGEBRA_ROWS = 256
ALGEBRA_UNKNOWNS = 128  # solved for in one step, of about as long
SLIGHT_RIDGE = 1e-9  # relative to the mean of the diagonal; values change less than 1e-6

Scores = Float64[np.ndarray, "rows targets"]
Shown = Bool[np.ndarray, "rows segments"]


@dataclass(frozen=True)
class Coalitions:
    """`shown` bool (N, M): the segments in each of N coalitions; `scores` float64 (N, T)."""

    shown: Bool[np.ndarray, "rows segments"]
    scores: Scores

    def __add__(self, other: "Coalitions") -> "Coalitions":
        return replace(
            self,
            shown=np.concatenate([self.shown, other.shown]),
            scores=np.concatenate([self.scores, other.scores]),
        )


class Ridge:
    """A weighted ridge regression of scores on coalitions, with an intercept."""

    def __init__(
        self, engine: Engine, drawn: Coalitions, weights: Float64[np.ndarray, " rows"]
    ) -> None:
        self._engine, self._shown = engine, drawn.shown
        self._share = (weights / weights.sum())[:, None]
        self._mean = self._share.T @ drawn.shown
        self._y = drawn.scores - (self._share * drawn.scores).sum(0)
        roots = np.sqrt(weights)[:, None]
        gram, self._moments = _normal_equations(
            engine,
            len(drawn.shown),
            lambda rows: (
                roots[rows] * (drawn.shown[rows] - self._mean),
                roots[rows] * self._y[rows],
            ),
        )
        self._matrix = gram + LIME_RIDGE * np.eye(len(gram))
        self._weights = weights[:, None]

    def coefficients(self) -> Float64[np.ndarray, "targets segments"]:
        """The change of the score by each segment."""
        return np.asarray(_solve(self._engine, self._matrix, self._moments).T)

    def left_out_r2(
        self, coefficients: Float64[np.ndarray, "targets segments"]
    ) -> Float64[np.ndarray, " targets"]:
        """R² on each row by the regression on all the others, at the cost of one inverse.

        A row's residual grows by 1 / (1 − h), with h its own weight in what is fitted to it (Cook
        and Weisberg, "Residuals and Influence in Regression", 1982, section 2.1).
        """
        residual = self._y - (self._shown @ coefficients.T - self._mean @ coefficients.T)
        left_out = residual / (1 - self._leverages()).clip(SLIGHT_RIDGE)
        apart = self._y / (1 - self._share)  # from the mean of the others
        unexplained, spread = ((self._share * rows**2).sum(0) for rows in (left_out, apart))
        return np.asarray(1 - unexplained / spread.clip(np.finfo(float).tiny))

    def _leverages(self) -> Float64[np.ndarray, "rows 1"]:
        inverse = _solve(self._engine, self._matrix, np.eye(len(self._matrix)))
        own = []
        for start in range(0, len(self._shown), ALGEBRA_ROWS):
            self._engine.pause()
            x = self._shown[start : start + ALGEBRA_ROWS] - self._mean
            own.append(np.einsum("ns,ns->n", x @ inverse, x))
        return np.asarray(self._share + self._weights * np.concatenate(own)[:, None])


def constrained_least_squares(
    engine: Engine,
    shown: Shown,
    scores: Scores,
    total: Float64[np.ndarray, " targets"],
) -> Float64[np.ndarray, "targets segments"]:
    """Solves shown · values = scores by least squares among the values that sum to `total`."""
    even = total / shown.shape[1]
    members = shown.sum(1, keepdims=True)
    # Without its mean, a row only moves values in the directions that keep their sum.
    gram, moments = _normal_equations(
        engine,
        len(shown),
        lambda rows: (
            shown[rows] - members[rows] / shown.shape[1],
            scores[rows] - members[rows] * even,
        ),
    )
    values = _least_norm(engine, gram, moments)
    return np.asarray((values - values.mean(0) + even).T)


def shapley_coalitions(
    engine: Engine, players: int, samples: int, rng: np.random.Generator
) -> Shown:
    """About `samples` coalitions by the Shapley kernel, neither empty nor whole.

    Every second one is the complement of the one before.
    """
    sizes = np.arange(1, players)
    # The kernel's weight of a coalition, times the number of coalitions of its size.
    share = 1 / (sizes * (players - sizes))
    chosen = rng.choice(sizes, size=max(1, samples // 2), p=share / share.sum())
    halves = []
    for start in range(0, len(chosen), ALGEBRA_ROWS):
        engine.pause()
        sizes = chosen[start : start + ALGEBRA_ROWS, None]
        halves.append(rng.random((len(sizes), players)).argsort(1) < sizes)
    half = np.concatenate(halves)
    return np.stack([half, ~half], axis=1).reshape(-1, players)


def _normal_equations(
    engine: Engine, count: int, equations: Callable[[slice], tuple[np.ndarray, np.ndarray]]
) -> tuple[Float64[np.ndarray, "segments segments"], Float64[np.ndarray, "segments targets"]]:
    """XᵀX and XᵀY of the `count` rows of X and Y; `equations` makes those of a slice.

    The singular values of X would take seconds, in one step that no deadline interrupts.
    """
    gram: Any = 0.0
    moments: Any = 0.0
    for start in range(0, count, ALGEBRA_ROWS):
        engine.pause()
        x, y = equations(slice(start, start + ALGEBRA_ROWS))
        gram, moments = gram + x.T @ x, moments + x.T @ y
    engine.pause()
    return gram, moments


def _least_norm(
    engine: Engine,
    gram: Float64[np.ndarray, "segments segments"],
    moments: Float64[np.ndarray, "segments targets"],
) -> Float64[np.ndarray, "segments targets"]:
    """The smallest values that solve gram · values = moments and sum to 0.

    Rows and columns of `gram` sum to 0, too.
    """
    # An even change of all values, which the equations do not see, gets an equation of its own.
    # Other directions are unseen where coalitions are few: a slight ridge keeps values small there.
    mean = np.trace(gram) / len(gram)
    return _solve(
        engine, gram + mean / len(gram) + SLIGHT_RIDGE * mean * np.eye(len(gram)), moments
    )


def _solve(
    engine: Engine,
    matrix: Float64[np.ndarray, "unknowns unknowns"],
    right: Float64[np.ndarray, "unknowns targets"],
) -> Float64[np.ndarray, "unknowns targets"]:
    """Solves matrix · x = right, for a positive definite matrix, a block of unknowns at a time."""
    engine.pause()
    rest = len(matrix) - ALGEBRA_UNKNOWNS
    if rest <= 0:
        return np.asarray(np.linalg.solve(matrix, right))
    first, others = matrix[:-rest], matrix[-rest:]
    solved = np.linalg.solve(
        first[:, :-rest], np.concatenate([first[:, -rest:], right[:-rest]], axis=1)
    )
    eliminated, known = solved[:, :rest], solved[:, rest:]
    engine.pause()
    tail = _solve(
        engine,
        others[:, -rest:] - others[:, :-rest] @ eliminated,
        right[-rest:] - others[:, :-rest] @ known,
    )
    return np.concatenate([known - eliminated @ tail, tail])
