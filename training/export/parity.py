"""Parity: how far a bundle's answers are from what they should be, in three comparisons.

    exact/…      the graphs in float64 are right, on every image (`training.export.proof`)
    float64/…    the graphs in float64 answer as the torch network does, and as Captum explains it
    the rest     the engine in float32 differs by no more than rounding explains: from Captum in
                 float64, or from the graph in float64 where there is no torch network

Attributions are compared before any sum over channels, which could hide a difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from service.bundle import folder as contract
from service.bundle.manifest import LAST, Parity
from service.runtime.engine import Engine
from service.runtime.graphs import Batch, Gradient
from training.export.proof import Proof, parity_name, points

DRAWN = 8
CAPTUMS, FLOAT64 = "captum", "float64"
# The relative difference at most, and the cosine at least, by the entry's name or its first part.
# In float64 a right graph differs by the constants of its rules, which are float32: 6e-8 each, and
# more where terms cancel. From torch it also differs by the folded weights, each rounded once. What
# has few kinks behind it then differs by 3e-7 (docs/training.md). For saliency the rounding moves
# some units of a large network of rectifiers over their kinks: by 5e-3 in a resnet50.
# In float32 rounding decides on which side of its kink a unit near it is.
# That may change a large network's gradient at some pixels by per cents, in torch as in ONNX
# Runtime. Rules are proven in float64; the last limit finds an engine that runs something else than
# its file.
LIMITS = {
    "exact": (1e-5, 0.999999),
    "float64": (1e-5, 0.999999),
    "float64/saliency": (1e-2, 0.9999),
    "": (0.1, 0.999),
}
TINY = float(np.finfo(np.float32).tiny)

Rows = Float[np.ndarray, "rows channels height width"]
Cells = Float[np.ndarray, "rows 1 cells_high cells_wide"]


class ParityError(Exception):
    """An answer of the bundle differs from its reference: the bundle is not written."""


@dataclass(frozen=True)
class Answers:
    """The answers of an engine, in float32, at the points `x` of a proof, for `target`.

    `x` float64 (N, 3, H, W) fits in float32; `target` int64 (N,) is the class that it predicts.
    """

    x: Rows
    target: Int64[np.ndarray, " rows"]
    gradient: Gradient
    cams: Mapping[str, Cells]  # of Grad-CAM, by layer
    relevance: Rows | None


def answers_of(engine: Engine, batch: Batch) -> Answers:
    """The answers of `engine` at the points of the images `batch`."""
    x = points(engine.normalise(batch))
    rows = x.astype(np.float32)
    gradient = engine.gradient(rows, np.full(len(rows), -1))
    target = gradient.logits.argmax(1)
    names = engine.manifest.layer_names if engine.has(contract.CAM) else ()
    cams = {name: engine.cam(rows, target, name).cam for name in names}
    relevance = engine.relevance(rows, target).relevance if engine.has(contract.LRP) else None
    return Answers(x, target, gradient, cams, relevance)


def measure_float32(answers: Answers, proof: Proof) -> dict[str, Parity]:
    """The parity of the engine, in float32, with the graphs in float64, at the proof's images."""
    answer = answers.gradient
    pairs = {
        "logits": (answer.logits[:, :, None, None], proof.logits[:, :, None, None]),
        "saliency": (answer.gradient, proof.gradient),
    }
    for name, cam in proof.cams.items():
        pairs[parity_name(name)] = (answers.cams[name][: len(cam)], cam)
    if proof.relevance is not None and answers.relevance is not None:
        pairs["attn_lrp"] = (answers.relevance[: len(proof.relevance)], proof.relevance)
    return {name: compare(ours, theirs, FLOAT64) for name, (ours, theirs) in pairs.items()}


def measure_earlier(engine: Engine, proof: Proof) -> dict[str, Parity]:
    """The parity of the engine's Grad-CAM at the layers before the last one, in the same way."""
    x, measured = proof.x.astype(np.float32), {}
    for name, cam in proof.cams.items():
        if name != LAST:
            ours = engine.cam(x[: len(cam)], proof.target[: len(cam)], name).cam
            measured[parity_name(name)] = compare(ours, cam, FLOAT64)
    return measured


def check(measured: Mapping[str, Parity]) -> Mapping[str, Parity]:
    """`measured`, if every entry is within its limits.

    Raises:
        ParityError: an entry is not.
    """
    for name, parity in measured.items():
        kind, _, method = name.rpartition("/")
        largest_difference, least_cosine = LIMITS.get(name, LIMITS[kind])
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


def compare(ours: Rows, theirs: Rows, against: str = CAPTUMS) -> Parity:
    """The parity of two sets of attributions: medians over the rows (images).

    Values below the smallest of float32 count as zero.
    """
    a, b = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (ours, theirs))
    sizes = np.maximum(np.abs(b).max(1, keepdims=True), TINY)
    a, b = a / sizes, b / sizes
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms == 0, 1.0, (a * b).sum(1) / np.maximum(norms, TINY))
    largest = np.abs(a - b).max(1)
    return Parity(against, len(a), float(np.median(largest)), float(np.median(cosine)))
