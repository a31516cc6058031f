"""Mutated images and requests, for fuzzing: every one follows from a seed."""

import base64
import json
import random
import re
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from PIL import Image

from support.images import draw, encode, saved

ODD_NUMBERS = (b"\x00", b"\xff", b"\x7f\xff", b"\x80\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 0.5, -0.0, "", "nan", "٣", "\x00", "../..", "a" * 300,
    [], [[]], {}, {"image": 1},
)  # fmt: skip
ODD_TEXTS = ("", "-1", "--5", "1e308", "inf", "%00", "9" * 40, "cat,dog", ",", "full", "ship", "٣")
PARAMETERS = (
    "method", "target", "against", "steps", "samples", "quality", "map", "legend", "mask",
    "deadline_ms", "top_k", "coverage", "by_class", "nearest", "segments", "explain", "seed",
    "segmentation",
)  # fmt: skip
ODD_HEADERS = (
    b"Accept: text/html;q=\xff", b"Accept: image/png", b"X-Request-Id: \xff<b>", b"Expect: x",
    b"Content-Encoding: gzip", b"Upgrade: h2c", b"Transfer-Encoding: chunked", b"Host: y",
    b"traceparent: 00-x", b"Inference-Header-Content-Length: -3", b"Range: bytes=0-1",
)  # fmt: skip
GET_PATHS = (
    "/", "/docs", "/model", "/methods", "/metrics", "/openapi.json", "/schema.json", "/livez",
    "/reference/1", "/model/card", "/v2", "/v2/models/cifar10", "/v1/models", "/web/../x", "/%00",
)  # fmt: skip
TEXT_CHUNK = re.compile(rb"(?s)(....)(IHDR|PLTE|tRNS|IDAT|IEND|acTL|fcTL|tEXt)")


def images() -> list[bytes]:
    """Small files of every kind that the service takes, and of some that it refuses."""
    pixels = draw("red", size=24)
    image = Image.fromarray(pixels)
    modes = [saved(image.convert(mode), "PNG") for mode in ("RGB", "RGBA", "LA", "L", "P", "1")]
    frames = [image.rotate(90)]
    return [
        *modes,
        saved(image.convert("I;16"), "PNG"),
        saved(image, "PNG", save_all=True, append_images=frames),
        encode(pixels, "JPEG"),
        encode(pixels, "JPEG", progressive=True, quality=30),
        saved(image.convert("CMYK"), "JPEG"),
        saved(image, "JPEG", exif=_turned()),
        encode(pixels, "WEBP"),
        saved(image.convert("RGBA"), "WEBP", lossless=True),
        saved(image, "WEBP", save_all=True, append_images=frames),
        saved(image, "GIF"),
    ]


