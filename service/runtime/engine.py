"""The calls of a bundle's graphs: any number of rows in, arrays out.

More than `most_rows` rows run in several pieces, and of `predict_quick` more than `quick_rows`. On
a GPU a piece is filled up to the next warmed batch size, for every new shape costs a slow first run
there. `predict` and every explanation are in float32, or on a GPU in the half precision of a bundle
that has it, or in bfloat16 by OpenVINO. `predict_quick` alone runs in the precision `int8`, if the
engine has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from service.bundle import folder
from service.bundle.folder import Bundle
from service.bundle.manifest import LAST, Manifest
from service.errors import MethodUnavailable, Unavailable, short
from service.runtime import providers
from service.runtime.choice import Choice
from service.runtime.graphs import (
    PATH_GRADIENT,
    QUICK,
    Batch,
    Cam,
    Feeds,
    Gradient,
    Names,
    Outputs,
    Relevance,
    Rows,
    Shared,
    Targets,
)
from service.runtime.head import ACTIVATION, Activation, Activations, ImageLogits
from service.runtime.health import Health
from service.runtime.sessions import Sessions, Timings, open_sessions
from service.settings import Device, Precision


class Piece(NamedTuple):
    """The next `rows` to run together, on all cores or on one; both give the same answer."""

    rows: int
    all_cores: bool


class Budget:
    """The time of an explanation; this one has no end."""

    def has_time_for(self, graph: str, rows: int) -> bool:  # noqa: ARG002 - for those with an end
        """True if so many more rows of `graph` end in time."""
        return True

    def ran(self, graph: str, rows: int) -> None:
        """Notes that so many rows of `graph` have run."""


ENDLESS = Budget()


class Engine:
    """The calls of one bundle on one device. A second bundle is a second Engine.

    The last reference to an engine and its views frees all that it took: there is nothing to close.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device = "auto",
        threads: int = 0,
        precision: Precision = "float32",
        *,
        alone: bool = True,
        health: Health | None = None,
        choice: Choice | None = None,
        timings: Timings | None = None,
    ) -> None:
        """Opens, warms up and self-tests every graph of `bundle`; `health` notes the later runs.

        `threads` is the number of threads of one inference, 0 = every core. `precision` is that of
        `predict_quick`. Beside other workers, not `alone`, explanations have one core. A `choice`
        of OpenVINO has a precision of its own; where OpenVINO fails, ONNX Runtime computes.
        `timings` are those of an engine like this one: they take half of the time of an opening.

        Raises:
            DeviceError: `device` is not `auto` and does not work here.
            PrecisionError: the bundle has no int8 graph, or the device is a GPU.
            BundleError: a graph cannot be opened, or fails its self-test.
        """
        chosen = choice or Choice(precision=precision)
        sessions = open_sessions(bundle, device, threads, chosen, alone=alone)
        if timings is not None:
            sessions = replace(sessions, timings=timings)
        self._attach(sessions, health or Health())

    def _attach(self, sessions: Sessions, health: Health) -> None:
        self._sessions = sessions
        self.health = health
        self._budget = ENDLESS
        self.manifest: Manifest = sessions.manifest
        self.device: Device = sessions.device
        self.precision: Precision = sessions.precision
        self.choice: Choice = sessions.choice
        self.most_rows, self.batch_rows = sessions.most_rows, sessions.batch_rows
        self.quick_rows = sessions.quick_rows
        spec = self.manifest.input
        self._mean = (255 * np.asarray(spec.mean, np.float32)).reshape(1, 3, 1, 1)
        self._scale = (1 / (255 * np.asarray(spec.std, np.float32))).reshape(1, 3, 1, 1)

    @property
    def provider(self) -> str:
        """The execution provider that the sessions run on, or OpenVINO."""
        return self._sessions.provider

    def origin(self, graph: str) -> dict[str, str]:
        """The `graph` file, `engine` and `precision` that an explanation is computed by."""
        stored = folder.PREDICT if graph == QUICK else graph
        if graph == QUICK and self.precision == "int8":
            file, precision = folder.INT8, "int8"
        else:
            file = providers.file_of(stored, self.manifest.files, self.device)
            wide = "bfloat16" if self.choice.precision_of(stored) == "bfloat16" else "float32"
            precision = "float16" if providers.is_half(file) else wide
        return {"graph": file, "engine": self.choice.of(stored).runtime, "precision": precision}

    @property
    def forward_seconds(self) -> float:
        """The seconds of `predict` for one image, measured once: the unit of `Method.passes`."""
        return self._sessions.forward_seconds

    @property
    def quick_seconds(self) -> float:
        """The seconds of `predict_quick` for one image, measured once."""
        return self._sessions.quick_seconds

    @property
    def rows_at_once(self) -> int:
        """The rows of an explanation that run side by side, where cores take a row each."""
        return self._sessions.rows_at_once

    @property
    def mean_logits(self) -> Float32[np.ndarray, " classes"]:
        """The logits (K,) of x = 0, computed once.

        Raises:
            MethodUnavailable: the bundle has no gradient.onnx.
        """
        return self._sessions.mean_logits

    def has(self, graph: str) -> bool:
        """True if the engine has `graph`, for example `gradient.onnx`."""
        return graph in self._sessions.all_cores

    def row_seconds(self, graph: str) -> float:
        """The seconds of a row of `graph`, beside others in a piece, measured once.

        Raises:
            MethodUnavailable: the bundle has no such graph.
        """
        return self._sessions.row_seconds(graph)

    def has_time_for(self, graph: str, rows: int) -> bool:
        """True if so many more rows of `graph` end in time, by the budget."""
        return self._budget.has_time_for(graph, rows)

    def paced(self, pacer: Callable[[int], Piece], budget: Budget = ENDLESS) -> "Engine":
        """A view of this engine that calls `pacer(remaining)` before each piece.

        The pacer may wait, or raise to give up. `budget` is asked for more time, and hears of each
        piece that ran.
        """
        return PacedEngine(self, pacer, budget)

    def on_one_core(self) -> "Engine":
        """A view of this engine that leaves the other cores to other work."""
        return self.paced(lambda remaining: Piece(min(remaining, self.most_rows), all_cores=False))

    def pause(self) -> None:
        """Lets other work go first between two steps of algebra, as between two pieces.

        The pacer of a paced engine may wait, or raise to give up.
        """
        self._next_piece(1)

    def normalise(self, batch: Batch) -> Rows:
        """`batch` as predict.onnx normalises it: (pixel / 255 − mean) / std, channels first."""
        return (np.moveaxis(batch, -1, 1).astype(np.float32) - self._mean) * self._scale

    def self_test(self) -> None:
        """Runs predict.onnx on the self-test image again; `health` does not note it.

        Raises:
            BundleError: the answer is not the one of the manifest.
            Exception: the device fails.
        """
        self._sessions.self_test()

    def close(self) -> None:
        """Frees the memory of the sessions: this engine and its views compute nothing more."""
        self._sessions.close()

    def predict(self, batch: Batch) -> Outputs:
        """The outputs of predict.onnx, in the precision of the explanations."""
        return self._predict(folder.PREDICT, batch)

    def predict_quick(self, batch: Batch, *, activation: bool = False) -> Outputs:
        """The outputs of predict.onnx, in the engine's precision; the last layer's `activation`
        among them if it is asked for, which only an engine in `one_pass` can give.
        """
        return self._predict(QUICK, batch, (*Outputs._fields, ACTIVATION) if activation else ())

    def gradient(self, x: Rows, target: Targets) -> Gradient:
        """The gradient of each row's target logit with respect to `x`.

        Raises:
            MethodUnavailable: the bundle has no gradient.onnx.
        """
        return Gradient(**self._run(folder.GRADIENT, {"x": x, "target": target}))

    def path_gradient(
        self,
        start: Rows,
        difference: Rows,
        target: int,
        points: Float32[np.ndarray, " points"],
        weights: Float32[np.ndarray, " points"],
    ) -> Rows:
        """Σ weight · the gradient of the `target` logit at start + point · difference, of one row.

        Only where the engine `has(PATH_GRADIENT)`.
        """
        total, done = np.zeros_like(start), 0
        while done < len(points):
            piece = self._next_piece(len(points) - done)
            end = done + piece.rows
            point, weight = (values[done:end].reshape(-1, 1, 1, 1) for values in (points, weights))
            feeds = {
                "start": start,
                "difference": difference,
                "point": point,
                "weight": weight,
                "target": np.full(piece.rows, target),
            }
            total += self._call(PATH_GRADIENT, feeds, piece)["total"]
            done = end
        return total

    @property
    def one_pass(self) -> bool:
        """True if a prediction can give what a class activation map needs (`seeing`)."""
        return self._sessions.head is not None

    @property
    def bias(self) -> ImageLogits | None:
        """The logits (K,) where the last layer's activation is zero, if they are linear in it, so
        that Grad-CAM adds up to the rest; None otherwise, or where that is not known.
        """
        return None if self._sessions.head is None else self._sessions.head.bias

    def cams(
        self, activations: Activations, classes: Sequence[tuple[int, ...]]
    ) -> Float32[np.ndarray, "rows each height width"]:
        """Grad-CAM at the last layer of each image for each of its `classes`, of the `activations`
        that their prediction gave; of an engine with a `bias` alone.
        """
        assert self._sessions.head is not None
        return self._sessions.head.cams(activations, classes)

    def seeing(self, logits: ImageLogits, activation: Activation) -> "Engine":
        """A view of this engine for one image, with what its prediction gave.

        Class activation maps of the last layer then run the head alone.
        """
        return SeeingEngine(self, logits, activation)

    def cam_of(self, batch: Shared, target: Targets, layer: str = LAST) -> Cam:
        """`cam` of images uint8 (N, H, W, 3), or of one for all targets."""
        x = self.normalise(batch)
        return self.cam(x if len(x) == len(target) else x.repeat(len(target), 0), target, layer)

    def cam(self, x: Rows, target: Targets, layer: str = LAST) -> Cam:
        """Grad-CAM of each row's target logit at a layer of the manifest.

        An earlier layer than the last one costs what a gradient does: gradient.onnx has it.

        Raises:
            MethodUnavailable: the bundle has no cam.onnx, or no such layer.
        """
        feeds = {"x": x, "target": target}
        if layer == LAST:
            return Cam(**self._run(folder.CAM, feeds))
        if layer not in self.manifest.layer_names:
            raise MethodUnavailable(
                f"this bundle has no layer {short(layer)}; "
                f"it has {', '.join(self.manifest.layer_names)}"
            )
        names = "logits", f"activation/{layer}", f"activation_gradient/{layer}"
        outputs = self._run(folder.GRADIENT, feeds, names)
        logits, activation, gradient = (outputs[name] for name in names)
        weights = gradient.mean((2, 3), keepdims=True)
        return Cam(logits, (weights * activation).sum(1, keepdims=True), activation, gradient)

    def relevance(self, x: Rows, target: Targets) -> Relevance:
        """The relevance of `x` in each row's target logit.

        Raises:
            MethodUnavailable: the bundle has no lrp.onnx.
        """
        return Relevance(**self._run(folder.LRP, {"x": x, "target": target}))

    def _predict(self, graph: str, batch: Batch, asked: Names = ()) -> Outputs:
        outputs = self._run(graph, {"image": batch}, asked)
        if ACTIVATION in outputs:
            outputs["activation"] = outputs.pop(ACTIVATION)
        if "neighbour" in outputs:
            # ONNX Runtime's TopK gives C's long long, another type of as many bits.
            outputs["neighbour"] = outputs["neighbour"].astype(np.int64)
        return Outputs(**outputs)

    def _next_piece(self, remaining: int) -> Piece:
        return Piece(min(remaining, self.most_rows), all_cores=True)

    def _run(self, graph: str, feeds: Feeds, asked: Names = ()) -> dict[str, np.ndarray]:
        rows = len(next(iter(feeds.values())))
        piece = self._next_piece(rows)
        if graph == QUICK and rows <= self.quick_rows:
            piece = piece._replace(rows=rows)
        if piece.rows >= rows:
            return self._call(graph, feeds, piece, asked)
        outputs: list[dict[str, np.ndarray]] = []
        start = 0
        while True:
            end = start + piece.rows
            part = {name: values[start:end] for name, values in feeds.items()}
            outputs.append(self._call(graph, part, piece, asked))
            if end >= rows:
                break
            start, piece = end, self._next_piece(rows - end)
        return {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}

    def _call(
        self, graph: str, feeds: Feeds, piece: Piece, asked: Names = ()
    ) -> dict[str, np.ndarray]:
        try:
            outputs = self._sessions.run(graph, feeds, asked, all_cores=piece.all_cores)
        except MethodUnavailable:
            raise
        except Exception as error:
            self.health.failed(error)
            raise Unavailable(
                f"inference failed on {self.provider}: retry, or ask another replica"
            ) from error
        self.health.succeeded()
        self._budget.ran(graph, piece.rows)
        return outputs


class PacedEngine(Engine):
    """A view of an engine, on the same sessions, with a pace and a budget of its own."""

    def __init__(
        self, engine: Engine, pacer: Callable[[int], Piece], budget: Budget = ENDLESS
    ) -> None:
        vars(self).update(vars(engine))
        self._pacer = pacer
        self._budget = budget

    def _next_piece(self, remaining: int) -> Piece:
        return self._pacer(remaining)


class SeeingEngine(Engine):
    """A view of an engine, on the same sessions, for one image that was predicted."""

    def __init__(self, engine: Engine, logits: ImageLogits, activation: Activation) -> None:
        vars(self).update(vars(engine))
        self._logits, self._activation = logits, activation

    def origin(self, graph: str) -> dict[str, str]:
        """As that of the engine; a map of the last layer is the prediction's."""
        return super().origin(QUICK if graph == folder.CAM else graph)

    def cam_of(self, batch: Shared, target: Targets, layer: str = LAST) -> Cam:
        """Grad-CAM of the image for each target; `batch` is the image."""
        head = self._sessions.head
        if head is None or layer != LAST:
            return super().cam_of(batch, target, layer)
        return head.cam(self._activation, self._logits, target)
