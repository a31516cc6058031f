"""ONNX Runtime sessions of one bundle: device choice, warm-up, batched runs.

Arrays: `batch` uint8 (N, S, S, 3) RGB; `x` float32 (N, 3, S, S) normalised; `target` int64 (N,), −1 = the predicted class;
`logits` float32 (N, K). Any N is taken: more than `most_rows` rows run in several pieces, and on a GPU a piece is filled up to
the next size of `rows_of`, each of which was warmed, because every new shape costs a first slow run there.

On a CPU with several cores every graph is open twice: for one thread, which wastes nothing while all cores have work, and for all of
them, which answers a lone request sooner. `wide` says which is taken; it is a matter of speed alone. The threads of the second spin for
a moment between operators, for waking one takes longer than most operators do. Each time that a graph is open it has weights of its own, so
where several processes serve, what explains is open once in each, for one thread.

A GPU runs the half-precision graphs of a bundle that has them; a CPU never does, it would compute them by casting to float32 and back.
One thread runs what a GPU computes (service/runtime/cuda_graphs.py), and another, with a copy of predict.onnx, `predict_quick`: predictions wait for no
piece of an explanation. Whoever calls waits for them.

In the precision `int8`, for CPUs alone, `predict_quick` runs predict.int8.onnx; `predict`, and so every explanation, stays in float32.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.errors import BundleError, DeviceError, MethodUnavailable
from service.runtime import sessions
from service.runtime.cuda_graphs import resident
from service.settings import Device, Precision
from service.workers import host

CPU_ROWS = 16  # the most that run together: more gain nothing there
GPU_ROWS = (
    1,
    2,
    4,
    8,
    16,
    32,
    50,
    64,
)  # that run together; Integrated Gradients has 50 steps if not told otherwise
GPU_PIXELS = (
    16 * 224 * 224
)  # the most in a batch: of large images more rows gain little and take gigabytes (docs/benchmarks.md)
QUICK = "predict_quick"  # what runs for it: predict.int8.onnx or predict.onnx, on a GPU a copy that has a thread of its own
GRAPHS = (contract.PREDICT, contract.GRADIENT, contract.CAM)
PATH = "path"  # on a GPU alone: gradients along a straight way, summed there (service/runtime/path_gradient.py)
EXPLAINING = {contract.GRADIENT, contract.CAM}
SELF_TEST_TOLERANCE = (
    0.05  # logits; half precision and other kernels stay well below, a wrong graph does not
)
INT8_TOLERANCE = 0.03  # of the spread of the logits, more: a kernel that rounds otherwise moves one by two steps, each a 255th of its range

Logits = Float32[np.ndarray, "rows classes"]
Batch = UInt8[np.ndarray, "rows size size 3"]
Rows = Float32[np.ndarray, "rows 3 size size"]
Targets = Int64[np.ndarray, "rows"]
Turn = Callable[[int], int]
Feeds = Mapping[str, np.ndarray]
Program = Callable[[Feeds], dict[str, np.ndarray]]  # an open graph: its outputs for its inputs

log = logging.getLogger("candor")


class OutputRow(NamedTuple):
    """What predict.onnx says of one image: `logits` (K,) and, where the bundle can tell, its nearest reference rows, nearest first."""

    logits: Float32[np.ndarray, " classes"]
    similarity: Float32[np.ndarray, " neighbours"] | None = None
    neighbour: Int64[np.ndarray, " neighbours"] | None = None


class Outputs(NamedTuple):
    """What predict.onnx gives: `logits` (N, K) and, where the bundle has them, `features` float32 (N, D), what they look like.

    Where it has reference images: the `similarity` float32 (N, k) of the nearest and their rows, `neighbour` int64 (N, k).
    """

    logits: Logits
    features: Float32[np.ndarray, "rows features"] | None = None
    similarity: Float32[np.ndarray, "rows neighbours"] | None = None
    neighbour: Int64[np.ndarray, "rows neighbours"] | None = None

    def rows(self) -> list[OutputRow]:
        """The same, image by image."""
        if self.similarity is None or self.neighbour is None:
            return [OutputRow(logits) for logits in self.logits]
        return [
            OutputRow(*row)
            for row in zip(self.logits, self.similarity, self.neighbour, strict=True)
        ]


@dataclass(frozen=True)
class Gradient:
    """What gradient.onnx gives: `logits` (N, K) and the `gradient` (N, 3, S, S) of the target's logit, per unit of x."""

    logits: Logits
    gradient: Rows


