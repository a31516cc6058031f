"""Muon: stochastic gradient descent with an orthogonal update of every filter bank.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. The
momentum of a weight (out, in, 3, 3) is treated as a matrix (out, in·9) and replaced by the nearest
semi-orthogonal matrix. A Newton-Schulz iteration, a handful of matrix products, approximates that
matrix to a few per cent.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float32
from torch import Tensor

# of a quintic that drives every singular value into 0.7…1.2 within few iterations
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """The optimiser of convolution filters; `step` takes no closure."""

    def __init__(self, filters: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(filters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes one step along the orthogonalised Nesterov momentum of each filter bank."""
        assert closure is None
        for group in self.param_groups:
            for filters in group["params"]:
                momentum = self.state[filters].setdefault(
                    "momentum_buffer", torch.zeros_like(filters)
                )
                momentum.mul_(group["momentum"]).add_(filters.grad)
                direction = filters.grad.add(momentum, alpha=group["momentum"])
                # at a fixed norm the learning rate is an angle, and filters need no weight decay
                filters.mul_(len(filters) ** 0.5 / filters.norm())
                filters.add_(orthogonal(direction.flatten(1)).view_as(filters), alpha=-group["lr"])


def orthogonal(
    matrix: Float32[Tensor, "rows columns"], iterations: int = 3
) -> Float32[Tensor, "rows columns"]:
    """A matrix with the singular vectors of `matrix` and singular values near 1."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    # the iteration multiplies by the smaller of the two Gram matrices
    wide: Tensor = x if len(x) <= x.shape[1] else x.T
    for _ in range(iterations):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if len(x) <= x.shape[1] else wide.T
