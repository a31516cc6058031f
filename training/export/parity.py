"""Parity: the difference between a bundle's gradient methods and Captum's on its torch network.

Attributions are compared before any sum over channels, which could hide a difference. Where there
is no torch network, gradients are compared with finite differences.
"""

import copy
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from service.bundle.manifest import Parity
from service.explain import gradients
from service.image.resize import Size, pixels_of
from service.runtime.engine import Engine
from training.networks.ours import Network

DRAWN = 8
MOST_IMAGES, MOST_PIXELS = 64, 2**20  # that are compared; 20 images of 224 pixels
PART_PIXELS = 2**19  # of which torch keeps the activations in float64 at once
CAPTUMS, DIFFERENCES = "captum", "finite differences"
LIMITS = {  # relative difference at most, cosine at least
    CAPTUMS: (2e-6, 0.999),
    DIFFERENCES: (0.02, 0.999),
}
# Points of Integrated Gradients. Rounding flips the mask of a max pool now and then, in torch as in
# ONNX Runtime, and every point is another chance: with 32 no image of a network with max pools is
# without a flip (docs/training.md). Four try the same code and leave most images without one.
STEPS = 4
STEP = 1e-3  # of finite differences: the change of the logit, relative to its size
TINY = float(np.finfo(np.float32).tiny)

# A large network of rectifiers has units near their kinks in every image, and rounding decides on
# which side they are, in torch as in ONNX Runtime. There a method may be so many times as far from
# float64 as torch in float32 is, and its cosine must be nearer to 1. A trained EfficientNet-Lite0
# at 224 pixels was 6 times as far (1.6e-3 beside 2.7e-4, median of 20 images, cosine 1.000000).
OF_ROUNDING, COSINE = 20, 0.99999

Rows = Float32[np.ndarray, "rows channels height width"]
Batch = UInt8[np.ndarray, "rows H W 3"]
Method = Callable[[Network, Tensor, Tensor], Tensor]


class ParityError(Exception):
    """An answer of the bundle differs from its reference: the bundle is not written."""


