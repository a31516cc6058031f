"""A graph on a GPU: its inputs and outputs have places there, for every batch size their own, and its kernels are replayed.

A GPU that computes a small network waits most of the time for its next kernel. With fixed sizes and places CUDA keeps all kernels of a run
as one (a CUDA graph, github.com/microsoft/onnxruntime/pull/9978) and starts them together. ONNX Runtime keeps it for the thread that ran it
first, so one thread alone runs a session.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from service.errors import DeviceError
from service.runtime import sessions
from service.settings import Device

MEMORY = "cuda"  # whose memory it is, under TensorRT, too
DTYPES = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}
GRAPH, NONE = "gpu_graph_id", "-1"  # of a run; one id a size, NONE runs the kernels one by one

log = logging.getLogger("candor")


@dataclass(frozen=True)
class Place:
    """Where the arrays of one batch size are: inputs on the host and on the device, outputs on the device."""

    staged: Mapping[str, np.ndarray]
    inputs: Mapping[str, ort.OrtValue]
    outputs: Sequence[ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class Resident:
    """`session` with its arrays in `memory` ("cuda", or "cpu"), for batches of `sizes` rows; a smaller one runs as the next larger."""

    def __init__(
        self, session: ort.InferenceSession, memory: str, sizes: Sequence[int], thread: Executor
    ) -> None:
        """Every size, in ascending order, runs once. `thread` is an executor of one thread, which alone uses the session."""
        self._session = session
        self._memory = memory
        self._thread = thread
        self._names = [output.name for output in session.get_outputs()]
        one = self._thread.submit(self._zeros).result()
        self._places = {
            size: self._thread.submit(self._place, size, one).result() for size in sizes
        }

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for the inputs `feeds`, arrays of as many rows each, by name; some graphs have inputs and outputs of one row always."""
        return self._thread.submit(self._run, feeds).result()

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = max(len(value) for value in feeds.values())
        place = self._places[next(size for size in self._places if size >= rows)]
        for name, value in feeds.items():
            place.staged[name][: len(value)] = value
            place.staged[name][len(value) :] = 0
            place.inputs[name].update_inplace(place.staged[name])
        self._session.run_with_iobinding(place.binding, place.options)
        return {
            name: output.numpy()[:rows]
            for name, output in zip(self._names, place.outputs, strict=True)
        }

    def _zeros(self) -> list[np.ndarray]:
        """The outputs for one row of zeros: what shapes there are."""
        feeds = {
            of.name: np.zeros(_shape(of, 1), DTYPES[of.type]) for of in self._session.get_inputs()
        }
        outputs: list[np.ndarray] = self._session.run(self._names, feeds, _options(NONE))
        return outputs

    def _place(self, size: int, one: Sequence[np.ndarray]) -> Place:
        binding = self._session.io_binding()
        staged = {
            of.name: np.zeros(_shape(of, size), DTYPES[of.type])
            for of in self._session.get_inputs()
        }
        inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(value, self._memory)
            for name, value in staged.items()
        }
        outputs = [
            ort.OrtValue.ortvalue_from_shape_and_type(
                (_shape(of, size)[0], *known.shape[1:]), known.dtype, self._memory
            )
            for of, known in zip(self._session.get_outputs(), one, strict=True)
        ]
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(self._names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        place = Place(staged, inputs, outputs, binding, _options(str(size)))
        self._session.run_with_iobinding(place.binding, place.options)
        return place


def resident(
    file: str, graph: bytes, device: Device, sizes: Sequence[int], thread: Executor
) -> Resident:
    """The graph `graph` of a bundle's `file` on a GPU, in the quickest way that runs.

    Raises:
        DeviceError: the device does not run it.
    """
    *quicker, plainest = _ways(file, device)
    for way in quicker:
        try:
            return _opened(file, graph, device, sizes, thread, way)
        except DeviceError as error:
            log.debug("%s does not run with %s: %s", file, ", ".join(way), error)
    return _opened(file, graph, device, sizes, thread, plainest)


def _ways(file: str, device: Device) -> Sequence[Mapping[str, str]]:
    """The options of CUDA to try, the quickest first. With all but the last CUDA must compute the whole graph; there the CPU does the rest."""
    if device != "cuda":
        return [{}]
    channels_last = (
        [sessions.REPLAYED | sessions.CHANNELS_LAST] if sessions.is_half(file) else []
    )  # in float32 nothing is gained
    return [*channels_last, sessions.REPLAYED, {}]


def _opened(
    file: str,
    graph: bytes,
    device: Device,
    sizes: Sequence[int],
    thread: Executor,
    way: Mapping[str, str],
) -> Resident:
    session = sessions.session(file, graph, device, 0, way)
    try:
        return Resident(session, MEMORY, sizes, thread)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(
            f"{sessions.PROVIDERS[device]} cannot run {file} ({reason}): {sessions.REMEDY}"
        ) from error


def _shape(of: ort.NodeArg, rows: int) -> tuple[int, ...]:
    """The shape of an input or output for so many rows; the others of its dimensions are known."""
    first, *others = of.shape
    return (first if isinstance(first, int) else rows, *others)


def _options(graph: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH, graph)
    return options
