"""The reference of parity: a torch network, explained by Captum in float64."""

import copy
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from jaxtyping import UInt8
from torch import Tensor

from service.bundle.manifest import LAST, Parity
from service.explain.maps import gradients
from service.image.resize import Size, pixels_of
from service.runtime.engine import Engine
from training.export.parity import DRAWN, Rows, compare
from training.export.proof import Proof
from training.networks.ours import Network

MOST_IMAGES, MOST_PIXELS = 64, 2**20  # that are compared; 20 images of 224 pixels
PART_PIXELS = 2**19  # of which torch keeps the activations in float64 at once
# Points of Integrated Gradients. Rounding flips the mask of a max pool now and then, in torch as in
# ONNX Runtime, and every point is another chance: with 32 no image of a network with max pools is
# without a flip (docs/training.md). Four try the same code and leave most images without one.
STEPS = 4

Batch = UInt8[np.ndarray, "rows H W 3"]
Method = Callable[[Network, Tensor, Tensor], Tensor]


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


def measure_float64(proof: Proof, network: Network) -> dict[str, Parity]:
    """The parity of the graphs with torch and Captum, both in float64, at the proof's images."""
    x, classes = torch.from_numpy(proof.x), torch.from_numpy(proof.target)
    ours = {"logits": proof.logits[:, :, None, None], "saliency": proof.gradient}
    if LAST in proof.cams:
        ours["grad_cam"] = proof.cams[LAST]
    methods = {**CAPTUM, "logits": lambda network, x, _: network(x)[:, :, None, None]}
    return {
        f"float64/{name}": compare(values, _in_parts(methods[name], network, x, classes))
        for name, values in ours.items()
    }


def _in_parts(theirs: Method, network: Network, x: Tensor, classes: Tensor) -> Rows:
    """An attribution by Captum, of a part of the rows at a time, in the precision of `x`."""
    rows = max(1, PART_PIXELS // math.prod(x.shape[2:]))
    parts = zip(torch.split(x, rows), torch.split(classes, rows), strict=True)
    return np.concatenate(
        [
            theirs(copy_of(network).to(x.dtype), part.clone(), target).detach().numpy()
            for part, target in parts
        ]
    )


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
