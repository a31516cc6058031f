"""An HEIC, decoded in a process of its own, with limits of time and memory.

The decoder is libheif with libde265, of the extra candor[heic]. They take the size of an image from
its stream, whatever the file's metadata say, and damaged files have crashed them: so a process with
limits ends instead of the service. It starts in about 0.1 s.
"""

import importlib.util
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from service.errors import RequestError, UndecodableImage, UnsupportedFormat
from service.image.boxes import FirstImage

KIND = "HEIC"
AVAILABLE = sys.platform == "linux" and importlib.util.find_spec("pillow_heif") is not None
# Of processor time, for the start and for each megapixel, which takes 0.03 s of an iPhone's, and
# 0.18 s of those of 10 bits that cameras make as one piece.
SECONDS, SECONDS_A_MEGAPIXEL = 3, 0.5
# Of memory: for the start, for each byte of the file, and for each pixel, by the bytes of its
# planes.
# Measured: 5.3 bytes a pixel of 4:2:0 and 8 bits, 8.7 of 4:4:4, 15.3 of 4:4:4 and 10 bits, 17.1 of
# 4:2:2 and 10 bits turned by a quarter; half as much again with transparency.
BYTES, BYTES_A_BYTE, PLANES, BYTES_A_PIXEL = 5 * 2**23, 4, 4, 2
ALPHA_FACTOR = 1.5
WALL_FACTOR = 10  # on a crowded machine a process has a share of a core
NO_MEMORY = "Memory allocation error"  # as libheif says it
UNSUPPORTED, TOO_MUCH = 3, 4  # statuses at which the process ends


def cost(body: bytes, first: FirstImage) -> int:
    """The peak of memory of decoding, in bytes."""
    return _limit(body, first) + _samples_bytes(first)


def _samples_bytes(first: FirstImage) -> int:
    """The most bytes of the pixels that come back."""
    return (4 if first.alpha else 3) * first.pixels


def _limit(body: bytes, first: FirstImage) -> int:
    """The memory that the process may take for itself, in bytes."""
    a_pixel = PLANES * first.plane_bytes + BYTES_A_PIXEL
    if first.alpha:
        a_pixel *= ALPHA_FACTOR
    return BYTES + BYTES_A_BYTE * len(body) + int(a_pixel * first.pixels)


def image(body: bytes, first: FirstImage) -> Image.Image:
    """The `first` image of an HEIC as displayed, with its colour profile in `info`.

    Its mode is RGB, RGBA, L or I;16.

    Raises:
        UndecodableImage: it is damaged, or it takes more time, memory or pixels than it should.
        UnsupportedFormat: its pixels are not HEVC.
    """
    with _shared(_samples_bytes(first)) as file:
        answer = _run(body, first, file)
        size = (answer["width"], answer["height"])
        with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as shared, memoryview(shared) as samples:
            read: Image.Image = Image.frombytes(
                answer["mode"], size, samples, "raw", answer["mode"], answer["stride"]
            )
    if answer["profile"]:
        read.info["icc_profile"] = bytes.fromhex(answer["profile"])
    return read


@contextmanager
def _shared(size: int) -> Iterator[int]:
    """Memory that the process fills: a file that has no name."""
    file = os.memfd_create(KIND)
    try:
        os.ftruncate(file, size)
        yield file
    finally:
        os.close(file)


def _run(body: bytes, first: FirstImage, file: int) -> dict[str, Any]:
    megapixels = first.pixels / 1e6
    seconds = round(SECONDS + SECONDS_A_MEGAPIXEL * megapixels)
    limits = (seconds, _limit(body, first), file)
    try:
        done = subprocess.run(  # noqa: S603 - the program is ours
            [sys.executable, "-m", "service.image.heic", *map(str, limits)],
            cwd=Path(__file__).parents[2],
            input=body,
            capture_output=True,
            pass_fds=[file],
            timeout=seconds * WALL_FACTOR,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_much(body, megapixels) from None
    if done.returncode:
        raise _error(done, body, megapixels)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _error(
    done: subprocess.CompletedProcess[bytes], body: bytes, megapixels: float
) -> RequestError:
    reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["it ended"])[-1]
    if done.returncode == UNSUPPORTED:
        return UnsupportedFormat(f"an HEIC of this kind is not supported ({reason}): convert it")
    if done.returncode in (TOO_MUCH, -signal.SIGXCPU, -signal.SIGKILL):
        return _too_much(body, megapixels)
    return UndecodableImage(
        f"the HEIC of {len(body):,} bytes is damaged or cut off ({reason}): send it whole"
    )


def _too_much(body: bytes, megapixels: float) -> UndecodableImage:
    return UndecodableImage(
        f"the HEIC of {len(body):,} bytes takes more time, memory or pixels than one of "
        f"{megapixels:,.3g} MP should: save it anew"
    )


def _decode(body: bytes, file: int) -> None:
    """Writes the samples of the first image into `file`, and prints what they are."""
    import pillow_heif  # noqa: PLC0415 - in the process alone

    options = pillow_heif.options
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1  # requests run beside each other
    found = pillow_heif.open_heif(body)
    first = found[found.primary_index]
    samples = first.data
    width, height = first.size
    if len(samples) > os.fstat(file).st_size:
        sys.exit(TOO_MUCH)
    with mmap.mmap(file, 0) as shared:
        shared[: len(samples)] = samples
    info: dict[str, Any] = {**first.info}
    profile = (info.get("icc_profile") or b"").hex()
    answer = {"mode": first.mode, "width": width, "height": height, "stride": first.stride}
    print(json.dumps(answer | {"profile": profile}))  # noqa: T201


def _main() -> None:
    seconds, memory_bytes, file = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    try:
        _decode(sys.stdin.buffer.read(), file)
    except MemoryError:
        sys.exit(TOO_MUCH)
    except SyntaxError as error:  # as which pillow-heif raises what libheif does not support
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(UNSUPPORTED)
    except Exception as error:  # noqa: BLE001 - of any kind
        sys.exit(TOO_MUCH if str(error).startswith(NO_MEMORY) else str(error))


if __name__ == "__main__":
    _main()
