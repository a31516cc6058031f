"""How near a bundle's gradient methods come to Captum's on the torch network that it was made of.

What is compared are the attributions before any sum over channels: the strictest place. Captum works on a copy of the network, because
its hooks change the answers of everyone who shares a module, and in float64: in float32 its own rounding is as large as what is looked for
(2.0e-6 for candor_net, whose graph is 1.2e-6 away from float64).

Rounding flips the mask of a max pool here and there, in torch as in ONNX Runtime, and every point of Integrated Gradients' way gives it
another chance: with 32 points no image of a network with max pools is without a flip (docs/training.md). Four points try the same code and
leave most images without one.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from jaxtyping import Float32, UInt8
from torch import Tensor

from service.bundle.manifest import Parity
from service.explain import gradients
from service.runtime.engine import Engine
from training.networks.ours import Network

IMAGES, DRAWN = 64, 8
LIMITS = {
    "captum": (2e-6, 0.999),
    "finite differences": (0.02, 0.999),
}  # relative difference, cosine
STEPS = 4
CAPTUMS, DIFFERENCES = LIMITS
STEP = 1e-3  # of finite differences, as a change of the logit relative to its size

Rows = Float32[np.ndarray, "rows channels height width"]


class ParityError(Exception):
    """A method of the bundle differs from Captum's: there must be no bundle."""


def copy_of(network: Network) -> Network:
    """A copy in evaluation mode, in the default memory layout."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()


def measure(
    engine: Engine, network: Network, batch: UInt8[np.ndarray, "rows size size 3"]
) -> dict[str, Parity]:
    """The parity of the gradient methods on the images of `batch`, each for its predicted class."""
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
    return {
        name: compare(ours[name](), theirs(copy_of(network).double(), x.double(), classes))
        for name, theirs in CAPTUM.items()
    }


def check(measured: Mapping[str, Parity]) -> Mapping[str, Parity]:
    """`measured`, if every method is near enough.

    Raises:
        ParityError: one is not.
    """
    for method, parity in measured.items():
        most, least = LIMITS[parity.against]
        if not (parity.relative_difference <= most and parity.cosine >= least):  # NaN is neither
            raise ParityError(
                f"{method} differs from {parity.against}: median relative difference {parity.relative_difference:.2e} "
                f"(limit {most:.0e}), cosine {parity.cosine:.6f} (limit {least}) over {parity.pictures} images: "
                "the graph does not compute what the network does"
            )
    return measured


def compare(ours: Rows, theirs: Tensor, against: str = CAPTUMS) -> Parity:
    """The parity of two sets of attributions, row by row."""
    a, b = (
        rows.reshape(len(rows), -1).astype(np.float64) for rows in (ours, theirs.detach().numpy())
    )
    largest = np.abs(a - b).max(1) / np.maximum(np.abs(b).max(1), np.finfo(np.float32).tiny)
    cosine = (a * b).sum(1) / np.maximum(
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), np.finfo(np.float32).tiny
    )
    return Parity(against, len(a), float(np.median(largest)), float(np.median(cosine)))


def slopes(engine: Engine, batch: UInt8[np.ndarray, "rows size size 3"]) -> dict[str, Parity]:
    """The parity of the gradient with the slopes of the logit, for each image along its own gradient, itself and the other images.

    Central differences in float32 are good to about a per cent: enough to find a wrong rule, not a rounding.
    """
    x = engine.normalise(batch)
    answer = engine.gradient(x, np.full(len(x), -1))
    target = answer.logits.argmax(1)
    ours, theirs = [], []
    for row, gradient in enumerate(answer.gradient.astype(np.float64)):
        ways = [gradient, x[row], *(x[other] - x[row] for other in range(len(x)) if other != row)]
        units = np.stack([way / max(float(np.linalg.norm(way)), 1e-12) for way in ways])
        norm = max(float(np.linalg.norm(gradient)), 1e-12)
        step = STEP * max(1.0, abs(float(answer.logits[row, target[row]]))) / norm
        ends = [x[row] + sign * step * units for sign in (1, -1)]
        ahead, behind = (
            engine.gradient(end.astype(np.float32), np.full(len(end), target[row])).logits[
                :, target[row]
            ]
            for end in ends
        )
        ours.append((units * gradient).sum((1, 2, 3)) / norm)
        theirs.append((ahead.astype(np.float64) - behind) / (2 * step) / norm)
    rows = [np.stack(values)[:, :, None, None].astype(np.float32) for values in (ours, theirs)]
    return {"saliency": compare(rows[0], torch.from_numpy(rows[1]), DIFFERENCES)}


def _integrated(network: Network, x: Tensor, target: Tensor) -> Tensor:
    method = IntegratedGradients(network)
    attributed: Tensor = method.attribute(
        x,
        torch.zeros_like(x),
        target,
        n_steps=STEPS,
        method="gausslegendre",
        internal_batch_size=len(x),
    )
    return attributed


def _grad_cam(network: Network, x: Tensor, target: Tensor) -> Tensor:
    attributed: Tensor = LayerGradCam(network, network.get_submodule(network.cam_layer)).attribute(
        x, target
    )
    return attributed


CAPTUM: Mapping[str, Callable[[Network, Tensor, Tensor], Tensor]] = {
    "saliency": lambda network, x, target: Saliency(network).attribute(
        x.requires_grad_(), target, abs=False
    ),
    "input_x_gradient": lambda network, x, target: InputXGradient(network).attribute(
        x.requires_grad_(), target
    ),
    "integrated_gradients": _integrated,
    "grad_cam": _grad_cam,
}
