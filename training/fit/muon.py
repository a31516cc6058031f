"""Muon: stochastic gradient descent whose update of a filter bank is made orthogonal.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. The momentum of a weight (out, in, 3, 3)
is seen as a matrix (out, in·9) and replaced by the nearest semi-orthogonal matrix, found to a few per cent by a Newton-Schulz
iteration, which is a handful of matrix products. Before each step the weight is scaled to the norm √out, so that the learning rate
is an angle and the filters need no weight decay.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float32
from torch import Tensor

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # a quintic that drives every singular value into 0.7…1.2 quickly


class Muon(torch.optim.Optimizer):
    """For convolution filters; `step` takes no closure."""

    def __init__(self, filters: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(filters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the orthogonalised Nesterov momentum of each filter bank."""
        assert closure is None
        for group in self.param_groups:
            for filters in group["params"]:
                momentum = self.state[filters].setdefault(
                    "momentum_buffer", torch.zeros_like(filters)
                )
                momentum.mul_(group["momentum"]).add_(filters.grad)
                direction = filters.grad.add(momentum, alpha=group["momentum"])
                filters.mul_(len(filters) ** 0.5 / filters.norm())
                filters.add_(orthogonal(direction.flatten(1)).view_as(filters), alpha=-group["lr"])


def orthogonal(
    matrix: Float32[Tensor, "rows columns"], iterations: int = 3
) -> Float32[Tensor, "rows columns"]:
    """A matrix with the singular vectors of `matrix` and singular values near 1 (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    wide: Tensor = x if len(x) <= x.shape[1] else x.T
    for _ in range(iterations):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if len(x) <= x.shape[1] else wide.T
