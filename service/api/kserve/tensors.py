"""Tensors as the Open Inference Protocol (KServe's V2) writes them: a JSON document and, behind it, the data of binary tensors.

Two kinds come in, both with one image a row: BYTES (N,) or (N, 1), encoded images, and UINT8 (N, H, W, 3), RGB pixels. Float32
tensors, truth values and texts go out. Binary data is little-endian and row-major; before each element of BYTES stands its length in 4 bytes.

What an image in BYTES is encoded as is never guessed: binary data holds the file as it is; JSON, whose texts cannot hold a file, holds
its base64 (RFC 4648).

Source: the protocol's specification/protocol/inference_rest.md, and KServe's and Triton's "binary tensor data extension".
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from jaxtyping import Bool, Float32, UInt8
from starlette.responses import Response

from service.api import body as request_body
from service.errors import ImageTooLarge, InvalidParameter, MalformedRequest, short
from service.image.resize import Pixels

BYTES, PIXELS, FLOATS, TRUTH = "BYTES", "UINT8", "FP32", "BOOL"
HEADER = "Inference-Header-Content-Length"
EXTENSION = "binary_tensor_data"
LENGTH_BYTES = 4
MOST_ROWS = request_body.MAX_IMAGES
DIGITS = 15  # no body is longer than a number of so many digits

Row = bytes | Pixels
Images = UInt8[np.ndarray, "rows height width 3"]


@dataclass(frozen=True)
class Requested:
    """An output that is asked for, as binary data or as JSON, with its own `parameters`."""

    name: str
    binary: bool
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inference:
    """What POST …/infer asks: `rows` are images, encoded or as pixels, or the error in place of one; without `outputs` all are wanted.

    `parameters` are those of the request, and `binary` says how outputs are given that were not asked for by name.
    """

    id: str | None
    rows: tuple[Row | MalformedRequest, ...]
    outputs: tuple[Requested, ...]
    parameters: Mapping[str, Any]
    binary: bool


@dataclass(frozen=True)
class Output:
    """A tensor that goes out: float32 or bool of any shape, or the texts of a BYTES tensor (N,)."""

    asked: Requested
    values: Float32[np.ndarray, "..."] | Bool[np.ndarray, "..."] | Sequence[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read(body: bytes, announced: str | None, max_pixels: int) -> Inference:
    """The inference that `body` asks for; `announced` is the header that says how long its JSON is, None if all of it is.

    Raises:
        MalformedRequest: the body breaks the protocol.
        InvalidParameter: it asks for what is not served, or has more than 64 rows.
        ImageTooLarge: images of more than `max_pixels` pixels.
    """
    document, binary = _split(body, announced)
    identity = document.get("id")
    if not isinstance(identity, str | None):
        raise MalformedRequest(f'"id" is {short(identity)}: give text')
    parameters = dict(_object(document, "parameters", "the request"))
    all_binary = _flag(parameters, "binary_data_output", default=False)
    rows = _rows(_only_input(document), binary, max_pixels)
    return Inference(
        identity,
        rows,
        _requested(document.get("outputs"), all_binary=all_binary),
        parameters,
        all_binary,
    )


def write(head: Mapping[str, Any], outputs: Sequence[Output]) -> Response:
    """The answer: the document `head` with its "outputs", and the data of the binary ones behind it."""
    described = [_described(output) for output in outputs]
    document = orjson.dumps(
        {**head, "outputs": [entry for entry, _ in described]}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    if not any(output.asked.binary for output in outputs):
        return Response(document, media_type="application/json")
    body = b"".join([document, *(data for _, data in described)])
    return Response(
        body, headers={HEADER: str(len(document))}, media_type="application/octet-stream"
    )


def _described(output: Output) -> tuple[dict[str, Any], bytes]:
    """An output in the document, and its binary data."""
    values = output.values
    kind, shape, content = _laid_out(values)
    entry: dict[str, Any] = {"name": output.asked.name, "datatype": kind, "shape": shape}
    data, parameters = b"", dict(output.parameters)
    if output.asked.binary:
        data, parameters["binary_data_size"] = content, len(content)
    else:
        entry["data"] = (
            np.ascontiguousarray(values).ravel() if isinstance(values, np.ndarray) else list(values)
        )
    return entry | ({"parameters": parameters} if parameters else {}), data


def _laid_out(values: np.ndarray | Sequence[str]) -> tuple[str, list[int], bytes]:
    """The datatype of `values`, their shape, and their binary data."""
    if not isinstance(values, np.ndarray):
        return BYTES, [len(values)], b"".join(_prefixed(text) for text in values)
    if values.dtype == bool:
        return TRUTH, list(values.shape), values.tobytes()
    return FLOATS, list(values.shape), values.astype("<f4").tobytes()


def _prefixed(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded


def _split(body: bytes, announced: str | None) -> tuple[dict[str, Any], memoryview]:
    """The document, and the binary data behind it."""
    whole, length = memoryview(body), len(body)
    if announced is not None:
        if not (
            announced.isascii()
            and announced.isdecimal()
            and len(announced) <= DIGITS
            and int(announced) <= length
        ):
            raise MalformedRequest(
                f"{HEADER} is {short(announced)}, of a body of {length:,} bytes: give the length of its JSON in bytes"
            )
        length = int(announced)
    try:
        document = orjson.loads(whole[:length])
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f"the body is no JSON ({error}); of one with binary data {HEADER} tells how long the JSON is"
        ) from None
    if not isinstance(document, dict):
        raise MalformedRequest(
            f'the body is a JSON {type(document).__name__}: send an object with "inputs"'
        )
    return document, whole[length:]


def _only_input(document: Mapping[str, Any]) -> Mapping[str, Any]:
    given = document.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise MalformedRequest(
            '"inputs" is no list of one tensor: send BYTES (N,) of encoded images, or UINT8 (N, H, W, 3) of pixels'
        )
    return dict(given[0])


def _rows(
    tensor: Mapping[str, Any], binary: memoryview, max_pixels: int
) -> tuple[Row | MalformedRequest, ...]:
    if not isinstance(tensor.get("name"), str):
        raise MalformedRequest(f"the input's name is {short(tensor.get('name'))}: give text")
    kind, shape = tensor.get("datatype"), _shape(tensor.get("shape"))
    if kind == BYTES and (len(shape) == 1 or shape[1:] == (1,)):
        return _encoded(tensor, _data(tensor, binary), shape[0])
    if kind == PIXELS and len(shape) == 4 and shape[3] == 3 and min(shape) > 0:  # noqa: PLR2004 - the shape in the docstring
        if shape[1] * shape[2] > max_pixels:
            raise ImageTooLarge(
                f"the images have {shape[2]}×{shape[1]} px; the limit is {max_pixels:,} px: send smaller ones"
            )
        return tuple(_pixels(_data(tensor, binary), shape))
    raise InvalidParameter(
        f"the input is {short(kind)} of shape {short(list(shape))}: send BYTES (N,) of encoded images, or UINT8 (N, H, W, 3) of pixels"
    )


def _shape(given: Any) -> tuple[int, ...]:
    if (
        not isinstance(given, list)
        or not given
        or not all(type(length) is int and length >= 0 for length in given)
    ):
        raise MalformedRequest(f"the input's shape is {short(given)}: give a list of whole numbers")
    if not 1 <= given[0] <= MOST_ROWS:
        raise InvalidParameter(
            f"the input has {given[0]:,} rows; the limit is {MOST_ROWS}, the least is 1: send several requests"
        )
    return tuple(given)


def _data(tensor: Mapping[str, Any], binary: memoryview) -> memoryview | list[Any]:
    """The binary data of a tensor, or its JSON data, nested lists laid out flat."""
    parameters = _object(tensor, "parameters", "the input")
    size, data = parameters.get("binary_data_size"), tensor.get("data")
    for name in parameters:
        if name not in ("binary_data_size", "content_type"):
            raise InvalidParameter(
                f"the input has no parameter {short(name)}; there are binary_data_size, content_type"
            )
    if size is None and isinstance(data, list) and not binary:
        return _flat(data)
    if data is None and type(size) is int and size == len(binary):
        return binary
    raise MalformedRequest(
        f"the input has binary_data_size {short(size)}, {'some' if isinstance(data, list) else 'no'} data, and "
        f"{len(binary):,} bytes follow the JSON: give a list as data, or all of those bytes"
    )


def _flat(data: list[Any]) -> list[Any]:
    while data and isinstance(data[0], list):
        if not all(isinstance(entry, list) for entry in data):
            raise MalformedRequest(
                "the input's data is nested unevenly: give it flat, or nested as the shape says"
            )
        data = list(itertools.chain.from_iterable(data))
    return data


def _encoded(
    tensor: Mapping[str, Any], data: memoryview | list[Any], rows: int
) -> tuple[bytes | MalformedRequest, ...]:
    told = _object(tensor, "parameters", "the input").get("content_type")
    if told not in ((None,) if isinstance(data, memoryview) else (None, "base64")):
        raise InvalidParameter(
            f"content_type is {short(told)}; BYTES are base64 in JSON, and the files themselves in binary data"
        )
    elements = _elements(data, rows) if isinstance(data, memoryview) else data
    if len(elements) != rows:
        raise MalformedRequest(
            f"the input has {len(elements):,} elements or more, and its shape says {rows}: make them agree"
        )
    return tuple(
        _image(element)
        if isinstance(element, bytes)
        else request_body.from_base64("image", element)
        for element in elements
    )


def _image(element: bytes) -> bytes | MalformedRequest:
    return element or MalformedRequest("the image is empty (0 bytes): send one")


def _elements(data: memoryview, most: int) -> list[bytes]:
    """The elements of binary BYTES, each behind its length; one more than `most` if there are more."""
    found: list[bytes] = []
    at = 0
    while at < len(data) and len(found) <= most:
        size = int.from_bytes(data[at : at + LENGTH_BYTES], "little")
        at += LENGTH_BYTES
        if at + size > len(data):
            raise MalformedRequest(
                f"row {len(found)}: {size:,} bytes are announced and {max(0, len(data) - at):,} are left: send 4 bytes of "
                "length, little-endian, before each image"
            )
        found.append(bytes(data[at : at + size]))
        at += size
    return found


def _pixels(data: memoryview | list[Any], shape: tuple[int, ...]) -> Images:
    if len(data) != math.prod(shape):
        raise MalformedRequest(
            f"the input has {len(data):,} values, and its shape says {math.prod(shape):,}: make them agree"
        )
    try:
        raw = data if isinstance(data, memoryview) else bytes(data)
    except (TypeError, ValueError) as error:
        raise MalformedRequest(
            f"the input's data are no pixels ({error}): give whole numbers from 0 to 255"
        ) from None
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _requested(given: Any, *, all_binary: bool) -> tuple[Requested, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in given
    ):
        raise MalformedRequest('"outputs" is no list of objects with a "name"')
    found = []
    for entry in given:
        parameters = dict(_object(entry, "parameters", "the output"))
        binary = _flag(parameters, "binary_data", default=all_binary)
        found.append(Requested(entry["name"], binary, parameters))
    names = [output.name for output in found]
    if len(set(names)) < len(names):
        raise MalformedRequest(
            f'"outputs" names one twice ({short(", ".join(names))}): ask for each once'
        )
    return tuple(found)


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    """Takes a flag out of `parameters`."""
    value = parameters.pop(name, default)
    if not isinstance(value, bool):
        raise InvalidParameter(f"{name} is {short(value)}; give true or false")
    return value


def _object(document: Mapping[str, Any], name: str, of: str) -> Mapping[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict | None):
        raise MalformedRequest(f'"{name}" of {of} is {short(value)}: give an object')
    return value or {}
