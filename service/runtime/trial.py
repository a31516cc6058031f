"""A trial of a bundle in a process of its own, with limits of time and memory.

A graph of some hundred bytes can loop for years or fill the memory, and no look at it can find
every such graph. The process ends instead of the service. The embedded bundles, and one that is
pinned by its digest, need no trial: they are known.
"""

import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from service.bundle.folder import Bundle, load
from service.errors import BundleError, CandorError
from service.image.resize import pixels_of
from service.settings import Precision

# Of processor time, for the imports and small graphs; and for each MB of graphs, and for each
# megapixel of input.
SECONDS, SECONDS_A_MB, SECONDS_A_MEGAPIXEL = 10, 0.2, 20
# Of memory: for the imports and small graphs, for each byte of graphs, for each pixel of input.
BYTES, BYTES_A_BYTE, BYTES_A_PIXEL = 2**30, 10, 4_096
ROOT = Path(__file__).parents[2]
WALL_FACTOR = 10  # on a crowded machine a process has a share of a core


def check(folder: Path, wanted: Literal["auto"] | Precision) -> None:
    """Opens and runs every graph of the bundle in `folder` once, for one image, on the CPU; the
    one of a `wanted` precision, too.

    Raises:
        BundleError: it cannot be loaded, opened or run within the limits.
    """
    folder = folder.resolve()
    seconds, memory_bytes = limits(load(folder))
    command = [sys.executable, "-m", "service.runtime.trial", str(folder), wanted]
    try:
        done = subprocess.run(  # noqa: S603 - the program is ours
            [*command, str(seconds), str(memory_bytes)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds * WALL_FACTOR,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(_unfinished(folder, seconds)) from None
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise BundleError(_unfinished(folder, seconds))
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise BundleError(
            f"{lines[-1]} (a trial of {folder} within {seconds} s and {memory_bytes / 1e9:.1f} GB)"
        )


def limits(bundle: Bundle) -> tuple[int, int]:
    """Seconds of processor time and bytes of memory that a trial of `bundle` may take."""
    graph_bytes = sum(
        digest.length for name, digest in bundle.manifest.files.items() if name.endswith(".onnx")
    )
    pixels = pixels_of(bundle.manifest.input.size)
    seconds = SECONDS + SECONDS_A_MB * graph_bytes / 1e6 + SECONDS_A_MEGAPIXEL * pixels / 1e6
    return round(seconds), BYTES + BYTES_A_BYTE * graph_bytes + BYTES_A_PIXEL * pixels


def run(folder: Path, precision: Precision) -> None:
    """Opens and runs every graph; what ONNX Runtime raises becomes a BundleError."""
    from service.runtime.engine import Engine  # noqa: PLC0415 - in the other process alone

    bundle = load(folder)
    try:
        Engine(bundle, "cpu", 1, precision, alone=True)
    except CandorError:
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no common class of its errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"the graphs of {folder} cannot be run: {reason}") from None


def limit(cpu_seconds: int, data_bytes: int) -> None:
    """Limits this process, and makes it the first that the kernel kills for want of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))


def _unfinished(folder: Path, seconds: int) -> str:
    return (
        f"the graphs of {folder} did not run within {seconds} s of processor time: export the "
        "bundle again, or pin it by CANDOR_BUNDLE_DIGEST if it is known to be slow"
    )


if __name__ == "__main__":
    given_folder, given_precision, *given_limits = sys.argv[1:]
    limit(*map(int, given_limits))
    try:
        run(Path(given_folder), "int8" if given_precision == "int8" else "float32")
    except CandorError as fault:
        sys.exit(str(fault))