def mutated(data: bytes, others: Sequence[bytes], source: random.Random) -> bytes:
    """`data` after one to four changes; chunks of a PNG mostly keep right check sums."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        source.choice(_CHANGES)(changed, others, source)
    is_png = changed.startswith(b"\x89PNG")
    return _with_check_sums(bytes(changed)) if is_png and source.random() < 0.6 else bytes(changed)


def request(corpus: Sequence[bytes], source: random.Random) -> bytes:
    """A request for any route, with parts that are odd; it asks to close the connection."""
    make = source.choice((_raw, _raw, _document, _form, _version_1, _version_2, _get))
    path, kind, body = make(corpus, source)
    if body and source.random() < 0.2:
        body = mutated(body, corpus, source)
    if source.random() < 0.5:
        path += "?" + "&".join(
            f"{source.choice(PARAMETERS)}={source.choice(ODD_TEXTS)}"
            for _ in range(source.randint(1, 3))
        )
    method = "POST" if body else source.choice(("GET", "GET", "HEAD", "OPTIONS", "POST"))
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: 127.0.0.1", b"Connection: close"]
    if body or method == "POST":
        lines += [b"Content-Type: " + kind, b"Content-Length: %d" % len(body)]
    if source.random() < 0.3:
        lines.append(source.choice(ODD_HEADERS))
    head = b"\r\n".join(lines)
    if source.random() < 0.1:
        head = mutated(head, [head], source)
    return head + b"\r\n\r\n" + body


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    return exif


def _flip(data: bytearray, _: Sequence[bytes], source: random.Random) -> None:
    for _bit in range(source.randint(1, 8)):
        if data:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _overwrite(data: bytearray, _: Sequence[bytes], source: random.Random) -> None:
    odd, at = source.choice(ODD_NUMBERS), source.randrange(len(data) + 1)
    data[at : at + len(odd)] = odd


def _cut(data: bytearray, _: Sequence[bytes], source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    del data[at : at + source.choice((1, 4, 64, len(data)))]


def _repeat(data: bytearray, _: Sequence[bytes], source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    data[at:at] = data[at : at + source.randint(1, 64)] * source.choice((1, 2, 50))


def _splice(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    other = source.choice(others)
    data[source.randrange(len(data) + 1) :] = other[source.randrange(len(other) + 1) :]


_CHANGES: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip, _flip, _overwrite, _cut, _repeat, _splice,
)  # fmt: skip


def _with_check_sums(png: bytes) -> bytes:
    """`png` with the right check sum after every chunk that is whole."""
    fixed = bytearray(png)
    for match in TEXT_CHUNK.finditer(png):
        end = match.end() + int.from_bytes(match[1], "big")
        if end + 4 <= len(png):
            fixed[end : end + 4] = zlib.crc32(png[match.start(2) : end]).to_bytes(4, "big")
    return bytes(fixed)


Parts = tuple[str, bytes, bytes]  # path, content type, body


def _raw(corpus: Sequence[bytes], source: random.Random) -> Parts:
    kind = source.choice((b"image/png", b"image/jpeg", b"image/webp", b"application/octet-stream"))
    return source.choice(("/predict", "/explain")), kind, source.choice(corpus)


def _document(corpus: Sequence[bytes], source: random.Random) -> Parts:
    image = _text(source.choice(corpus))
    name, value = source.choice((("image", image), ("images", [image, image])))
    document = {name: value, source.choice(PARAMETERS): _odd_value(source)}
    return _json(source.choice(("/predict", "/explain")), document, source)


def _form(corpus: Sequence[bytes], source: random.Random) -> Parts:
    names = (b"image", b"mask", b"steps", b"x", b"")
    part = b'--B\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\n%b\r\n'
    values = [part % (source.choice(names), source.choice(corpus)) for _ in range(3)]
    body = b"".join(values) + b"--B--\r\n"
    return source.choice(("/predict", "/explain")), b"multipart/form-data; boundary=B", body


def _version_1(corpus: Sequence[bytes], source: random.Random) -> Parts:
    document = {"instances": [{"image_bytes": {"b64": _text(source.choice(corpus))}}]}
    return _json(f"/v1/models/cifar10:{source.choice(('predict', 'explain'))}", document, source)


def _version_2(corpus: Sequence[bytes], source: random.Random) -> Parts:
    encoded = {"shape": [1], "datatype": "BYTES", "data": [_text(source.choice(corpus))]}
    pixels = {"shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [7] * 12}
    document = {"inputs": [{"name": "image", **source.choice((encoded, pixels))}]}
    return _json("/v2/models/cifar10/infer", document, source)


def _get(_: Sequence[bytes], source: random.Random) -> Parts:
    return source.choice(GET_PATHS), b"text/plain", b""


def _json(path: str, document: Any, source: random.Random) -> Parts:
    if source.random() < 0.5:
        _spoil(document, source)
    return path, b"application/json", json.dumps(document).encode()


def _spoil(document: Any, source: random.Random) -> None:
    """Replaces one value somewhere in `document` by an odd one."""
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = source.choice(keys)
    if isinstance(document[key], dict | list) and document[key] and source.random() < 0.7:
        _spoil(document[key], source)
    else:
        document[key] = _odd_value(source)


def _odd_value(source: random.Random) -> Any:
    return deepcopy(source.choice(ODD_VALUES))  # what is put into it must not come again


def _text(image: bytes) -> str:
    return base64.b64encode(image).decode()
