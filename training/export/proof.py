"""The proof of a bundle's graphs in float64: a gradient is the slope of predict.onnx's logits.

It holds for any file, without its torch network: on each image the gradient times a direction is
compared with the complex step along it (`training.export.exact`). A wrong rule changes the
gradient, and a random direction is orthogonal to no change. The logits of gradient.onnx must also
be those of predict.onnx, and the map of cam.onnx must be made of its own gradient.

A little noise moves the images into general position: at an exact tie, as of a max pool on a plain
surface, a slope depends on the side from which it is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import onnx
from jaxtyping import Complex128, Float, Float64, Int64

from service.bundle import folder as contract
from service.bundle.manifest import LAST, Parity
from service.workers import host
from training.export.core import ACTIVATION, EARLIER, layers_of
from training.export.exact import STEP, Exact
from training.export.forward_relevance import forward_relevance
from training.export.progress import Say

COMPLEX_STEP, FORWARDS = "complex step", "relevance forwards"
LEAST_IMAGES, MOST_PIXELS = 4, 2**13  # that are proven; 8 images of 32 pixels
ROW_PIXELS = 2**16  # of which the tensors are in memory at once; one image of 224 pixels
FEW = 2  # large images whose relevance and earlier layers are proven, for a sixth of the time each
NOISE = 1e-3
# Of the largest logit, for a move by one standard deviation. Below it the logits are constant in
# float32, and the gradient is what the float32 constants of its rules leave of a cancellation.
FLAT = 1e-7
TINY = float(np.finfo(np.float32).tiny)

T = TypeVar("T")
Rows = Float64[np.ndarray, "rows channels height width"]
Relevance = Float64[np.ndarray, "explained channels height width"]
Cam = Float64[np.ndarray, "explained 1 cells_high cells_wide"]
Logits = Float64[np.ndarray, "rows classes"]
Directions = Complex128[np.ndarray, "rows directions classes"]
Pairs = Float64[np.ndarray, "rows directions"]


@dataclass(frozen=True)
class Proof:
    """The answers of the graphs in float64 at `x`, each for the predicted class `target`.

    `measured` compares them with what they should be: the largest difference and the least cosine
    over images. These are no medians: where nothing is rounded, no mask flips. `cams` are maps of
    Grad-CAM by layer. Of large images the first two alone have a `relevance`, and a map of an
    earlier layer.
    """

    x: Rows
    target: Int64[np.ndarray, " rows"]
    logits: Logits
    gradient: Rows
    cams: Mapping[str, Cam]
    relevance: Relevance | None
    measured: dict[str, Parity]


def parity_name(layer: str) -> str:
    """The name in the manifest of the parity of Grad-CAM at a layer."""
    return "grad_cam" if layer == LAST else f"grad_cam_{layer}"


def points(
    x: Float[np.ndarray, "rows channels height width"],
) -> Float64[np.ndarray, "proven channels height width"]:
    """Those of the normalised images `x` that are proven, in general position; float32 fits."""
    few = x[: max(LEAST_IMAGES, MOST_PIXELS // (x.shape[-2] * x.shape[-1]))]
    noise = np.random.default_rng(0).standard_normal(few.shape, np.float32)
    return np.asarray(few + np.float32(NOISE) * noise, np.float64)


def prove(
    files: Mapping[str, bytes],
    x: Rows,
    target: Int64[np.ndarray, " rows"] | None = None,
    say: Say = str,
) -> Proof:
    """The proof of gradient.onnx, and of cam.onnx and lrp.onnx if `files` has them, at `x`.

    Without a `target` it is the class that the graph itself predicts. `say` gets the steps.
    """
    layers = [layer.name for layer in layers_of(files)] or [LAST] * (contract.CAM in files)
    say(f"proves {contract.GRADIENT} in float64")
    feeds = {"x": x, "target": np.full(len(x), -1) if target is None else target}
    gradient, logits = _run(_exact(files, contract.GRADIENT, ["gradient", "logits"]), feeds)
    target = logits.argmax(1) if target is None else target
    forward = _exact(files, contract.PREDICT, ["logits"], ["x"])
    expected, slopes = _slopes(forward, "x", {"x": x}, gradient, target)
    measured = {
        "exact/logits": _same(logits, expected, contract.PREDICT),
        "exact/saliency": slopes,
    }
    del forward  # its weights: not those of two graphs at once
    cams: dict[str, Cam] = {}
    for name in layers:
        say(f"proves {contract.CAM}" + f", {name} layer" * (name != LAST))
        cams[name], measured[f"exact/{parity_name(name)}"] = _prove_cam(files, name, feeds, target)
    relevance = None
    if contract.LRP in files:
        say(f"proves {contract.LRP}")
        relevance, measured["exact/attn_lrp"] = _prove_relevance(files, feeds, target)
    return Proof(x, target, logits, gradient, cams, relevance, measured)


def _exact(
    files: Mapping[str, bytes], name: str, outputs: Sequence[str], given: Sequence[str] = ()
) -> Exact:
    return Exact(onnx.load_model_from_string(files[name]), outputs, given=given)


def _prove_cam(
    files: Mapping[str, bytes],
    layer: str,
    feeds: Mapping[str, Any],
    target: Int64[np.ndarray, " rows"],
) -> tuple[Cam, Parity]:
    """The map of Grad-CAM at a layer, of two large images if it is an early one, and its parity."""
    if layer != LAST:
        feeds, target = _few(feeds, target)
    tensor = EARLIER.get(layer, ACTIVATION)
    names = [f"activation/{layer}", f"activation_gradient/{layer}"]
    if layer == LAST:
        names = [ACTIVATION, "activation_gradient", "cam"]
    file = contract.CAM if layer == LAST else contract.GRADIENT
    activation, gradient, *given = _run(_exact(files, file, names), feeds)
    after = _exact(files, contract.PREDICT, ["logits"], ["x", tensor])
    at = {"x": feeds["x"], tensor: activation}
    _, slopes = _slopes(after, tensor, at, gradient, target)
    weighed = (gradient.mean((2, 3), keepdims=True) * activation).sum(1, keepdims=True)
    (cam,) = given or [weighed]
    own = _same(cam, weighed, COMPLEX_STEP)
    return cam, Parity(
        COMPLEX_STEP,
        slopes.pictures,
        # Not max(…), which may drop a NaN.
        float(np.maximum(own.relative_difference, slopes.relative_difference)),
        float(np.minimum(own.cosine, slopes.cosine)),
        slopes.left_out,
    )


def _prove_relevance(
    files: Mapping[str, bytes], feeds: Mapping[str, Any], target: Int64[np.ndarray, " rows"]
) -> tuple[Relevance, Parity]:
    """The relevance, of two images if they are large, and its parity with that found forwards.

    Relevance over x is compared as a gradient is. One of the directions is x itself: along it the
    sum of all relevance is compared.
    """
    feeds, target = _few(feeds, target)
    x = feeds["x"]
    (relevance,) = _run(_exact(files, contract.LRP, ["relevance"]), feeds)
    share = np.divide(relevance, x, out=np.zeros_like(x), where=x != 0)
    forward = forward_relevance(onnx.load_model_from_string(files[contract.PREDICT]))
    _, parity = _slopes(forward, "x", {"x": x}, share, target)
    return relevance, replace(parity, against=FORWARDS)


def _few(
    feeds: Mapping[str, Any], target: Int64[np.ndarray, " rows"]
) -> tuple[Mapping[str, Any], Int64[np.ndarray, " few"]]:
    """The rows for what is proven of a few images alone, if they are large."""
    rows = FEW if _pixels(feeds) > MOST_PIXELS else len(target)
    return {name: values[:rows] for name, values in feeds.items()}, target[:rows]


def _by_part(run: Callable[[Mapping[str, Any]], T], feeds: Mapping[str, Any]) -> list[T]:
    """The results of `run` for the rows, as many at a time as fit in memory.

    On each core one: NumPy's own threads share out products of matrices alone, and wait in between.
    """
    size = max(1, ROW_PIXELS // _pixels(feeds))
    parts = [
        {name: values[start : start + size] for name, values in feeds.items()}
        for start in range(0, len(feeds["x"]), size)
    ]
    with ThreadPoolExecutor(host.cores()) as pool:
        return list(pool.map(run, parts))


def _pixels(feeds: Mapping[str, Any]) -> int:
    """The pixels of an image."""
    height, width = feeds["x"].shape[2:]
    return int(height * width)


def _run(exact: Exact, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs for all rows."""
    results = _by_part(exact.run, feeds)
    return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]


