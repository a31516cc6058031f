"""The proof of a bundle's graphs in float64: a gradient is the slope of predict.onnx's logits.

It holds for any file, without its torch network: on each image the gradient times a direction is
compared with the complex step along it (`training.export.exact`). A wrong rule changes the
gradient, and a random direction is orthogonal to no change. The logits of gradient.onnx must also
be those of predict.onnx, and the map of cam.onnx must be made of its own gradient.

A little noise moves the images into general position: at an exact tie, as of a max pool on a plain
surface, a slope depends on the side from which it is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float, Float64, Int64
from onnx import ModelProto

from service.bundle import folder as contract
from service.bundle.manifest import Parity
from training.export.core import ACTIVATION
from training.export.exact import Exact

COMPLEX_STEP = "complex step"
LEAST_IMAGES, MOST_PIXELS = 4, 2**13  # that are proven; 8 images of 32 pixels
ROW_PIXELS = 2**16  # of which the tensors are in memory at once; one image of 224 pixels
NOISE = 1e-3
# Of the largest logit, for a move by one standard deviation. Below it the logits are constant in
# float32, and the gradient is what the float32 constants of its rules leave of a cancellation.
FLAT = 1e-7
TINY = float(np.finfo(np.float32).tiny)

Rows = Float64[np.ndarray, "rows channels height width"]
Cam = Float64[np.ndarray, "rows 1 cells_high cells_wide"]
Logits = Float64[np.ndarray, "rows classes"]
Pairs = Float64[np.ndarray, "rows directions"]


@dataclass(frozen=True)
class Proof:
    """The answers of the graphs in float64 at `x`, each for the predicted class `target`.

    `measured` compares them with what they should be: the largest difference and the least cosine
    over images. These are no medians: where nothing is rounded, no mask flips.
    """

    x: Rows
    target: Int64[np.ndarray, " rows"]
    logits: Logits
    gradient: Rows
    cam: Cam | None
    measured: dict[str, Parity]


def points(
    x: Float[np.ndarray, "rows channels height width"],
) -> Float64[np.ndarray, "proven channels height width"]:
    """Those of the normalised images `x` that are proven, in general position; float32 fits."""
    few = x[: max(LEAST_IMAGES, MOST_PIXELS // (x.shape[-2] * x.shape[-1]))]
    noise = np.random.default_rng(0).standard_normal(few.shape, np.float32)
    return np.asarray(few + np.float32(NOISE) * noise, np.float64)


def prove(files: Mapping[str, bytes], x: Rows) -> Proof:
    """The proof of gradient.onnx, and of cam.onnx if `files` has it, at `x`."""
    models = {
        name: onnx.load_model_from_string(files[name])
        for name in (contract.PREDICT, *contract.DERIVED)
        if name in files
    }
    feeds = {"x": x, "target": np.full(len(x), -1)}
    gradient, logits = _run(Exact(models[contract.GRADIENT], ["gradient", "logits"]), feeds)
    target = logits.argmax(1)
    forward = Exact(models[contract.PREDICT], ["logits"], given=["x"])
    (expected,) = _run(forward, {"x": x})
    measured = {
        "exact/logits": _same(logits, expected, contract.PREDICT),
        "exact/saliency": _slopes(forward, "x", {"x": x}, gradient, target, logits),
    }
    cam = None
    if contract.CAM in models:
        cam, measured["exact/grad_cam"] = _prove_cam(models, feeds, target, logits)
    return Proof(x, target, logits, gradient, cam, measured)


def _prove_cam(
    models: Mapping[str, ModelProto],
    feeds: Mapping[str, Any],
    target: Int64[np.ndarray, " rows"],
    logits: Logits,
) -> tuple[Cam, Parity]:
    names = ["cam", ACTIVATION, "activation_gradient"]
    cam, activation, gradient = _run(Exact(models[contract.CAM], names), feeds)
    after = Exact(models[contract.PREDICT], ["logits"], given=["x", ACTIVATION])
    at = {"x": feeds["x"], ACTIVATION: activation}
    slopes = _slopes(after, ACTIVATION, at, gradient, target, logits)
    weighed = (gradient.mean((2, 3), keepdims=True) * activation).sum(1, keepdims=True)
    own = _same(cam, weighed, COMPLEX_STEP)
    return cam, Parity(
        COMPLEX_STEP,
        slopes.pictures,
        # Not max(…), which may drop a NaN.
        float(np.maximum(own.relative_difference, slopes.relative_difference)),
        float(np.minimum(own.cosine, slopes.cosine)),
        slopes.left_out,
    )


def _run(
    exact: Exact, feeds: Mapping[str, Any], along: Mapping[str, Any] | None = None
) -> list[Any]:
    """The outputs for all rows, or their slopes `along` a way; a part of the rows at a time."""
    size = max(1, ROW_PIXELS // (feeds["x"].shape[-2] * feeds["x"].shape[-1]))
    results = []
    for start in range(0, len(feeds["x"]), size):
        at, way = (
            {name: values[start : start + size] for name, values in tensors.items()}
            for tensors in (feeds, along or {})
        )
        results.append(exact.slope(at, way) if way else exact.run(at))
    return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]


def _slopes(
    forward: Exact,
    name: str,
    at: Mapping[str, Any],
    gradient: Rows,
    target: Int64[np.ndarray, " rows"],
    logits: Logits,
) -> Parity:
    """The parity of `gradient` by the tensor `name` with the slopes of the logits of `forward`."""
    ours, theirs, sizes = [], [], []
    for direction in _directions(at[name]):
        (slopes,) = _run(forward, at, {name: direction})
        products = gradient * direction
        ours.append(products.sum((1, 2, 3)))
        theirs.append(np.take_along_axis(slopes, target[:, None], 1)[:, 0])
        # The size that the sum would have if its terms had random signs.
        sizes.append(np.sqrt((products**2).sum((1, 2, 3))))
    flat = FLAT * np.abs(logits).max(1)
    return _compared(np.stack(ours, 1), np.stack(theirs, 1), np.stack(sizes, 1), flat)


def _directions(values: Rows) -> list[Rows]:
    """Noise, the values themselves, and the ways to the next image; each of the size of noise.

    Zeros stay zeros: behind a rectifier a max pool may have nothing else to choose from, a tie.
    """
    noise = np.random.default_rng(1).standard_normal(values.shape)
    return [
        (values != 0) * move / np.maximum(np.sqrt((move**2).mean((1, 2, 3), keepdims=True)), TINY)
        for move in (noise, values, np.roll(values, 1, 0) - values)
    ]


def _compared(
    ours: Pairs, theirs: Pairs, sizes: Pairs, flat: Float64[np.ndarray, " rows"]
) -> Parity:
    """The largest difference and the least cosine of the images that are not flat."""
    # Not ">", which would leave NaN out.
    kept = ~(np.maximum(np.abs(ours), np.abs(theirs)).max(1) <= flat)
    left_out = int((~kept).sum())
    if not kept.any():
        return Parity(COMPLEX_STEP, 0, 0.0, 1.0, left_out)
    scale = np.maximum(sizes, TINY)[kept]
    a, b = ours[kept] / scale, theirs[kept] / scale
    norms = np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), TINY)
    differences = np.abs(a - b) / np.maximum(np.abs(b), 1)
    return Parity(
        COMPLEX_STEP,
        int(kept.sum()),
        float(differences.max()),
        float(((a * b).sum(1) / norms).min()),
        left_out,
    )


def _same(ours: Any, theirs: Any, against: str) -> Parity:
    """The largest difference of two arrays over rows, and the least cosine."""
    a, b = (values.reshape(len(values), -1) for values in (ours, theirs))
    largest = np.maximum(np.abs(b).max(1), TINY)
    a, b = a / largest[:, None], b / largest[:, None]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.where(norms == 0, 1.0, (a * b).sum(1) / np.maximum(norms, TINY))
    return Parity(against, len(a), float(np.abs(a - b).max()), float(cosines.min()))
