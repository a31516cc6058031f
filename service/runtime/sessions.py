"""All graphs of one bundle, open on one device: opened, warmed up and self-tested at the start.

On a CPU with several cores every graph is open twice (`service.runtime.cpu`). A GPU has a thread
for explanations and one for predictions, with a copy of predict.onnx: predictions never wait for a
piece of an explanation.
"""

import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float32, UInt8

from service.bundle import folder
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.errors import BundleError, DeviceError, MethodUnavailable
from service.image.resize import Size, pixels_of, sides
from service.runtime import openvino, providers
from service.runtime.choice import Choice
from service.runtime.cpu import Contents, open_on_cpu
from service.runtime.cuda_graphs import open_bound
from service.runtime.graphs import (
    PATH_GRADIENT,
    QUICK,
    STORED,
    Feeds,
    Names,
    Program,
)
from service.runtime.head import Head, explained_graph, head_graph
from service.settings import Device, Precision
from service.workers import host

# The most that run together on a CPU, where more gain nothing; of large images fewer, because the
# gradient of one at 224 × 224 takes 45 MB (docs/benchmarks.md).
CPU_ROWS, CPU_PIXELS = 16, 2 * 224 * 224
# Of predictions that are answered together, which gives more answers a second. In bfloat16 they run
# together, too; in float32 that is slower (docs/benchmarks.md).
BATCH_PIXELS = 2 * CPU_PIXELS
# The 50 are the default steps of Integrated Gradients.
GPU_ROWS = (1, 2, 4, 8, 16, 32, 50, 64)
# The most in a batch: of large images more rows gain little and take gigabytes.
GPU_PIXELS = 16 * 224 * 224
# In logits. Half precision and other kernels stay well below; a wrong graph does not.
SELF_TEST_TOLERANCE = 0.05
# More, as a share of the spread of the logits: a kernel that rounds otherwise moves a logit by two
# steps, each a 255th of the range.
INT8_TOLERANCE = 0.03
BFLOAT16_TOLERANCE = 0.1  # the same, of 8 bits of each tensor; a MobileNet measures 0.06

# Of the measurement of a graph at the start.
MOST_RUNS, MEASURED_SECONDS = 3, 0.5

# The seconds of a run, by the clock and of all threads, by its graph and rows.
Timings = dict[tuple[str, int], tuple[float, float]]
log = logging.getLogger("candor")


@dataclass(frozen=True)
class Sessions:
    """The open graphs by name: `all_cores` for a lone request, `one_core` beside other work.

    `most_rows` run together, and `batch_rows` predictions are best answered together. On a GPU, and
    on a single core, both sets of graphs are the same. A lone request has so many `threads`. With a
    `head` QUICK gives its activation, on request. What `timings` have is not measured again.
    """

    manifest: Manifest
    device: Device
    choice: Choice
    most_rows: int
    batch_rows: int
    all_cores: dict[str, Program]
    one_core: dict[str, Program]
    threads: int = 1
    head: Head | None = None
    timings: Timings = field(default_factory=dict)

    def run(
        self, graph: str, feeds: Feeds, outputs: Names = (), *, all_cores: bool = True
    ) -> dict[str, np.ndarray]:
        """The `outputs` of `graph` by name, of one batch; those without a slash if none are named.

        Raises:
            MethodUnavailable: the bundle has no such graph.
        """
        programs = self.all_cores if all_cores else self.one_core
        if graph not in programs:
            raise MethodUnavailable(
                f"this bundle has no {graph}; GET /methods lists what it can explain with"
            )
        return programs[graph](feeds, outputs)

    def close(self) -> None:
        """Lets the graphs go, whoever still refers to these sessions; nothing runs after it."""
        for programs in (self.all_cores, self.one_core):
            programs.clear()

    def self_test(self) -> None:
        """Runs predict.onnx and QUICK on the self-test image, and checks the answers.

        Raises:
            BundleError: an answer is not the one of the manifest.
        """
        float32, int8 = self.manifest.self_test, self.manifest.int8
        tolerance = BFLOAT16_TOLERANCE if self.precision == "bfloat16" else 0.0
        _self_test(self, folder.PREDICT, float32, tolerance)
        if self.precision == "int8" and int8 is not None:
            _self_test(self, QUICK, int8.self_test, INT8_TOLERANCE)
        else:
            _self_test(self, QUICK, float32, tolerance)

    @property
    def precision(self) -> Precision:
        """The precision of QUICK."""
        return self.choice.precision

    @property
    def quick_rows(self) -> int:
        """The most rows of QUICK that run together."""
        return self.batch_rows if self.precision == "bfloat16" else self.most_rows

    @property
    def provider(self) -> str:
        """The execution provider that computes, or OpenVINO."""
        is_openvino = self.choice.runtime == "openvino"
        return openvino.PROVIDER if is_openvino else providers.PROVIDERS[self.device]

    @property
    def forward_seconds(self) -> float:
        """The seconds of predict.onnx for one image: the unit of `Method.passes`."""
        return self._timing(folder.PREDICT, 1)[0]

    @property
    def quick_seconds(self) -> float:
        """The seconds of QUICK for one image if nothing else runs; on a CPU a core's, at most."""
        wall, busy = self._timing(QUICK, 1)
        # Workers that start together measure together, and wait for each other.
        return min(wall, busy) if self.device == "cpu" else wall

    def row_seconds(self, graph: str) -> float:
        """The seconds of a row of `graph` in a piece of the largest size if nothing else runs.

        Raises:
            MethodUnavailable: the bundle has no such graph.
        """
        wall, busy = self._timing(graph, self.most_rows)
        # On a CPU that others use, too, a run waits for its turns: its threads spin when they have
        # nothing to do, so their time is that of a run without others.
        seconds = min(wall, busy / self.threads) if self.device == "cpu" else wall
        return seconds / self.most_rows

    @property
    def rows_at_once(self) -> int:
        """The rows of an explanation that run side by side, where cores take a row each."""
        return min(self.threads, self.most_rows) if self.device == "cpu" else 1

    @cached_property
    def mean_logits(self) -> Float32[np.ndarray, " classes"]:
        """The logits (K,) of x = 0, the mean colour, which is the baseline of most explanations.

        Raises:
            MethodUnavailable: the bundle has no gradient.onnx, which alone takes x.
        """
        x = np.zeros((1, 3, *self.manifest.input.shape), np.float32)
        target = np.zeros(1, np.int64)
        return np.asarray(self.run(folder.GRADIENT, {"x": x, "target": target})["logits"][0])

    def _timing(self, graph: str, rows: int) -> tuple[float, float]:
        """The least seconds, and the least of all threads, of a few runs that take no second."""
        if (graph, rows) not in self.timings:
            feeds = _feeds(self.manifest.input.size, graph, rows)
            walls: list[float] = []
            busy: list[float] = []
            # The first run of so many rows may compile the graph for them.
            while len(walls) < MOST_RUNS and sum(walls[1:]) < MEASURED_SECONDS:
                started, busy_at_start = time.perf_counter(), time.process_time()
                self.run(graph, feeds)
                walls.append(time.perf_counter() - started)
                busy.append(time.process_time() - busy_at_start)
            self.timings[graph, rows] = min(walls), min(busy)
        return self.timings[graph, rows]


