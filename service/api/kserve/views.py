"""The names under which the one network is served, for clients that follow the metadata.

    NAME         encoded images  →  all outputs
    NAME.logits  pixels, UINT8 (N, H, W, 3)                         →  logits
    NAME.floats  the network's own input, FP32 (N, 3, H, W)         →  logits
    NAME.files   encoded images, for Triton's client of ensembles   →  logits

Each of them takes every input and gives every output: they differ in what the metadata and the
configuration list, and in the outputs of a request that names none.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from service.api.kserve import arrays
from service.api.kserve.outputs import LOGITS, usual_names
from service.api.kserve.tensors import BYTES, FP32, UINT8, Row
from service.bundle.manifest import Manifest
from service.image.resize import Input

NHWC, NCHW, NONE = "FORMAT_NHWC", "FORMAT_NCHW", "FORMAT_NONE"
CHANNELS = 3


class View(NamedTuple):
    """A name, its one input and its one output; None for all outputs.

    `format` is Triton's word for the order of the axes.
    """

    suffix: str
    input: str
    datatype: str
    format: str
    output: str | None

    def name_of(self, manifest: Manifest) -> str:
        """The name in paths and answers."""
        return manifest.name + self.suffix

    def described_input(self, manifest: Manifest) -> dict[str, Any]:
        """The input as GET /v2/models/NAME lists it."""
        shape = [-1, *self._row_shape(manifest.input)]
        return {"name": self.input, "datatype": self.datatype, "shape": shape}

    def usual_outputs(self, manifest: Manifest) -> tuple[str, ...]:
        """The names of the outputs of a request that names none."""
        return usual_names(manifest) if self.output is None else (self.output,)

    def raw_row(self, body: bytes, spec: Input) -> Row:
        """The only row of a raw binary request, which holds no word about itself: a tensor of this
        input if `body` has its size, else an encoded image.
        """
        shape = (1, *self._row_shape(spec))
        if self.datatype == BYTES or len(body) != math.prod(shape) * self._item_bytes():
            return body
        row: Row = arrays.images(memoryview(body), shape, self.datatype, spec)[0]
        return row

    def _row_shape(self, spec: Input) -> tuple[int, ...]:
        axes = {NHWC: (*spec.shape, CHANNELS), NCHW: (CHANNELS, *spec.shape), NONE: ()}
        return axes[self.format]

    def _item_bytes(self) -> int:
        return np.dtype(arrays.DTYPES[self.datatype]).itemsize


VIEWS = (
    View("", "image", BYTES, NONE, None),
    View(".logits", "pixels", UINT8, NHWC, LOGITS),
    View(".floats", "x", FP32, NCHW, LOGITS),
    View(".files", "image", BYTES, NONE, LOGITS),
)


def format_of(shape: Sequence[int]) -> str:
    """Triton's word for the order of the axes of an input."""
    if len(shape) != arrays.AXES:
        return NONE
    return NHWC if shape[-1] == CHANNELS else NCHW


def names(manifest: Manifest) -> tuple[str, ...]:
    """The names under which the model is served."""
    return names_of(manifest.name)


def names_of(model: str) -> tuple[str, ...]:
    """The names under which a model of this name is served."""
    return tuple(model + view.suffix for view in VIEWS)


def find(name: str, manifest: Manifest) -> View:
    """The view called `name`, which is one of `names`."""
    return next(view for view in VIEWS if view.name_of(manifest) == name)
