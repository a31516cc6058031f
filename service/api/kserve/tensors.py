"""Tensors of the Open Inference Protocol (KServe's V2): a JSON document, then binary data.

Input, one image a row: BYTES (N,) or (N, 1), or UINT8 (N, bytes), of encoded images, or numbers
(N, H, W, 3) or (N, 3, H, W), see `service.api.kserve.arrays`. A raw binary request is one encoded
image alone.
Output: FP32 or BOOL of any shape, or BYTES (N,) or (N, k) of texts. Binary data is little-endian
and row-major; a length of 4 bytes precedes each element of BYTES.

Encoded images: binary data holds the file itself, JSON its base64 (RFC 4648). Nothing is guessed,
but MLServer's `content_type` base64 of an input says that its binary data are base64, too.

Sources: https://github.com/kserve/open-inference-protocol, inference_rest.md, and KServe's and
Triton's "binary tensor data extension".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from jaxtyping import Bool, Float32
from starlette.responses import Response

from service.api import large
from service.api import parameters as request_parameters
from service.api.kserve import arrays
from service.api.payload import MAX_IMAGES, EncodedImage, from_base64
from service.errors import InvalidParameter, MalformedRequest, short
from service.image.resize import Input, Pixels

BYTES, UINT8, FP32, BOOL = "BYTES", "UINT8", "FP32", "BOOL"
HEADER, RAW = "Inference-Header-Content-Length", "0"
SIZE, CONTENT_TYPE, BASE64 = "binary_data_size", "content_type", "base64"
OF_INPUT = (SIZE, CONTENT_TYPE)  # the parameters of an input
SHARED_MEMORY = "shared_memory_"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
LENGTH_BYTES = 4
MAX_ROWS = MAX_IMAGES
MAX_DIGITS = 15  # of HEADER; int() takes seconds for thousands of digits
INPUTS = f"send BYTES (N,) of encoded images, or UINT8 {arrays.SHAPES} of pixels"

Row = EncodedImage | Pixels
Values = Float32[np.ndarray, "..."] | Bool[np.ndarray, "..."] | Sequence[str]


@dataclass(frozen=True)
class OutputRequest:
    """A request for one output, as binary data or as JSON, with the output's own parameters."""

    name: str
    binary: bool
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InferenceRequest:
    """The content of POST …/infer.

    `rows` are images, or the error in the place of one. Without `outputs` the caller gets the
    usual ones, as binary data if `binary`. `parameters` belong to the request. `ignored` are
    warnings of parameters of the input that nobody knows.
    """

    id: str | None
    rows: tuple[Row, ...]
    outputs: tuple[OutputRequest, ...]
    parameters: Mapping[str, Any]
    binary: bool
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """An outgoing tensor: float32 or bool of any shape, or texts, `columns` a row if not 0."""

    request: OutputRequest
    values: Values
    parameters: Mapping[str, Any] = field(default_factory=dict)
    columns: int = 0


def read(body: bytes, json_length: str | None, spec: Input, max_pixels: int) -> InferenceRequest:
    """Reads a request; `json_length` is the value of HEADER, None if all of `body` is JSON, "0" if
    it is an image. `spec` is the network's input, for tensors that are already its own.

    Raises:
        MalformedRequest: the body breaks the protocol.
        InvalidParameter: a parameter is unknown, there are more than 64 rows, or `check_values`
            fails.
        ImageTooLarge: images of more than `max_pixels` pixels.
    """
    if json_length == RAW and body.startswith(b"{"):
        json_length = None  # JSON has some length: a client may send the header with a default
    elif json_length == RAW and body:
        return InferenceRequest(None, (body,), (), {}, binary=True)
    return parsed(*_split(body, json_length), spec, max_pixels)


def parsed(
    document: Mapping[str, Any], binary: memoryview, spec: Input, max_pixels: int
) -> InferenceRequest:
    """A request from its `document`, as JSON has it, and the binary data of its input.

    Elements of BYTES in the document may be bytes: the files themselves. Errors are those of
    `read`.
    """
    identity = document.get("id")
    if not isinstance(identity, str | None):
        raise MalformedRequest(f'"id" is {short(identity)}: give text')
    parameters = dict(_object(document, "parameters", "the request"))
    all_binary = _flag(parameters, "binary_data_output", default=False)
    tensor = _only_input(document)
    ignored = _ignored(tensor)
    rows = _rows(tensor, binary, spec, max_pixels)
    outputs = _output_requests(document.get("outputs"), all_binary=all_binary)
    return InferenceRequest(identity, rows, outputs, parameters, all_binary, ignored)


