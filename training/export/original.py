"""A foreign ONNX file as its author's code runs it: the answers that its bundle must give."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from jaxtyping import Float32, Float64, Num
from onnx import ModelProto

from service.bundle.calibration import Calibration
from service.bundle.calibration import Head as Kind
from training.export.ends import ForeignError
from training.export.faults import FREE_BATCH, STANDARD, worded
from training.export.source import Source

# Of a probability. Two float32 graphs of the same network differ less; logits beyond 10 are rounded
# by as much more, and the limit grows with them.
LIMIT, USUAL_LOGIT = 1e-5, 10.0
HALF_STEP = 2e-3  # of a probability that a file computes in half precision
ROWS = 8  # that run at once where the batch is free

Meaning = Literal["logits", "probabilities", "log-probabilities", "sigmoids"]
Images = Float32[np.ndarray, "rows channels H W"]
Values = Num[np.ndarray, "rows width"]
Probabilities = Float64[np.ndarray, "rows classes"]


@dataclass(frozen=True)
class Feed:
    """The way of images into a graph: its input's `name`, and its `batch`, None if free."""

    name: str
    batch: int | None

    def run(
        self, session: ort.InferenceSession, rows: np.ndarray, outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The `outputs` (N, …) that have a row for each of the N `rows` of the input, by name.

        Raises:
            ForeignError: ONNX Runtime cannot run the file.
        """
        size = self.batch or min(ROWS, len(rows))
        # The last batch is filled with copies of its last image.
        short = -len(rows) % size
        filled = np.concatenate([rows, np.repeat(rows[-1:], short, 0)])
        parts = [
            _run(session, outputs, {self.name: np.ascontiguousarray(filled[at : at + size])})
            for at in range(0, len(filled), size)
        ]
        results: dict[str, np.ndarray] = {}
        for name, *values in zip(outputs, *parts, strict=True):
            by_row = [each for part in values if (each := _by_row(part, size)) is not None]
            if len(by_row) == len(values):
                results[name] = np.concatenate(by_row)[: len(rows)]
        return results


def _by_row(values: np.ndarray, rows: int) -> np.ndarray | None:
    """`values` (rows, …); of one image, the batch may be missing. None if they have other rows."""
    if values.shape[:1] == (rows,):
        return values
    return values[None] if rows == 1 else None


@dataclass(frozen=True)
class Head:
    """The output `name` of a file and the `meaning` of its values, `width` for each image.

    `step` is the distance of its values where they are rounded to int8, or 0.
    """

    name: str
    meaning: Meaning
    width: int
    step: float = 0.0

    @property
    def kind(self) -> Kind:
        """The head of the bundle."""
        return "sigmoid" if self.meaning == "sigmoids" and self.width > 1 else "softmax"

    @property
    def classes(self) -> int:
        """K: one value is that of the second of two classes."""
        return max(2, self.width)

    def probabilities(self, values: Values) -> Probabilities:
        """The probabilities (N, K) that the file's `values` mean."""
        values = values.astype(np.float64)
        if self.width == 1:
            second = (
                Calibration(head="sigmoid").probabilities(values)
                if self.meaning == "logits"
                else values
            )
            return np.concatenate([1 - second, second], 1)
        if self.meaning == "logits":
            return Calibration().probabilities(values)
        return np.exp(values) if self.meaning == "log-probabilities" else values


class Agreement(NamedTuple):
    """The largest `difference` of a probability, its `limit`, and the images of the same class."""

    difference: float
    limit: float
    same: int


@dataclass(frozen=True)
class Original:
    """A file, its input and the meaning of its output."""

    path: Path
    source: Source
    head: Head

    def probabilities(self, images: Images) -> Probabilities:
        """The probabilities (N, K) of `images` float32 (N, 3, H, W), normalised.

        Raises:
            ForeignError: ONNX Runtime cannot run the file.
        """
        feed, rows = Feed(self.source.name, self.source.batch), self.source.values(images)
        values = feed.run(self._session(), rows, [self.head.name])[self.head.name]
        return self.head.probabilities(values.reshape(len(images), self.head.width))

    def compare(self, images: Images, served: Probabilities, largest_logit: float) -> Agreement:
        """The agreement of the probabilities `served` with those of the file.

        Raises:
            ForeignError: they differ by more than the limit, or ONNX Runtime cannot run the file.
        """
        theirs = self.probabilities(images)
        difference = float(np.abs(served - theirs).max())
        step = max(self.head.step, HALF_STEP if self.source.half else 0.0)
        limit = LIMIT * max(1.0, largest_logit / USUAL_LOGIT) + step
        if not difference <= limit:  # not ">", which is false for NaN
            raise ForeignError(
                f"the bundle's probabilities differ from those of {self.path.name} by "
                f"{difference:.1e}, and the limit is {limit:.1e}: name the tensor of the logits "
                "with --output, or export the file again"
            )
        return Agreement(difference, limit, int((served.argmax(1) == theirs.argmax(1)).sum()))

    @classmethod
    def opened(cls, path: Path, source: Source, head: Head) -> "Original | None":
        """The file in `path`; None if it cannot be run as it is.

        ONNX Runtime does not open some that are older than opset 7, and `source` may be a tensor
        inside.
        """
        original = cls(path, source, head)
        try:
            inputs = [each.name for each in original._session().get_inputs()]
        except ForeignError:
            return None
        return original if source.name in inputs else None

    def _session(self) -> ort.InferenceSession:
        # Not kept: the weights would be in memory for as long as the bundle is made.
        return session_of(self._content())

    def _content(self) -> str | bytes:
        model = onnx.load(self.path, load_external_data=False)
        if self.head.name in (output.name for output in model.graph.output):
            return str(self.path)
        model = onnx.load(self.path)
        show(model, [self.head.name])
        return bytes(model.SerializeToString())


def show(model: ModelProto, tensors: Sequence[str]) -> None:
    """Makes `tensors` outputs of `model`, in place."""
    shown = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in tensors if name not in shown
    )


def session_of(model: str | bytes) -> ort.InferenceSession:
    """A session of a file, or of the bytes of one, that computes every tensor as it is written.

    Raises:
        ForeignError: ONNX Runtime cannot open it.
    """
    options = ort.SessionOptions()
    # An optimiser may replace the tensors that are asked for, and fuse the rounding of int8.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # its exceptions say the same
    # A few runs are not worth a second copy of the weights in another layout.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with worded("ONNX Runtime cannot load the graph", STANDARD):
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(
    session: ort.InferenceSession, outputs: Sequence[str], feeds: dict[str, np.ndarray]
) -> list[Any]:
    (image,) = feeds.values()
    with worded(
        f"ONNX Runtime cannot run the graph with an input {image.shape}",
        f"correct --size, or {FREE_BATCH}",
    ):
        return list(session.run(list(outputs), feeds))
