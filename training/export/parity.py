"""Parity: how far a bundle's answers are from what they should be, in three comparisons.

    exact/…      the graphs in float64 are right, on every image (`training.export.proof`)
    float64/…    the graphs in float64 answer as the torch network does, and as Captum explains it
    the rest     the engine in float32 differs by no more than rounding explains: from Captum in
                 float64, or from the graph in float64 where there is no torch network

Attributions are compared before any sum over channels, which could hide a difference.
"""

import copy
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from jaxtyping import Float, UInt8
from torch import Tensor

from service.bundle.manifest import Parity
from service.explain import gradients
from service.image.resize import Size, pixels_of
from service.runtime.engine import Engine
from training.export.proof import Proof
from training.networks.ours import Network

DRAWN = 8
MOST_IMAGES, MOST_PIXELS = 64, 2**20  # that are compared; 20 images of 224 pixels
PART_PIXELS = 2**19  # of which torch keeps the activations in float64 at once
CAPTUMS, FLOAT64 = "captum", "float64"
# The relative difference at most, and the cosine at least, by the first part of the entry's name.
# In float64 a right graph differs by the constants of its rules, which are float32: 6e-8 each, and
# more where terms cancel. From torch it also differs by the folded weights, which are rounded.
# In float32 rounding decides on which side of its kink a unit near it is.
# That may change a large network's gradient at some pixels by per cents, in torch as in ONNX
# Runtime. Rules are proven in float64; the last limit finds an engine that runs something else than
# its file.
LIMITS = {"exact": (1e-5, 0.999999), "float64": (1e-2, 0.9999), "": (0.1, 0.999)}
# Points of Integrated Gradients. Rounding flips the mask of a max pool now and then, in torch as in
# ONNX Runtime, and every point is another chance: with 32 no image of a network with max pools is
# without a flip (docs/training.md). Four try the same code and leave most images without one.
STEPS = 4
TINY = float(np.finfo(np.float32).tiny)

Rows = Float[np.ndarray, "rows channels height width"]
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


def measure_float64(proof: Proof, network: Network) -> dict[str, Parity]:
    """The parity of the graphs with torch and Captum, both in float64, at the proof's images."""
    x, classes = torch.from_numpy(proof.x), torch.from_numpy(proof.target)
    ours = {"logits": proof.logits[:, :, None, None], "saliency": proof.gradient}
    if proof.cam is not None:
        ours["grad_cam"] = proof.cam
    methods = {**CAPTUM, "logits": lambda network, x, _: network(x)[:, :, None, None]}
    return {
        f"float64/{name}": compare(values, _in_parts(methods[name], network, x, classes))
        for name, values in ours.items()
    }


def measure_float32(engine: Engine, proof: Proof) -> dict[str, Parity]:
    """The parity of the engine, in float32, with the graphs in float64, at the proof's images."""
    x = proof.x.astype(np.float32)
    answer = engine.gradient(x, proof.target)
    pairs = {
        "logits": (answer.logits[:, :, None, None], proof.logits[:, :, None, None]),
        "saliency": (answer.gradient, proof.gradient),
    }
    if proof.cam is not None:
        pairs["grad_cam"] = (engine.cam(x, proof.target).cam, proof.cam)
    return {name: compare(ours, theirs, FLOAT64) for name, (ours, theirs) in pairs.items()}


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


def check(measured: Mapping[str, Parity]) -> Mapping[str, Parity]:
    """`measured`, if every entry is within its limits.

    Raises:
        ParityError: an entry is not.
    """
    for name, parity in measured.items():
        kind, _, method = name.rpartition("/")
        largest_difference, least_cosine = LIMITS[kind]
        # Not ">" and "<", which are false for NaN.
        if not (parity.relative_difference <= largest_difference and parity.cosine >= least_cosine):
            raise ParityError(
                f"{method} differs from {parity.against}{', in float64' if kind else ''}: "
                f"{'largest' if kind == 'exact' else 'median'} relative difference "
                f"{parity.relative_difference:.2e} (limit {largest_difference:.0e}), "
                f"cosine {parity.cosine:.6f} (limit {least_cosine}) over {parity.pictures} images: "
                "the graph does not compute what the network does; make the bundle without "
                "gradient methods, and report the network"
            )
    return measured


def compare(ours: Rows, theirs: Rows | Tensor, against: str = CAPTUMS) -> Parity:
    """The parity of two sets of attributions: medians over the rows (images).

    Values below the smallest of float32 count as zero.
    """
    if isinstance(theirs, Tensor):
        theirs = theirs.detach().numpy()
    a, b = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (ours, theirs))
    sizes = np.maximum(np.abs(b).max(1, keepdims=True), TINY)
    a, b = a / sizes, b / sizes
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms == 0, 1.0, (a * b).sum(1) / np.maximum(norms, TINY))
    largest = np.abs(a - b).max(1)
    return Parity(against, len(a), float(np.median(largest)), float(np.median(cosine)))


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
