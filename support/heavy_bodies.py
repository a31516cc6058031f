"""Bodies below 10 MiB that are cheap to send and were dear to parse: (path, content type, body)."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from PIL import Image

from support.images import draw, encode

MOST_BYTES = 10 * 2**20 - 1000
INFER = "/v2/models/cifar10/infer"
FORM = "multipart/form-data; boundary=B"
PART = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
FIELD = b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n'


class Heavy(NamedTuple):
    """One request; `body` makes its bytes. `status` is that of the answer."""

    path: str
    content_type: str
    body: Callable[[], bytes]
    status: int


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """A small PNG with chunks before and after its pixels."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    body = buffer.getvalue()
    return body[:33] + before + body[33:-12] + after + body[-12:]


def jpeg(after_start: bytes, mode: str = "RGB") -> bytes:
    """A small JPEG with EXIF, which Pillow opens, and bytes behind its first marker."""
    exif = Image.Exif()
    exif[0x010E] = "x"
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, "JPEG", exif=exif)
    body = buffer.getvalue()
    return body[:2] + after_start + body[2:]


def packed_texts(count: int) -> bytes:
    """Chunks of 1 MB of text each, packed to 1 kB."""
    text = zlib.compress(bytes(1_000_000), 9)
    return b"".join(chunk(b"zTXt", b"a%d\0\0" % number + text) for number in range(count))


def webp(count: int) -> bytes:
    """A small WebP with `count` empty chunks."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP")
    body = buffer.getvalue() + b"teSt\0\0\0\0" * count
    return body[:4] + struct.pack("<I", len(body) - 8) + body[8:]


def gif(blocks: int) -> bytes:
    """A GIF with a comment of so many blocks before its image."""
    body = encode(draw(), "GIF")
    start = 13 + (3 << (body[10] & 7) + 1)
    return body[:start] + b"\x21\xfe" + b"\x01a" * blocks + b"\0" + body[start:]


def tiff(tags: Mapping[int, int], count: int = 1) -> bytes:
    """A TIFF whose directory has these tags, too, of `count` values of 32 bits each.

    Those of several values begin where the file does.
    """
    body = encode(draw(), "TIFF")
    place = int.from_bytes(body[4:8], "little")
    found = int.from_bytes(body[place : place + 2], "little")
    own = body[place + 2 : place + 2 + 12 * found]
    entries = sorted(
        [own[start : start + 12] for start in range(0, len(own), 12)]
        + [struct.pack("<HHII", tag, 4, count, value) for tag, value in tags.items()],
        key=lambda entry: int.from_bytes(entry[:2], "little"),
    )
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return body[:4] + struct.pack("<I", len(body)) + body[8:] + directory


def scans() -> bytes:
    """A progressive JPEG of 2,048² pixels, its last scan as often as 10 MB hold it."""
    buffer = io.BytesIO()
    Image.new("L", (2048, 2048)).save(buffer, "JPEG", progressive=True)
    body = buffer.getvalue()
    last = body[body.rindex(b"\xff\xda") : -2]
    return body[:-2] + last * min(20_000, (MOST_BYTES - len(body)) // len(last)) + body[-2:]


def keys(first: str, count: int) -> bytes:
    """A JSON object of `count` keys, the first ones as given."""
    return ("{" + first + ",".join(f'"{number:x}":0' for number in range(count)) + "}").encode()


def uint8(data: bytes, shape: str = "[1,1000,1000,3]") -> bytes:
    """A request of V2 with UINT8 data in JSON."""
    head = f'{{"inputs":[{{"name":"x","datatype":"UINT8","shape":{shape},"data":'
    return head.encode() + data + b"}]}"


def _predict(kind: str, body: Callable[[], bytes], status: int = 422) -> Heavy:
    return Heavy("/predict", kind, body, status)


M = MOST_BYTES
HEAVY = {
    "png of empty chunks": _predict("image/png", lambda: png(chunk(b"teSt") * (M // 12))),
    "png of chunks behind": _predict("image/png", lambda: png(after=chunk(b"teSt") * (M // 12))),
    "png of empty pixels": _predict("image/png", lambda: png(after=chunk(b"IDAT") * (M // 12))),
    "png of packed texts": _predict("image/png", lambda: png(packed_texts(63))),
    "png of packed texts behind": _predict("image/png", lambda: png(after=packed_texts(63))),
    "png of 4 packed texts": _predict("image/png", lambda: png(packed_texts(4)), 200),
    "jpeg of comments": _predict("image/jpeg", lambda: jpeg(b"\xff\xfe\x00\x02" * (M // 4))),
    "jpeg of fill bytes": _predict("image/jpeg", lambda: jpeg(b"\xff" * M)),
    "jpeg of junk": _predict("image/jpeg", lambda: jpeg(b"\x01" * M)),
    "jpeg of scans": _predict("image/jpeg", scans),
    "webp of chunks": _predict("image/webp", lambda: webp((M - 1000) // 8)),
    "gif of comments": _predict("image/gif", lambda: gif(M // 2 - 1000)),
    "tiff of tags": _predict("image/tiff", lambda: tiff(dict.fromkeys(range(2**15, 2**16 - 1), 0))),
    "json of lists": _predict(
        "application/json", lambda: b'{"image":"","a":[' + b"[]," * (M // 3) + b"[]]}"
    ),
    "json of keys": _predict("application/json", lambda: keys('"image":"",', 700_000)),
    "json of brackets": _predict("application/json", lambda: b"[" * M),
    "v1 of lists": Heavy(
        "/v1/models/cifar10:predict",
        "application/json",
        lambda: b'{"instances":[' + b"[]," * (M // 3) + b"[]]}",
        422,
    ),
    "v2 of nested pixels": Heavy(
        INFER, "application/json", lambda: uint8(b"[" + b"[0]," * (M // 4 - 30) + b"[0]]"), 422
    ),
    "v2 of many pixels": Heavy(
        INFER, "application/json", lambda: uint8(b"[" + b"0," * (M // 2 - 60) + b"0]"), 422
    ),
    "v2 of a million pixels": Heavy(
        INFER,
        "application/json",
        lambda: uint8(b"[" + b"255," * (640 * 480 * 3 - 1) + b"0]", "[1,480,640,3]"),
        200,
    ),
    "v2 of lists": Heavy(
        INFER, "application/json", lambda: b'{"inputs":[' + b"[]," * (M // 3) + b"[]]}", 422
    ),
    "form of line ends": _predict(FORM, lambda: PART + b"\r\n-" * (M // 3) + b"\r\n--B--\r\n", 415),
    "form of a long field": _predict(
        FORM, lambda: FIELD + b"\r\n-" * (M // 3) + b"\r\n--B--\r\n", 400
    ),
    "form of parts": _predict(FORM, lambda: (FIELD + b"1\r\n") * (M // 52) + b"--B--\r\n", 400),
    "form of header lines": _predict(
        FORM, lambda: b"--B\r\n" + b"a:b\r\n" * (M // 5) + b"\r\n1\r\n--B--\r\n", 400
    ),
    "query of parameters": Heavy(
        "/predict?" + "&".join(f"a{number}=1" for number in range(3_000)), "image/png", png, 422
    ),
}
