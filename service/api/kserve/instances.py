"""The images of a request of V1: rows ("instances", "examples"), or columns ("inputs").

An image is one of

    base64 text, or {"b64": text}          an encoded image
    [[[…]]], (H, W, 3) or (3, H, W)        numbers, see `service.api.kserve.arrays`
    {name: one of these}                   with any name, and others beside it if only one has "b64"

The other fields of a request are parameters.

Sources: https://www.tensorflow.org/tfx/serving/api_rest; the samples of KServe, TorchServe and
OpenVINO Model Server.
"""

from typing import Any, NamedTuple

import orjson

from service.api import large
from service.api.kserve import arrays
from service.api.payload import Payload, SentImage, check_counts, from_base64
from service.errors import MalformedRequest, RequestError
from service.image.resize import Input, Pixels

INSTANCES, EXAMPLES, INPUTS = "instances", "examples", "inputs"
B64 = "b64"
# Of an image beside other features: TensorFlow Serving's, KServe's samples', TorchServe's.
KEYS = ("image_bytes", "image", "data")
USAGE = 'send {"instances": [{"b64": "<base64>"}]}'


class Instances(NamedTuple):
    """The images and parameters of a request; `in_columns` if it has "inputs"."""

    payload: Payload
    in_columns: bool


def read(body: bytes, spec: Input, max_pixels: int) -> Instances:
    """Reads a request. `spec` is the network's input, for floats that are already its own.

    Raises:
        MalformedRequest: not JSON, or without a list of images.
        InvalidParameter: more than 64 images, or `check_values` fails.
    """
    large.check_values(body, numbers=large.LISTED_NUMBERS)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON ({error}): {USAGE}") from None
    found = document if isinstance(document, dict) else {}
    rows = {name: found.pop(name) for name in (INSTANCES, EXAMPLES, INPUTS) if name in found}
    if len(rows) > 1:
        raise MalformedRequest(f"{' and '.join(rows)} were sent: {USAGE}")
    in_columns = INPUTS in rows
    images = _column(rows[INPUTS]) if in_columns else next(iter(rows.values()), None)
    if not isinstance(images, list) or not images:
        raise MalformedRequest(f'"{next(iter(rows), INSTANCES)}" is empty, or not a list: {USAGE}')
    # Counted before the first is decoded.
    payload = check_counts(Payload((b"",) * len(images), is_list=True, parameters=found))
    decoded = tuple(_image(each, spec, max_pixels) for each in images)
    return Instances(payload._replace(images=decoded), in_columns)


def _column(inputs: Any) -> Any:
    """The rows of the only input, which may have a name or be an image alone."""
    if isinstance(inputs, dict) and B64 not in inputs:
        if len(inputs) != 1:
            raise MalformedRequest(f"{len(inputs)} inputs were sent, and one is taken: {USAGE}")
        (inputs,) = inputs.values()
    return [inputs] if isinstance(inputs, dict | str) else inputs


def _image(instance: Any, spec: Input, max_pixels: int) -> SentImage:
    value = _only_image(instance) if isinstance(instance, dict) else instance
    if not isinstance(value, list):
        return from_base64("image", value)
    try:
        return _pixels(value, spec, max_pixels)
    except RequestError as error:
        return error


def _only_image(instance: dict[str, Any]) -> Any:
    if B64 in instance:
        return instance
    if len(instance) == 1:
        return next(iter(instance.values()))
    encoded = [each for each in instance.values() if isinstance(each, dict) and B64 in each]
    if len(encoded) == 1:
        return encoded[0]
    return next((instance[key] for key in KEYS if key in instance), instance)


def _pixels(nested: list[Any], spec: Input, max_pixels: int) -> Pixels:
    shape, level = [1], nested
    while len(shape) <= arrays.AXES:
        shape.append(len(level))
        if not level or not isinstance(level[0], list):
            break
        level = level[0]
    data = arrays.flat(nested)
    is_float = float in set(map(type, data))
    arrays.check_shape(tuple(shape), spec, max_pixels, is_float=is_float)
    pixels: Pixels = arrays.images(data, tuple(shape), "FP64" if is_float else "INT64", spec)[0]
    return pixels