@dataclass(frozen=True)
class Cam:
    """What cam.onnx gives: the signed Grad-CAM `cam` (N, 1, h, w), and what it is made of at its layer, both (N, C, h, w)."""

    logits: Logits
    cam: Float32[np.ndarray, "rows 1 height width"]
    activation: Float32[np.ndarray, "rows channels height width"]
    activation_gradient: Float32[np.ndarray, "rows channels height width"]


class Engine:
    """The sessions of one bundle on one device. Nothing is global: a second bundle is a second Engine."""

    def __init__(
        self,
        bundle: Bundle,
        device: Device = "auto",
        threads: int = 0,
        precision: Precision = "float32",
        *,
        alone: bool = True,
    ) -> None:
        """Opens, warms and self-tests every graph of `bundle`; `threads` is for one inference, 0 = every core.

        `precision` is that of `predict_quick`. Beside other processes, not `alone`, what explains is open for one thread only.

        Raises:
            DeviceError: `cuda` or `tensorrt` was asked for and does not run here.
            PrecisionError: `int8` was asked for, and the bundle has no such graph or the device is a GPU.
            BundleError: a graph cannot be opened, or answers the self-test image otherwise than the manifest says.
        """
        self.manifest: Manifest = bundle.manifest
        self.precision: Precision = precision
        self.wide = True
        self._lone = alone
        self._threads = threads or host.cores()
        self._turn: Turn = lambda rows: min(rows, self.most_rows)
        spec = self.manifest.input
        self._mean = (255 * np.asarray(spec.mean, np.float32)).reshape(1, 3, 1, 1)
        self._scale = (1 / (255 * np.asarray(spec.std, np.float32))).reshape(1, 3, 1, 1)
        self.device: Device = self._start(bundle, device)
        self._self_test(self.predict, self.manifest.self_test)
        if precision == "int8" and self.manifest.int8 is not None:
            contract.check_int8(bundle, self.device)  # `auto` may have found a GPU
            self._self_test(self.predict_quick, self.manifest.int8.self_test, INT8_TOLERANCE)

    @property
    def provider(self) -> str:
        """The execution provider that the sessions really run on."""
        return sessions.PROVIDERS[self.device]

    @cached_property
    def forward_seconds(self) -> float:
        """How long one image takes alone, by a clock: the unit of `Method.passes`."""
        return self._alone(self.predict)

    @cached_property
    def quick_seconds(self) -> float:
        """The same of `predict_quick`."""
        return self._alone(self.predict_quick)

    @cached_property
    def mean_logits(self) -> Float32[np.ndarray, " classes"]:
        """The logits of x = 0, the mean colour, with which most explanations compare an image; computed once."""
        size = self.manifest.input.size
        return np.asarray(
            self.gradient(np.zeros((1, 3, size, size), np.float32), np.zeros(1, np.int64)).logits[0]
        )

    def has(self, graph: str) -> bool:
        """Whether the bundle holds `graph`, for example `gradient.onnx`."""
        return graph in self._wide

    def paced(self, turn: "Callable[[Engine, int], int]") -> "Engine":
        """The same engine, which asks `turn` before every piece how many of the rows that are left it may have.

        `turn` may wait, raise, or set `wide`.
        """
        slow = copy(self)
        slow._turn = lambda rows: turn(slow, rows)  # noqa: SLF001 - our own
        return slow

    def normalise(self, batch: Batch) -> Rows:
        """`batch` as predict.onnx normalises it: (pixel / 255 − mean) / std, channels first."""
        return (np.moveaxis(batch, -1, 1).astype(np.float32) - self._mean) * self._scale

    def predict(self, batch: Batch) -> Outputs:
        """Logits, and features where the bundle has them, of uint8 (N, S, S, 3) images."""
        return self._predict(contract.PREDICT, batch)

    def predict_quick(self, batch: Batch) -> Outputs:
        """What `predict` gives, in the engine's precision: for answers that no explanation is computed from."""
        return self._predict(QUICK, batch)

    def gradient(self, x: Rows, target: Targets) -> Gradient:
        """The gradient of each row's target logit with respect to `x`.

        Raises:
            MethodUnavailable: the bundle has no gradient.onnx.
        """
        return Gradient(**self._run(contract.GRADIENT, {"x": x, "target": target}))

    def path(
        self,
        start: Rows,
        way: Rows,
        target: int,
        places: Float32[np.ndarray, " points"],
        shares: Float32[np.ndarray, " points"],
    ) -> Rows:
        """Σ share · the gradient of the `target` logit at start + place · way, of one row; where `has(PATH)`."""
        total, done = np.zeros_like(start), 0
        while done < len(places):
            end = done + self._turn(len(places) - done)
            place, share = (values[done:end].reshape(-1, 1, 1, 1) for values in (places, shares))
            feeds = {
                "start": start,
                "way": way,
                "place": place,
                "share": share,
                "target": np.full(end - done, target),
            }
            total += self._wide[PATH](feeds)["total"]
            done = end
        return total

    def cam(self, x: Rows, target: Targets) -> Cam:
        """Grad-CAM of each row's target logit at the bundle's layer.

        Raises:
            MethodUnavailable: the bundle has no cam.onnx.
        """
        return Cam(**self._run(contract.CAM, {"x": x, "target": target}))

    def _predict(self, graph: str, batch: Batch) -> Outputs:
        outputs = self._run(graph, {"image": batch})
        if "neighbour" in outputs:
            outputs["neighbour"] = outputs["neighbour"].astype(
                np.int64
            )  # ONNX Runtime's TopK gives C's long long, another type of as many bits
        return Outputs(**outputs)

    def _alone(self, call: Callable[[Batch], object]) -> float:
        image = self_test_image(self.manifest.input.size)
        return min(_seconds(lambda: call(image)) for _ in range(3))

    def _start(self, bundle: Bundle, wanted: Device) -> Device:
        if self.precision == "int8":
            contract.check_int8(bundle, wanted)
        if wanted != "auto":
            self._open_all(bundle, wanted)
            return wanted
        try:
            self._open_all(bundle, "cuda")
        except DeviceError as error:
            log.debug("running on the CPU: %s", error)
            self._open_all(bundle, "cpu")
            return "cpu"
        return "cuda"

    def _open_all(self, bundle: Bundle, device: Device) -> None:
        """Opens and warms every graph on `device`: a run is the proof that one can be had."""
        sessions.check(device)
        self.device = device
        self.most_rows = (
            CPU_ROWS if device == "cpu" else rows_of(self.manifest.input.size)[-1]
        )  # that run together
        contents = _contents(bundle, device)
        quick = (
            (contract.INT8, bundle.read(contract.INT8))
            if self.precision == "int8"
            else contents[contract.PREDICT]
        )
        explaining, predicting = (
            ThreadPoolExecutor(1, name) for name in ("explaining", "predicting")
        )  # threads only if used

        def opened(threads: int) -> dict[str, Program]:
            programs = {
                graph: self._open(*content, threads, explaining)
                for graph, content in contents.items()
            }
            shared = device == "cpu" and self.precision == "float32"
            programs[QUICK] = (
                programs[contract.PREDICT] if shared else self._open(*quick, threads, predicting)
            )
            return programs

        self._wide = opened(self._threads)
        self._narrow = opened(1) if device == "cpu" and self._threads > 1 else self._wide
        if not self._lone:
            self._wide |= {graph: self._narrow[graph] for graph in EXPLAINING & set(self._wide)}
        self._warm_up()

    def _open(self, file: str, graph: bytes, threads: int, thread: ThreadPoolExecutor) -> Program:
        if self.device != "cpu":
            return resident(file, graph, self.device, rows_of(self.manifest.input.size), thread)
        session = sessions.session(file, graph, self.device, threads)
        names = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))

    def _run(self, name: str, feeds: Feeds) -> dict[str, np.ndarray]:
        if not self.has(name):
            raise MethodUnavailable(
                f"this bundle has no {name}; GET /methods lists what it can explain with"
            )
        rows = len(next(iter(feeds.values())))
        start, end = 0, self._turn(rows)
        if end >= rows:
            return self._run_piece(name, feeds)
        pieces: list[dict[str, np.ndarray]] = []
        while start < rows:
            pieces.append(
                self._run_piece(name, {key: value[start:end] for key, value in feeds.items()})
            )
            start, end = end, end + self._turn(rows - end) if end < rows else end
        return {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}

    def _run_piece(self, name: str, feeds: Feeds) -> dict[str, np.ndarray]:
        return (self._wide if self.wide else self._narrow)[name](feeds)

    def _warm_up(self) -> None:
        calls: dict[str, Callable[[Batch], object]] = {
            contract.PREDICT: self.predict,
            QUICK: self.predict_quick,
            PATH: lambda batch: self.path(
                x := self.normalise(batch), x, 0, *np.ones((2, 1), np.float32)
            ),
            contract.GRADIENT: lambda batch: self.gradient(
                self.normalise(batch), _predicted(batch)
            ),
            contract.CAM: lambda batch: self.cam(self.normalise(batch), _predicted(batch)),
        }
        image = self_test_image(self.manifest.input.size)
        for self.wide in (False, True):
            for name in self._wide:
                calls[name](image)

    def _self_test(
        self,
        call: Callable[[Batch], Outputs],
        expected: tuple[int, float] | None,
        share: float = 0.0,
    ) -> None:
        """Refuses a class or a logit other than `expected`; `share` of the spread of the logits is added to the tolerance."""
        if expected is None:
            return
        expected_index, expected_logit = expected
        logits = call(self_test_image(self.manifest.input.size)).logits[0]
        index, tolerance = int(logits.argmax()), SELF_TEST_TOLERANCE + share * float(np.ptp(logits))
        if index != expected_index or abs(float(logits[index]) - expected_logit) > tolerance:
            raise BundleError(
                f"the self-test image gives class {index} with logit {logits[index]:.3f} on {self.provider}; "
                f"the manifest says class {expected_index} with {expected_logit:.3f}: export the bundle "
                "again, or try another CANDOR_DEVICE"
            )