def write(head: Mapping[str, Any], outputs: Sequence[Output]) -> Response:
    """The answer: the document `head` with its "outputs", then the data of the binary ones."""
    entries = [_entry(output) for output in outputs]
    document = orjson.dumps(
        {**head, "outputs": [entry for entry, _ in entries]}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    if not any(output.request.binary for output in outputs):
        return Response(document, media_type="application/json")
    body = b"".join([document, *(data for _, data in entries)])
    return Response(
        body, headers={HEADER: str(len(document))}, media_type="application/octet-stream"
    )


def _entry(output: Output) -> tuple[dict[str, Any], bytes]:
    values = output.values
    kind, shape, content = laid_out(values, output.columns)
    entry: dict[str, Any] = {"name": output.request.name, "datatype": kind, "shape": shape}
    data, parameters = b"", dict(output.parameters)
    if output.request.binary:
        data, parameters["binary_data_size"] = content, len(content)
    elif isinstance(values, np.ndarray):
        entry["data"] = np.ascontiguousarray(values).ravel()
    else:
        entry["data"] = list(values)
    return entry | ({"parameters": parameters} if parameters else {}), data


def laid_out(values: Values, columns: int) -> tuple[str, list[int], bytes]:
    """Datatype, shape and binary data of `values`."""
    if not isinstance(values, np.ndarray):
        shape = [len(values) // columns, columns] if columns else [len(values)]
        return BYTES, shape, b"".join(_with_length(text) for text in values)
    if values.dtype == bool:
        return BOOL, list(values.shape), values.tobytes()
    return FP32, list(values.shape), values.astype("<f4").tobytes()


def _with_length(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded


def _split(body: bytes, json_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON document, and the binary data after it."""
    # Slices of a memoryview copy nothing; the binary data may have megabytes.
    content, length = memoryview(body), len(body)
    if json_length is not None:
        length = _json_length(json_length, length)
    large.check_values(body[:length], numbers=large.NUMBERS_TYPE)
    try:
        document = orjson.loads(content[:length])
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f"the body is not JSON ({error}): "
            f"if binary data follows, give the length of the JSON in {HEADER}"
        ) from None
    if not isinstance(document, dict):
        raise MalformedRequest(
            f'the body is a JSON {type(document).__name__}: send an object with "inputs"'
        )
    return document, content[length:]


def _json_length(text: str, body_bytes: int) -> int:
    digits = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    if not digits or int(text) > body_bytes:
        raise MalformedRequest(
            f"{HEADER} is {short(text)}, of a body of {body_bytes:,} bytes: "
            "give the length of its JSON in bytes"
        )
    return int(text)


def _only_input(document: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = document.get("inputs")
    if isinstance(inputs, list) and len(inputs) > 1:
        raise MalformedRequest(f"{len(inputs):,} inputs were sent, and one is taken: {INPUTS}")
    if not isinstance(inputs, list) or not inputs or not isinstance(inputs[0], dict):
        raise MalformedRequest(f'"inputs" is not a list of one tensor: {INPUTS}')
    return dict(inputs[0])


def _ignored(tensor: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings of the parameters of the input that nobody knows."""
    parameters = _object(tensor, "parameters", "the input")
    check_memory(parameters)
    return request_parameters.ignored(
        [name for name in parameters if name not in OF_INPUT], OF_INPUT
    )


def check_memory(parameters: Mapping[str, Any]) -> None:
    """Checks that a tensor is not in shared memory.

    Raises:
        InvalidParameter: its parameters say so.
    """
    for name in parameters:
        if name.startswith(SHARED_MEMORY):
            raise InvalidParameter(
                f"{name} is given, and no memory is shared with callers: "
                "send the data in the request, and take them from the answer"
            )


def _rows(
    tensor: Mapping[str, Any], binary: memoryview, spec: Input, max_pixels: int
) -> tuple[Row, ...]:
    if not isinstance(tensor.get("name"), str):
        raise MalformedRequest(f"the input's name is {short(tensor.get('name'))}: give text")
    kind, shape = tensor.get("datatype"), _shape(tensor)
    if kind == BYTES and (len(shape) == 1 or shape[1:] == (1,)):
        _check_rows(shape[0])
        return _encoded(tensor, _data(tensor, binary), shape[0])
    if kind == UINT8 and len(shape) < arrays.AXES - 1:
        rows, length = shape if len(shape) > 1 else (1, *shape)
        _check_rows(rows)
        return arrays.files(_data(tensor, binary), (rows, length))
    if isinstance(kind, str) and kind in arrays.DTYPES:
        arrays.check_shape(shape, spec, max_pixels, is_float=kind.startswith("FP"))
        _check_rows(shape[0])
        return tuple(arrays.images(_data(tensor, binary), shape, kind, spec))
    raise InvalidParameter(f"the input is {short(kind)} of shape {short(list(shape))}: {INPUTS}")


def _check_rows(rows: int) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise InvalidParameter(
            f"the input has {rows:,} rows; the limit is {MAX_ROWS}, the least is 1: "
            "send several requests"
        )


def _shape(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    value, data = tensor.get("shape"), tensor.get("data")
    if value == [-1] and tensor.get("datatype") == BYTES and isinstance(data, list):
        return (len(data),)  # as TorchServe's samples say it
    # `type() is int`, because isinstance() takes true for an int.
    if (
        not isinstance(value, list)
        or not value
        or not all(type(length) is int and length >= 0 for length in value)
    ):
        raise MalformedRequest(f"the input's shape is {short(value)}: give a list of whole numbers")
    return tuple(value)


def _data(tensor: Mapping[str, Any], binary: memoryview) -> memoryview | list[Any]:
    """The binary data of a tensor, or its JSON data as a flat list."""
    size, data = _object(tensor, "parameters", "the input").get(SIZE), tensor.get("data")
    if isinstance(data, str) and not binary:
        data = [data]  # an image alone
    if size is None and isinstance(data, list) and not binary:
        return arrays.flat(data)
    # OpenVINO's clients leave the size of an only input out.
    if data is None and (binary if size is None else type(size) is int and size == len(binary)):
        return binary
    raise MalformedRequest(
        f"the input has {SIZE} {short(size)}, "
        f"{'some' if isinstance(data, list) else 'no'} data, and {len(binary):,} bytes follow "
        "the JSON: give a list as data, or all of those bytes"
    )


def _encoded(
    tensor: Mapping[str, Any], data: memoryview | list[Any], rows: int
) -> tuple[EncodedImage, ...]:
    parameters = _object(tensor, "parameters", "the input")
    elements: list[Any]
    if isinstance(data, list):
        elements = data
    elif SIZE not in parameters and rows == 1:
        elements = [bytes(data)]  # without its length before it, as OpenVINO's clients send it
    else:
        elements = _elements(data, rows)
    if len(elements) != rows:
        raise MalformedRequest(
            f"the input has {len(elements):,} elements or more, but its shape has {rows} rows: "
            "make them agree"
        )
    packed = parameters.get(CONTENT_TYPE) == BASE64
    return tuple(_encoded_image(element, packed=packed) for element in elements)


def _encoded_image(element: object, *, packed: bool) -> EncodedImage:
    """The file in an element of JSON, or of binary data, which may be `packed` in base64."""
    if isinstance(element, bytes) and not packed:
        return element or MalformedRequest("the image is empty (0 bytes): send one")
    text = element.decode("latin-1") if isinstance(element, bytes) else element
    return from_base64("image", text)


def _elements(data: memoryview, rows: int) -> list[bytes]:
    """The elements of binary BYTES; reading stops one after `rows`."""
    elements: list[bytes] = []
    start = 0
    # A body of 10 MB can announce millions of empty elements.
    while start < len(data) and len(elements) <= rows:
        size = int.from_bytes(data[start : start + LENGTH_BYTES], "little")
        start += LENGTH_BYTES
        if start + size > len(data):
            raise MalformedRequest(
                f"row {len(elements)}: its length is {size:,} bytes, but "
                f"{max(0, len(data) - start):,} remain: "
                "send 4 bytes of length, little-endian, before each image"
            )
        elements.append(bytes(data[start : start + size]))
        start += size
    return elements


def _output_requests(value: Any, *, all_binary: bool) -> tuple[OutputRequest, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in value
    ):
        raise MalformedRequest('"outputs" is not a list of objects with a "name"')
    outputs = []
    for entry in value:
        parameters = dict(_object(entry, "parameters", "the output"))
        binary = _flag(parameters, "binary_data", default=all_binary)
        outputs.append(OutputRequest(entry["name"], binary, parameters))
    names = [output.name for output in outputs]
    if len(set(names)) < len(names):
        raise MalformedRequest(
            f'"outputs" names one twice ({short(", ".join(names))}): name each once'
        )
    return tuple(outputs)


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    """Removes a flag from `parameters` and returns it."""
    value = parameters.pop(name, default)
    if not isinstance(value, bool):
        raise InvalidParameter(f"{name} is {short(value)}; give true or false")
    return value


def _object(document: Mapping[str, Any], name: str, owner: str) -> Mapping[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict | None):
        raise MalformedRequest(f'"{name}" of {owner} is {short(value)}: give an object')
    return value or {}
