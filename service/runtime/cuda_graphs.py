"""A session on a GPU whose inputs and outputs stay there, so that CUDA can replay its kernels.

A GPU that computes a small network waits most of the time for its next kernel. With a fixed batch
size, and arrays at fixed places, CUDA keeps all kernels of a run as one (a CUDA graph,
github.com/microsoft/onnxruntime/pull/9978) and starts them together.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from service.errors import DeviceError
from service.runtime import providers
from service.runtime.graphs import Feeds, Names, wanted
from service.settings import Device

MEMORY = "cuda"  # the device of the memory, under TensorRT, too
DTYPES = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}
GRAPH_ID = "gpu_graph_id"  # of a run: one id for each batch size
NO_GRAPH = "-1"  # runs the kernels one by one

log = logging.getLogger("candor")


@dataclass(frozen=True)
class Buffers:
    """The arrays of one batch size: inputs on the host and on the device, outputs on the device."""

    staged: Mapping[str, np.ndarray]
    inputs: Mapping[str, ort.OrtValue]
    outputs: Sequence[ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class BoundSession:
    """A session with its arrays in the memory of a device, for fixed batch sizes.

    A batch of another size runs as the next larger one, filled up with zeros.
    """

    def __init__(
        self, session: ort.InferenceSession, memory: str, sizes: Sequence[int], thread: Executor
    ) -> None:
        """Binds `session` in `memory`, "cuda" or "cpu", and runs each of the `sizes` once.

        The sizes ascend. `thread` is an executor of one thread.
        """
        self._session = session
        self._memory = memory
        # ONNX Runtime keeps a CUDA graph for the thread that ran it first.
        self._thread = thread
        self._names = [output.name for output in session.get_outputs()]
        one_row = self._thread.submit(self._run_zeros).result()
        self._buffers = {
            size: self._thread.submit(self._bind, size, one_row).result() for size in sizes
        }

    def __call__(self, feeds: Feeds, asked: Names = ()) -> dict[str, np.ndarray]:
        """The outputs by name. Each array has as many rows, unless the graph fixes it at one."""
        return self._thread.submit(self._run, feeds, asked).result()

    def _run(self, feeds: Feeds, asked: Names) -> dict[str, np.ndarray]:
        rows = max(len(values) for values in feeds.values())
        buffers = self._buffers[next(size for size in self._buffers if size >= rows)]
        for name, values in feeds.items():
            buffers.staged[name][: len(values)] = values
            # Rows of an earlier batch would end up in sums over the rows, as of path_gradient.
            buffers.staged[name][len(values) :] = 0
            buffers.inputs[name].update_inplace(buffers.staged[name])
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        # Those that nobody wants stay on the device.
        outputs = dict(zip(self._names, buffers.outputs, strict=True))
        return {name: outputs[name].numpy()[:rows] for name in wanted(self._names, asked)}

    def _run_zeros(self) -> list[np.ndarray]:
        """The outputs for one row of zeros, which show the shapes."""
        feeds = {
            info.name: np.zeros(_shape(info, 1), DTYPES[info.type])
            for info in self._session.get_inputs()
        }
        outputs: list[np.ndarray] = self._session.run(self._names, feeds, _run_options(NO_GRAPH))
        return outputs

    def _bind(self, size: int, one_row: Sequence[np.ndarray]) -> Buffers:
        """Makes the arrays of batches of `size`, and runs one."""
        binding = self._session.io_binding()
        staged = {
            info.name: np.zeros(_shape(info, size), DTYPES[info.type])
            for info in self._session.get_inputs()
        }
        inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(values, self._memory)
            for name, values in staged.items()
        }
        outputs = [
            ort.OrtValue.ortvalue_from_shape_and_type(
                (_shape(info, size)[0], *row.shape[1:]), row.dtype, self._memory
            )
            for info, row in zip(self._session.get_outputs(), one_row, strict=True)
        ]
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(self._names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        buffers = Buffers(staged, inputs, outputs, binding, _run_options(str(size)))
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        return buffers


def open_bound(
    file: str, graph: bytes, device: Device, sizes: Sequence[int], thread: Executor
) -> BoundSession:
    """Opens the `graph` of a bundle's `file` on a GPU, with the fastest options that work.

    Raises:
        DeviceError: the device does not run it.
    """
    *faster, plainest = _option_sets(file, device)
    for options in faster:
        try:
            return _open(file, graph, device, sizes, thread, options)
        except DeviceError as error:
            log.debug("%s does not run with %s: %s", file, ", ".join(options), error)
    return _open(file, graph, device, sizes, thread, plainest)


def _option_sets(file: str, device: Device) -> Sequence[Mapping[str, str]]:
    """The options of CUDA to try, the fastest first.

    With all but the last CUDA must compute the whole graph; there the CPU does the rest.
    """
    if device != "cuda":
        return [{}]
    # Channels last gain nothing in float32.
    channels_last = (
        [providers.REPLAYED | providers.CHANNELS_LAST] if providers.is_half(file) else []
    )
    return [*channels_last, providers.REPLAYED, {}]


def _open(
    file: str,
    graph: bytes,
    device: Device,
    sizes: Sequence[int],
    thread: Executor,
    options: Mapping[str, str],
) -> BoundSession:
    session = providers.open_session(file, graph, device, 0, options)
    try:
        return BoundSession(session, MEMORY, sizes, thread)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(
            f"{providers.PROVIDERS[device]} cannot run {file} ({reason}): {providers.REMEDY}"
        ) from error


def _shape(info: ort.NodeArg, rows: int) -> tuple[int, ...]:
    """The shape of an input or output for `rows` rows; its other dimensions are fixed."""
    first, *others = info.shape
    return (first if isinstance(first, int) else rows, *others)


def _run_options(graph_id: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH_ID, graph_id)
    return options
