"""The graphs that an engine runs: their names, and what goes in and comes out.

    image    uint8 (N, H, W, 3) RGB           into predict.onnx
    x        float32 (N, 3, H, W) normalised  into each other graph of a bundle
    target   int64 (N,), −1 = the predicted class
    logits   float32 (N, K)                   out of each

An output with a slash in its name is given on request alone: that of an earlier layer.

Those of a bundle have the names of their files (service/bundle/folder.py). The other two exist in
an engine only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from service.bundle import folder

STORED = (folder.PREDICT, *folder.DERIVED)
EXPLAINING = frozenset(folder.DERIVED)
QUICK = "quick"  # predict.onnx or predict.int8.onnx, for answers that no explanation is made from
PATH_GRADIENT = "path_gradient"  # of a GPU (service/runtime/path_gradient.py)

Batch = UInt8[np.ndarray, "rows H W 3"]
Shared = UInt8[np.ndarray, "#rows H W 3"]  # as many images as rows, or one for all
Rows = Float32[np.ndarray, "rows 3 H W"]
Targets = Int64[np.ndarray, "rows"]
Logits = Float32[np.ndarray, "rows classes"]
Feeds = Mapping[str, np.ndarray]
Names = Sequence[str]  # of the outputs that are wanted; none: those without a slash
Program = Callable[[Feeds, Names], dict[str, np.ndarray]]  # an open graph: outputs by name


def wanted(names: Iterable[str], asked: Names) -> list[str]:
    """Those of the outputs `names` that a run gives that is `asked` for some, or for none."""
    return [name for name in names if (name in asked if asked else "/" not in name)]


# The fields of these classes have the names of the graphs' outputs, which fill them.
class OutputRow(NamedTuple):
    """One row of `Outputs`: logits (K,), the nearest reference images, nearest first, and the
    activation (C, h, w).
    """

    logits: Float32[np.ndarray, " classes"]
    similarity: Float32[np.ndarray, " neighbours"] | None = None
    neighbour: Int64[np.ndarray, " neighbours"] | None = None
    activation: Float32[np.ndarray, "channels height width"] | None = None


class Outputs(NamedTuple):
    """Outputs of predict.onnx: `logits` (N, K) and, where the bundle has them, `features` (N, D).

    With reference images also the cosine `similarity` (N, k) of the nearest, nearest first, and
    their rows among the reference images, `neighbour` (N, k). On request the last layer's
    `activation` (N, C, h, w).
    """

    logits: Logits
    features: Float32[np.ndarray, "rows features"] | None = None
    similarity: Float32[np.ndarray, "rows neighbours"] | None = None
    neighbour: Int64[np.ndarray, "rows neighbours"] | None = None
    activation: Float32[np.ndarray, "rows channels height width"] | None = None

    def rows(self) -> list[OutputRow]:
        """The outputs, image by image."""
        absent = repeat(None)
        columns = (
            absent if values is None else values
            for values in (self.similarity, self.neighbour, self.activation)
        )
        return [OutputRow(*row) for row in zip(self.logits, *columns)]  # noqa: B905 - absent is endless


@dataclass(frozen=True)
class Gradient:
    """Outputs of gradient.onnx: `logits`, and the target logit's `gradient` per unit of x."""

    logits: Logits
    gradient: Rows


@dataclass(frozen=True)
class Cam:
    """The signed Grad-CAM `cam` of a layer, the layer's activation and gradient."""

    logits: Logits
    cam: Float32[np.ndarray, "rows 1 height width"]
    activation: Float32[np.ndarray, "rows channels height width"]
    activation_gradient: Float32[np.ndarray, "rows channels height width"]


@dataclass(frozen=True)
class Relevance:
    """Outputs of lrp.onnx: `logits`, and the `relevance` of each x in the target's logit."""

    logits: Logits
    relevance: Rows