def open_sessions(
    bundle: Bundle, device: Device, threads: int, choice: Choice, *, alone: bool
) -> Sessions:
    """Opens, warms up and self-tests every graph of `bundle`; the arguments are the engine's.

    Raises:
        DeviceError: `device` is not `auto` and does not work here.
        PrecisionError: the bundle has no int8 graph, or the device is a GPU.
        BundleError: a graph cannot be opened, or fails its self-test.
    """
    if choice.precision == "int8":
        folder.check_int8(bundle, device)
    if choice.has_openvino:
        try:
            sessions = _open_all(bundle, "cpu", threads, choice, alone=alone)
            sessions.self_test()
        except (BundleError, RuntimeError) as error:  # OpenVINO has no class of its own
            log.warning("%s: ONNX Runtime serves instead", str(error).partition("\n")[0])
            choice = choice.without_openvino()
        else:
            return sessions
    if device != "auto":
        sessions = _open_all(bundle, device, threads, choice, alone=alone)
    else:
        try:
            sessions = _open_all(bundle, "cuda", threads, choice, alone=alone)
        except DeviceError as error:
            log.debug("running on the CPU: %s", error)
            sessions = _open_all(bundle, "cpu", threads, choice, alone=alone)
    if choice.precision == "int8":
        folder.check_int8(bundle, sessions.device)  # `auto` may have found a GPU
    sessions.self_test()
    return sessions


def rows_of(size: Size) -> tuple[int, ...]:
    """The batch sizes that a GPU is warmed up for, of images of `size`."""
    pixels = pixels_of(size)
    return tuple(rows for rows in GPU_ROWS if rows == 1 or rows * pixels <= GPU_PIXELS)


