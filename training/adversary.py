"""Pictures changed against a network while it learns, so that it learns not to mind: adversarial training.

Projected gradient descent (Madry et al., arXiv 1706.06083) from a random place within the radius. One step of 1.25 radii is what Wong, Rice and
Kolter found to be enough ("Fast is better than free", arXiv 2001.03994); two guard against the collapse that one step may end in.
"""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

REACH = 1.25  # radii that all steps could go together, one more than the radius, so that they can cross it

Rows = Float32[Tensor, "rows 3 size size"]


def attacked(network: nn.Module, x: Rows, labels: Int64[Tensor, " rows"], radius: Float32[Tensor, "1 3 1 1"], steps: int) -> Rows:
    """`x` (normalised) changed by at most `radius` of each channel, in `steps` up the slope of the loss; the network learns nothing from it.

    Batch statistics are those of the mode that the network is in. The random start is torch's default generator's.
    """
    start = x + radius * (2 * torch.rand_like(x) - 1)
    changed = start
    for _ in range(steps):
        changed = changed.detach().requires_grad_()
        loss = functional.cross_entropy(network(changed).float(), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, changed)
        changed = changed + REACH / steps * radius * slope.sign()
        changed = torch.minimum(torch.maximum(changed, x - radius), x + radius)
    return changed.detach()