def _slopes(
    forward: Exact,
    name: str,
    at: Mapping[str, Any],
    gradient: Rows,
    target: Int64[np.ndarray, " rows"],
) -> tuple[Logits, Parity]:
    """The logits of `forward`, and the parity of `gradient` by the tensor `name` with their slopes.

    Beside noise, small images move in two more directions, and large ones, which take seconds a
    direction, in one of these by turns.
    """
    moves = _directions(at[name], by_turns=_pixels(at) > MOST_PIXELS)

    def run(feeds: Mapping[str, Any]) -> Directions:
        ways = [{name: feeds[f"move/{number}"]} for number in range(len(moves))]
        return np.stack([each for (each,) in forward.moved(feeds, ways)], 1)

    named = {f"move/{number}": move for number, move in enumerate(moves)}
    moved = np.concatenate(_by_part(run, {**at, **named}))
    theirs = np.take_along_axis(moved.imag, target[:, None, None], 2)[..., 0] / STEP
    products = [gradient * move for move in moves]
    ours = np.stack([product.sum((1, 2, 3)) for product in products], 1)
    # The size that the sum would have if its terms had random signs.
    sizes = np.stack([np.sqrt((product**2).sum((1, 2, 3))) for product in products], 1)
    logits = moved.real[:, 0]
    return logits, _compared(ours, theirs, sizes, FLAT * np.abs(logits).max(1))


def _directions(values: Rows, *, by_turns: bool) -> list[Rows]:
    """Noise, the values themselves, and the ways to the next image; each of the size of noise.

    With `by_turns` the last two are one: the values of every other image, and the ways of the rest.
    Zeros stay zeros: behind a rectifier a max pool may have nothing else to choose from, a tie.
    """
    noise = np.random.default_rng(1).standard_normal(values.shape)
    moves = [values, np.roll(values, 1, 0) - values]
    if by_turns:
        is_even = (np.arange(len(values)) % 2 == 0)[:, None, None, None]
        moves = [np.where(is_even, *moves)]
    return [
        (values != 0) * move / np.maximum(np.sqrt((move**2).mean((1, 2, 3), keepdims=True)), TINY)
        for move in (noise, *moves)
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