def cpu_rows(size: Size, pixels: int = CPU_PIXELS) -> int:
    """The most images of `size` that run together on a CPU, of so many `pixels` in all."""
    return max(1, min(CPU_ROWS, pixels // pixels_of(size)))


def self_test_image(size: Size) -> UInt8[np.ndarray, "1 H W 3"]:
    """The image that every bundle is self-tested with: smooth colours, the same everywhere."""
    down, across = (
        np.arange(side, dtype=np.int64) * 255 // max(side - 1, 1) for side in sides(size)
    )
    green, red = np.meshgrid(down, across, indexing="ij")
    return np.stack([red, green, 255 - red], axis=-1)[None].astype(np.uint8)


def _open_all(
    bundle: Bundle, device: Device, threads: int, choice: Choice, *, alone: bool
) -> Sessions:
    """Opens and warms up every graph on `device`."""
    providers.check(device)
    contents = _contents(bundle, device, choice.precision)
    in_one_pass = device == "cpu" and choice.makes_cams(bundle.manifest)
    head = _in_one_pass(contents) if in_one_pass else None
    size = bundle.manifest.input.size
    sizes, threads = rows_of(size), threads or host.cores()
    if device == "cpu":
        one_core, all_cores = open_on_cpu(contents, threads, choice, alone=alone)
        most = cpu_rows(size), cpu_rows(size, BATCH_PIXELS)
    else:
        all_cores = one_core = _on_gpu(contents, device, sizes)
        most = sizes[-1], sizes[-1]
    sessions = Sessions(bundle.manifest, device, choice, *most, all_cores, one_core, threads, head)
    _warm_up(sessions)
    return sessions


def _contents(bundle: Bundle, device: Device, precision: Precision) -> Contents:
    """The file and the bytes of every graph that `device` runs."""
    files = {
        graph: providers.file_of(graph, bundle.manifest.files, device)
        for graph in STORED
        if bundle.has(graph)
    }
    contents = {graph: (file, bundle.read(file)) for graph, file in files.items()}
    contents[QUICK] = (
        (folder.INT8, bundle.read(folder.INT8)) if precision == "int8" else contents[folder.PREDICT]
    )
    if device != "cpu" and folder.GRADIENT in contents:
        # onnx takes 0.1 s to import, and a CPU has no use for it.
        from service.runtime.path_gradient import path_gradient_graph  # noqa: PLC0415

        file, gradient = contents[folder.GRADIENT]
        contents[PATH_GRADIENT] = (file, path_gradient_graph(gradient))
    return contents


def _in_one_pass(contents: Contents) -> Head | None:
    """The head of a bundle with cam.onnx; QUICK in `contents` then gives the activation."""
    if folder.CAM not in contents:
        return None
    file, predict = contents[QUICK]
    explained, head = explained_graph(predict), head_graph(contents[folder.CAM][1])
    if explained is None or head is None:
        return None
    for graph in (folder.PREDICT, QUICK):
        if contents[graph][0] == file:
            contents[graph] = file, explained
    return Head(head)


def _on_gpu(contents: Contents, device: Device, sizes: Iterable[int]) -> dict[str, Program]:
    explaining, predicting = (ThreadPoolExecutor(1, name) for name in ("explaining", "predicting"))
    return {
        graph: open_bound(
            file, content, device, tuple(sizes), predicting if graph == QUICK else explaining
        )
        for graph, (file, content) in contents.items()
    }


def _warm_up(sessions: Sessions) -> None:
    """Runs every graph once on either number of cores, and QUICK with each number of rows that is
    compiled for, and with another: the first run of each is slow.
    """
    size = sessions.manifest.input.size
    quick = [rows for rows in (2, *openvino.OFTEN) if rows <= sessions.quick_rows]
    # With one core both are the same sessions.
    is_once = sessions.device == "cpu" and sessions.one_core is sessions.all_cores
    for all_cores in (False,) if is_once else (False, True):
        for graph in sessions.all_cores:
            for rows in quick if graph == QUICK else [1]:
                sessions.run(graph, _feeds(size, graph, rows), all_cores=all_cores)


def _feeds(size: Size, graph: str, rows: int) -> Feeds:
    """What `graph` takes for so many `rows` of the size of an input; of a path, points."""
    if graph in (folder.PREDICT, QUICK):
        return {"image": self_test_image(size).repeat(rows, 0)}
    images = 1 if graph == PATH_GRADIENT else rows
    x, target = np.zeros((images, 3, *sides(size)), np.float32), np.full(rows, -1, np.int64)
    if graph != PATH_GRADIENT:
        return {"x": x, "target": target}
    points = np.ones((rows, 1, 1, 1), np.float32)
    return {"start": x, "difference": x, "point": points, "weight": points, "target": target}


def _self_test(
    sessions: Sessions, graph: str, expected: tuple[int, float] | None, share: float = 0.0
) -> None:
    """Checks the answer to the self-test image; `share` of the logits' spread is tolerated, too.

    Raises:
        BundleError: the class or its logit is not the `expected` one.
    """
    logits = sessions.run(graph, {"image": self_test_image(sessions.manifest.input.size)})["logits"]
    if expected is None:
        return
    expected_index, expected_logit = expected
    index, logit = int(logits[0].argmax()), float(logits[0].max())
    tolerance = SELF_TEST_TOLERANCE + share * float(np.ptp(logits[0]))
    if index != expected_index or abs(logit - expected_logit) > tolerance:
        raise BundleError(
            f"the self-test image gives class {index} with logit {logit:.3f} on "
            f"{sessions.provider}; the manifest says class {expected_index} "
            f"with {expected_logit:.3f}: export the bundle again, or try another CANDOR_DEVICE"
        )
