"""Maps and overlays as bytes of several forms: exact or small, cheap or plain.

A map is float32 (H, W). Its values are coded as

    base64    float32, little-endian, row by row
    npy16     a .npy file of float16: each value divided by the largest absolute one, `scale`
    png16     a PNG file of 16-bit grey: 0 is the first and 65535 the second value of `range`
    cells     float32 as above, of the cells (h, w) of a class activation map before it was scaled

and all of them as base64 text. An overlay is uint8 (height, width, 3): a PNG file, one of 256
colours, WebP or JPEG.
"""

import io
import struct
from collections.abc import Mapping
from typing import Literal, NotRequired

import numpy as np
import pybase64
import simplejpeg
from isal import isal_zlib
from jaxtyping import Float32, UInt8
from PIL import Image
from typing_extensions import TypedDict

from service.explain.attribution import Attribution

Encoding = Literal["base64", "npy16", "png16", "cells"]
Format = Literal["png", "png8", "webp", "jpeg"]
MEDIA_TYPES: Mapping[Format, str] = {
    "png": "image/png",
    "png8": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
}
QUALITY = 90  # of JPEG and WebP
DEEPEST = 65_535
# Of a PNG (ISO/IEC 15948): its first bytes, a colour type, and the filter that subtracts from each
# pixel the one to its left.
SIGNATURE, TRUE_COLOUR, SUB_FILTER = b"\x89PNG\r\n\x1a\n", 2, 1
STRIP_PIXELS = 2**16  # that are compressed at once

Values = Float32[np.ndarray, "height width"]


class Coded(TypedDict):
    """The values of a map in a coding, as the JSON of an answer has them."""

    encoding: Encoding
    data: str
    range: NotRequired[list[float]]
    cells: NotRequired[list[int]]


def coded(attribution: Attribution, encoding: Encoding) -> Coded:
    """The values of a map as `data`, with what a reader needs to decode them; only a class
    activation map has cells.
    """
    values = attribution.map
    if encoding == "cells":
        cells = attribution.cells
        assert cells is not None
        return {"encoding": encoding, "cells": list(cells.shape), "data": _float32(cells)}
    if encoding == "npy16":
        scale = float(np.abs(values).max())
        relative = values / np.float32(scale or 1)
        return {"encoding": encoding, "data": _text(npy_of(relative.astype("<f2")))}
    if encoding == "png16":
        low, high = float(values.min()), float(values.max())
        grey = np.rint((values - low) * (DEEPEST / ((high - low) or 1))).astype(np.uint16)
        return {"encoding": encoding, "range": [low, high], "data": _text(_png16(grey))}
    return {"encoding": encoding, "data": _float32(values)}


def npy_of(values: np.ndarray) -> bytes:
    """`values` as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def picture(pixels: UInt8[np.ndarray, "height width 3"], form: Format = "png") -> bytes:
    """An overlay as a file."""
    if form == "jpeg":
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), QUALITY))
    if form == "png":
        return _png(pixels)
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if form == "webp":
        image.save(buffer, "WEBP", quality=QUALITY, method=0)
    else:
        image.quantize(method=Image.Quantize.FASTOCTREE).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A PNG of true colour (ISO/IEC 15948)."""
    # Pillow tries all filters on each row, which takes as long again as zlib's compression, and
    # that takes four times as long as ISA-L's, which leaves a file as large.
    height, width = pixels.shape[:2]
    packer, packed = isal_zlib.compressobj(1), []
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        part = pixels[top : top + rows].reshape(-1, 3 * width)
        filtered = np.empty((len(part), 1 + 3 * width), np.uint8)
        filtered[:, 0], filtered[:, 1:4] = SUB_FILTER, part[:, :3]
        np.subtract(part[:, 3:], part[:, :-3], out=filtered[:, 4:])
        packed.append(packer.compress(filtered.data))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, TRUE_COLOUR, 0, 0, 0)),
        (b"IDAT", b"".join([*packed, packer.flush()])),
        (b"IEND", b""),
    )
    return SIGNATURE + b"".join(
        part
        for kind, content in chunks
        for part in (
            struct.pack(">I", len(content)),
            kind,
            content,
            struct.pack(">I", isal_zlib.crc32(content, isal_zlib.crc32(kind))),
        )
    )


def _png16(grey: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _float32(values: Values) -> str:
    return _text(np.ascontiguousarray(values, "<f4").data)


def _text(content: bytes | memoryview) -> str:
    return pybase64.b64encode_as_string(content)
