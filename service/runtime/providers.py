"""ONNX Runtime's execution providers, and one graph opened on one of them.

A list of providers proves nothing: only an open session shows that a device works. A device that
does not raises DeviceError with the reason.
"""

from collections.abc import Container, Mapping
from types import MappingProxyType

import onnxruntime as ort

from service.bundle import folder
from service.errors import BundleError, DeviceError
from service.runtime import arena
from service.settings import Device

REMEDY = "install what is missing, or set CANDOR_DEVICE to cpu or auto"
PROVIDERS: Mapping[Device, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
SILENT, ERRORS = 4, 3  # severities of ONNX Runtime's own log
CUDA = {"arena_extend_strategy": "kSameAsRequested"}  # options of its provider
# TensorFloat-32 flips masks in gradients as float16 does. Half precision keeps it: its kernels are
# denied without.
EXACT = {"use_tf32": "0"}
REPLAYED, CHANNELS_LAST = {"enable_cuda_graph": "1"}, {"prefer_nhwc": "1"}  # more options

Providers = list[tuple[str, dict[str, str]]]
Initializers = Mapping[str, ort.OrtValue]  # by name


def check(device: Device) -> None:
    """Checks that this ONNX Runtime has a provider for `device`, and lowers its log's level.

    Raises:
        DeviceError: it is built without that provider.
    """
    if PROVIDERS[device] not in ort.get_available_providers():
        raise DeviceError(
            f"onnxruntime {ort.__version__} is built without {PROVIDERS[device]}: {REMEDY}"
        )
    ort.set_default_logger_severity(_severity(device))


def file_of(graph: str, files: Container[str], device: Device) -> str:
    """The file that serves `graph` on `device`: on a GPU in half precision, if `files` has it."""
    half = folder.HALVES.get(graph, graph)
    # A CPU would compute in half precision by casting to float32 and back.
    return half if device != "cpu" and half in files else graph


def is_half(file: str) -> bool:
    """True if the graph in `file` is in half precision."""
    return file in folder.HALVES.values()


def open_session(
    file: str,
    graph: bytes,
    device: Device,
    threads: int,
    options: Mapping[str, str] = MappingProxyType({}),
    *,
    optimised_to: str | None = None,
    weights: Initializers | None = None,
) -> ort.InferenceSession:
    """Opens the `graph` of a bundle's `file` on `device`.

    `threads` is the number of threads of one inference on a CPU. `options` are those of CUDA; with
    REPLAYED among them, CUDA replays the kernels of a run, and one thread alone may use the
    session. A CPU writes the optimised graph to the path `optimised_to`; with its `weights` it is
    opened as it is, and makes no copies of them.

    Raises:
        DeviceError: the device does not work.
        BundleError: a CPU cannot open the graph.
    """
    provider, chosen = PROVIDERS[device], _session_options(device, threads)
    if optimised_to is not None:
        chosen.optimized_model_filepath = optimised_to
    if weights is not None:
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        for name, value in weights.items():
            chosen.add_initializer(name, value)
    try:
        session = ort.InferenceSession(
            graph, chosen, providers=_providers(file, device, options), enable_fallback=False
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        if device == "cpu":
            raise BundleError(f"ONNX Runtime cannot open {file}: {reason}") from error
        raise DeviceError(f"{provider} does not start ({reason}): {REMEDY}") from error
    # ONNX Runtime lists CUDA where it cannot load it, and falls back to the CPU with a log line.
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"{provider} cannot be loaded (no GPU, no driver, or a library is missing): {REMEDY}"
        )
    # The file, which a session keeps for its fallback to another provider: there is none here.
    session._model_bytes = None  # noqa: SLF001
    session.weights = weights  # ONNX Runtime reads them, and keeps no reference of its own
    return session


def _session_options(device: Device, threads: int) -> ort.SessionOptions:
    chosen = ort.SessionOptions()
    # Threads spin for a moment between operators: to wake one takes longer than most operators.
    chosen.intra_op_num_threads = threads
    # But not after a run: those of one session would take the cores from the next one.
    chosen.add_session_config_entry("session.force_spinning_stop", "1")
    chosen.log_severity_level = _severity(device)
    if device == "cpu":
        arena.share()
        chosen.add_session_config_entry("session.use_env_allocators", "1")
        # Beside that arena, which would keep the weights of a session that is closed.
        chosen.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return chosen


def _severity(device: Device) -> int:
    # What does not start on a GPU is reported by DeviceError.
    return ERRORS if device == "cpu" else SILENT


def _providers(file: str, device: Device, options: Mapping[str, str]) -> Providers:
    """The providers for `file`, in their order; TensorRT leaves to CUDA what it lacks."""
    # TensorRT casts float16 graphs up by default: github.com/NVIDIA/TensorRT/issues/3277
    half = {"trt_fp16_enable": "True"} if is_half(file) else {}
    cuda = (PROVIDERS["cuda"], {**CUDA, **({} if half else EXACT), **options})
    chosen: Mapping[Device, Providers] = {
        "cpu": [(PROVIDERS["cpu"], {})],
        "cuda": [cuda],
        "tensorrt": [(PROVIDERS["tensorrt"], half), cuda],
    }
    return chosen[device]