def _contents(bundle: Bundle, device: Device) -> dict[str, tuple[str, bytes]]:
    """The file and the bytes of every graph that explanations may need on `device`."""
    files = {
        graph: sessions.file_of(graph, bundle.manifest.files, device)
        for graph in GRAPHS
        if bundle.has(graph)
    }
    contents = {graph: (file, bundle.read(file)) for graph, file in files.items()}
    if device != "cpu" and contract.GRADIENT in contents:
        from service.runtime.path_gradient import path_graph  # noqa: PLC0415 - onnx takes 0.1 s to import, and a CPU has no use for it

        file, gradient = contents[contract.GRADIENT]
        contents[PATH] = (file, path_graph(gradient))
    return contents


def rows_of(size: int) -> tuple[int, ...]:
    """How many rows, images of `size` × `size`, may run together on a GPU."""
    return tuple(rows for rows in GPU_ROWS if rows == 1 or rows * size * size <= GPU_PIXELS)


def self_test_image(size: int) -> UInt8[np.ndarray, "1 size size 3"]:
    """The image that every bundle is tested with at start: uint8 (1, size, size, 3), smooth colours, the same everywhere."""
    ramp = np.arange(size, dtype=np.int64) * 255 // max(size - 1, 1)
    red, green = np.broadcast_to(ramp, (size, size)), np.broadcast_to(ramp[:, None], (size, size))
    return np.stack([red, green, 255 - red], axis=-1)[None].astype(np.uint8)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _predicted(batch: Batch) -> Targets:
    return np.full(len(batch), -1, np.int64)
