"""Small files that announce many pixels, of each kind that takes memory in another way."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from support.images import encode

# Bytes a pixel that the service charges, by kind of file.
KINDS = {
    "png RGBA": 7.5,
    "png LA": 7.5,
    "png I;16": 7.5,
    "png P": 7.5,
    "png RGB": 7.5,
    "jpeg": 7.5,
    "jpeg CMYK progressive": 12.5,
    "webp animation": 16.5,
}


def made(kind: str, side: int) -> bytes:
    """A file of `side`² pixels; `kind` is one of KINDS."""
    if kind == "webp animation":
        return _animation(side)
    if kind == "png I;16":
        return encode(np.zeros((side, side), np.uint16))
    if kind.startswith("jpeg"):
        options = {"quality": 1, "progressive": "progressive" in kind}
        return _plain("CMYK" if "CMYK" in kind else "RGB", side, "JPEG", **options)
    return _plain(kind.split()[1], side, "PNG", compress_level=1)


def _plain(mode: str, side: int, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, kind, **options)
    return buffer.getvalue()


def _animation(side: int) -> bytes:
    """Two frames of one pixel on a canvas of `side`² (WebP container specification, VP8X, ANMF)."""
    frame = _three(0) * 4 + _three(100) + b"\0" + _plain("RGB", 1, "WEBP", lossless=True)[12:]
    head = _chunk(b"VP8X", b"\x02\0\0\0" + _three(side - 1) * 2) + _chunk(b"ANIM", bytes(6))
    body = b"WEBP" + head + 2 * _chunk(b"ANMF", frame)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
