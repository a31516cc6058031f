"""The head of a network with published weights, fitted before anything else learns.

The features of the frozen network, of every image and of its mirror image, are computed once. A
logistic regression on them is convex: it needs no rates, and starts the training of all layers
from a good head, which does not spoil the layers below. Its penalty is the one with the least loss
on the validation images.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.data.augment import Batch
from training.data.images import Images
from training.data.split import draw_each
from training.fit.batches import planes

MOST_IMAGES = 20_000  # more make the head no better, and the layers below learn from all
ROWS = 64
PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3)  # of the squared weights of standardised features
ITERATIONS = 100  # of L-BFGS, for each penalty

Features = Float32[Tensor, "rows features"]
Describe = Callable[[Batch], Features]


class Fitted(NamedTuple):
    """The loss and the accuracy of the new head on the validation images."""

    loss: float
    accuracy: float


class _Regression(NamedTuple):
    """A linear layer over standardised features."""

    weight: Float32[Tensor, "classes features"]
    bias: Float32[Tensor, " classes"]


def fit_head(
    head: nn.Linear,
    describe: Describe,
    training: Images,
    validation: Images,
    class_weights: Float32[Tensor, " classes"] | None,
) -> Fitted:
    """Gives `head` the weights of a logistic regression on the features of `training`."""
    each = max(1, MOST_IMAGES // len(np.unique(training.labels)))
    if len(training) > MOST_IMAGES:
        training = training.take(draw_each(training.labels, each, 0))
    x, labels = _features(describe, training, mirrored=True), torch.from_numpy(training.labels)
    held_out, truth = _features(describe, validation), torch.from_numpy(validation.labels)
    mean, scale = x.mean(0), 1 / (x.std(0) + 1e-3)
    standard, held_out = (x - mean) * scale, (held_out - mean) * scale
    best, fitted = _search(standard, labels.repeat(2), held_out, truth, class_weights, head)
    with torch.no_grad():
        weight = best.weight * scale
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(best.bias - weight @ mean)
    return fitted


def _features(describe: Describe, images: Images, *, mirrored: bool = False) -> Features:
    """The features of all images, and then those of their mirror images."""
    parts: list[Sequence[Features]] = []
    bar = tqdm(total=len(images), desc="features", unit="image", disable=None, file=sys.stderr)
    with torch.no_grad(), bar:
        for part in images.parts(ROWS):
            pixels = planes(part)
            views = (pixels, pixels.flip(-1)) if mirrored else (pixels,)
            parts.append([describe(view).float().cpu() for view in views])
            bar.update(len(part))
    return torch.cat([torch.cat(view) for view in zip(*parts, strict=True)])


def _search(
    x: Features,
    labels: Int64[Tensor, " rows"],
    held_out: Float32[Tensor, "others features"],
    truth: Int64[Tensor, " others"],
    class_weights: Float32[Tensor, " classes"] | None,
    head: nn.Linear,
) -> tuple[_Regression, Fitted]:
    """The regression with the least loss on the held-out images, among all PENALTIES."""
    found: list[tuple[Fitted, _Regression]] = []
    current = _Regression(torch.zeros(head.weight.shape), torch.zeros(len(head.weight)))
    for penalty in PENALTIES:
        current = _fit(current, x, labels, penalty, class_weights)
        logits = functional.linear(held_out, *current)
        loss = float(functional.cross_entropy(logits, truth, weight=class_weights))
        found.append((Fitted(loss, float((logits.argmax(1) == truth).float().mean())), current))
    fitted, best = min(found, key=lambda pair: pair[0].loss)
    return best, fitted


def _fit(
    start: _Regression,
    x: Features,
    labels: Int64[Tensor, " rows"],
    penalty: float,
    class_weights: Float32[Tensor, " classes"] | None,
) -> _Regression:
    parameters = [tensor.clone().requires_grad_() for tensor in start]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=ITERATIONS, line_search_fn="strong_wolfe", tolerance_grad=1e-5
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = functional.linear(x, *parameters)
        loss = functional.cross_entropy(logits, labels, weight=class_weights)
        total = loss + penalty * parameters[0].square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return _Regression(*(parameter.detach() for parameter in parameters))