def copy_of(network: Network) -> Network:
    """A copy in evaluation mode, in the default memory layout."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()


def images(size: Size, count: int) -> int:
    """The number of images of `size` that are compared, of `count`."""
    return min(count, MOST_IMAGES, max(DRAWN, MOST_PIXELS // pixels_of(size)))


def measure(engine: Engine, network: Network, batch: Batch) -> dict[str, Parity]:
    """The parity of the gradient methods on `batch`, each image for its predicted class."""
    target = engine.predict(batch).logits.argmax(1)
    x, classes = torch.from_numpy(engine.normalise(batch)), torch.from_numpy(target)
    ours: Mapping[str, Callable[[], Rows]] = {
        "saliency": lambda: gradients.saliency(engine, batch, target).attribution,
        "input_x_gradient": lambda: gradients.input_x_gradient(engine, batch, target).attribution,
        "integrated_gradients": lambda: (
            gradients.integrated_gradients(engine, batch, target, STEPS, "mean").attribution
        ),
        "grad_cam": lambda: engine.cam(engine.normalise(batch), target).cam,
    }
    # A copy for each method, because Captum's hooks change the answers of a network that others
    # use. In float64, because torch's rounding in float32 (2.0e-6 for candor_net) is larger than
    # that of the graph (1.2e-6).
    return {
        name: compare(ours[name](), _in_parts(theirs, network, x.double(), classes))
        for name, theirs in CAPTUM.items()
    }


def rounding(
    engine: Engine, network: Network, batch: Batch, measured: Mapping[str, Parity]
) -> dict[str, float]:
    """The relative difference of torch in float32 from torch in float64, as `Parity` has it.

    It is that of the methods in `measured` which exceed their limit.
    """
    largest_difference, _ = LIMITS[CAPTUMS]
    x = torch.from_numpy(engine.normalise(batch))
    classes = torch.from_numpy(engine.predict(batch).logits.argmax(1))
    result = {}
    for name in measured:
        if measured[name].relative_difference > largest_difference:
            single, double = (
                _in_parts(CAPTUM[name], network, rows, classes) for rows in (x, x.double())
            )
            result[name] = compare(single.numpy(), double).relative_difference
    return result


def _in_parts(theirs: Method, network: Network, x: Tensor, classes: Tensor) -> Tensor:
    """An attribution by Captum, of a part of the rows at a time, in the precision of `x`."""
    rows = max(1, PART_PIXELS // math.prod(x.shape[2:]))
    parts = zip(torch.split(x, rows), torch.split(classes, rows), strict=True)
    return torch.cat(
        [
            theirs(copy_of(network).to(x.dtype), part.clone(), target).detach()
            for part, target in parts
        ]
    )


def check(
    measured: Mapping[str, Parity], rounding: Mapping[str, float] | None = None
) -> Mapping[str, Parity]:
    """`measured`, if every method is within its limits.

    A method in `rounding` may differ by OF_ROUNDING times that figure, with a cosine of COSINE.

    Raises:
        ParityError: a method is not.
    """
    for method, parity in measured.items():
        largest_difference, least_cosine = LIMITS[parity.against]
        if parity.relative_difference > largest_difference and method in (rounding or {}):
            own = (rounding or {})[method]
            largest_difference = max(largest_difference, OF_ROUNDING * own)
            least_cosine = COSINE
        # Not ">" and "<", which are false for NaN.
        if not (parity.relative_difference <= largest_difference and parity.cosine >= least_cosine):
            raise ParityError(
                f"{method} differs from {parity.against}: "
                f"median relative difference {parity.relative_difference:.2e} "
                f"(limit {largest_difference:.0e}), cosine {parity.cosine:.6f} "
                f"(limit {least_cosine}) over {parity.pictures} images: "
                "the graph does not compute what the network does"
            )
    return measured


def compare(ours: Rows, theirs: Tensor, against: str = CAPTUMS) -> Parity:
    """The parity of two sets of attributions: medians over the rows (images)."""
    a, b = (
        rows.reshape(len(rows), -1).astype(np.float64) for rows in (ours, theirs.detach().numpy())
    )
    largest = np.abs(a - b).max(1) / np.maximum(np.abs(b).max(1), TINY)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(norms, TINY)
    return Parity(against, len(a), float(np.median(largest)), float(np.median(cosine)))


def slopes(engine: Engine, batch: Batch) -> dict[str, Parity]:
    """The parity of the gradient with central differences of the logit.

    An image is compared along its own gradient, along itself and towards the other images. In
    float32 the differences are good to about a per cent: enough to find a wrong rule.
    """
    x = engine.normalise(batch)
    answer = engine.gradient(x, np.full(len(x), -1))
    target = answer.logits.argmax(1)
    ours, theirs = [], []
    for row, gradient in enumerate(answer.gradient.astype(np.float64)):
        units = _directions(x, row, gradient)
        norm = max(float(np.linalg.norm(gradient)), 1e-12)
        step = STEP * max(1.0, abs(float(answer.logits[row, target[row]]))) / norm
        ahead, behind = (
            _logits(engine, x[row] + sign * step * units, int(target[row])) for sign in (1, -1)
        )
        ours.append((units * gradient).sum((1, 2, 3)) / norm)
        theirs.append((ahead - behind) / (2 * step) / norm)
    rows = [np.stack(values)[:, :, None, None].astype(np.float32) for values in (ours, theirs)]
    return {"saliency": compare(rows[0], torch.from_numpy(rows[1]), DIFFERENCES)}


def _directions(
    x: Rows, row: int, gradient: Float[np.ndarray, "channels height width"]
) -> Float[np.ndarray, "directions channels height width"]:
    """Unit vectors: along the gradient of image `row`, along it, and towards each other image."""
    others = (x[other] - x[row] for other in range(len(x)) if other != row)
    return np.stack(
        [
            vector / max(float(np.linalg.norm(vector)), 1e-12)
            for vector in (gradient, x[row], *others)
        ]
    )


def _logits(
    engine: Engine, x: Float[np.ndarray, "rows channels height width"], label: int
) -> Float[np.ndarray, " rows"]:
    rows = x.astype(np.float32)
    return engine.gradient(rows, np.full(len(rows), label)).logits[:, label].astype(np.float64)


def _integrated(network: Network, x: Tensor, target: Tensor) -> Tensor:
    attribution: Tensor = IntegratedGradients(network).attribute(
        x,
        torch.zeros_like(x),
        target,
        n_steps=STEPS,
        method="gausslegendre",
        internal_batch_size=len(x),
    )
    return attribution


def _grad_cam(network: Network, x: Tensor, target: Tensor) -> Tensor:
    layer = network.get_submodule(network.cam_layer)
    attribution: Tensor = LayerGradCam(network, layer).attribute(x, target)
    return attribution


CAPTUM: Mapping[str, Method] = {
    "saliency": lambda network, x, target: Saliency(network).attribute(
        x.requires_grad_(), target, abs=False
    ),
    "input_x_gradient": lambda network, x, target: InputXGradient(network).attribute(
        x.requires_grad_(), target
    ),
    "integrated_gradients": _integrated,
    "grad_cam": _grad_cam,
}
