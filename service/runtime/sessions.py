"""What computes: ONNX Runtime's providers, and how a graph is opened on one.

Raises DeviceError where a device does not run, in words: a list of providers is no proof that one runs, an open session is.
"""

from collections.abc import Container, Mapping
from functools import cache
from types import MappingProxyType

import onnxruntime as ort

from service.bundle import folder as contract
from service.errors import BundleError, DeviceError
from service.settings import Device

REMEDY = "install what is missing, or set CANDOR_DEVICE to cpu or auto"
PROVIDERS: Mapping[Device, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
SILENT, ERRORS = 4, 3  # severities of ONNX Runtime's own log
CUDA = {"arena_extend_strategy": "kSameAsRequested"}  # options of its provider
# Of float32 alone: TensorFloat-32 flips masks in gradients as float16 does, and half precision without it is denied its kernels.
EXACT = {"use_tf32": "0"}
REPLAYED, CHANNELS_LAST = {"enable_cuda_graph": "1"}, {"prefer_nhwc": "1"}  # more options

Providers = list[tuple[str, dict[str, str]]]


def check(device: Device) -> None:
    """Refuses a `device` that this ONNX Runtime is built without, and silences it about others: what does not start is told by us.

    Raises:
        DeviceError: it is.
    """
    if PROVIDERS[device] not in ort.get_available_providers():
        raise DeviceError(
            f"onnxruntime {ort.__version__} is built without {PROVIDERS[device]}: {REMEDY}"
        )
    ort.set_default_logger_severity(_severity(device))


def file_of(graph: str, files: Container[str], device: Device) -> str:
    """The one of the bundle's `files` that serves `graph` on `device`: in half precision on a GPU, where there is such a file."""
    half = contract.HALVES.get(graph, graph)
    return half if device != "cpu" and half in files else graph


def session(
    file: str,
    content: bytes,
    device: Device,
    threads: int,
    options: Mapping[str, str] = MappingProxyType({}),
) -> ort.InferenceSession:
    """The graph `content` of a bundle's `file`, open on `device`; `threads` is for one inference on a CPU, `options` are CUDA's.

    With REPLAYED among these CUDA keeps the kernels of a run, to start all of them at once; then only one thread may use the session.

    Raises:
        DeviceError: the device does not run.
        BundleError: a CPU cannot open the graph.
    """
    provider, chosen = PROVIDERS[device], ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.log_severity_level = _severity(device)
    if device == "cpu":
        _share_memory()
        chosen.add_session_config_entry("session.use_env_allocators", "1")
    try:
        opened = ort.InferenceSession(
            content, chosen, providers=_providers(file, device, options), enable_fallback=False
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        if device == "cpu":
            raise BundleError(f"ONNX Runtime cannot open {file}: {reason}") from error
        raise DeviceError(f"{provider} does not start ({reason}): {REMEDY}") from error
    if opened.get_providers()[0] != provider:
        raise DeviceError(
            f"{provider} cannot be loaded (no GPU, no driver, or a library is missing): {REMEDY}"
        )
    return opened


def _severity(device: Device) -> int:
    return ERRORS if device == "cpu" else SILENT


def is_half(file: str) -> bool:
    """Whether the graph in `file` is in half precision."""
    return file in contract.HALVES.values()


def _providers(file: str, device: Device, options: Mapping[str, str]) -> Providers:
    """What runs `file`: TensorRT leaves to CUDA what it lacks, and takes float16 only if told (github.com/NVIDIA/TensorRT/issues/3277)."""
    half = {"trt_fp16_enable": "True"} if is_half(file) else {}
    cuda = (PROVIDERS["cuda"], {**CUDA, **({} if half else EXACT), **options})
    chosen: Mapping[Device, Providers] = {
        "cpu": [(PROVIDERS["cpu"], {})],
        "cuda": [cuda],
        "tensorrt": [(PROVIDERS["tensorrt"], half), cuda],
    }
    return chosen[device]


@cache
def _share_memory() -> None:
    """One pool for the activations of all sessions, which otherwise keep one each (15 MB); it grows by what is asked for."""
    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"arena_extend_strategy": 1}))
