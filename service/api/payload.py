"""What a request holds: encoded images and parameters; and files that stand in it as text.

Text is base64 (RFC 4648) as programs write it: with or without padding, in lines (MIME), with the
letters of URLs, behind the head of a data URL (RFC 2397), or in an object as {"b64": text}, which
is TensorFlow Serving's.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from service.errors import InvalidParameter, MalformedRequest, RequestError, short
from service.image.resize import Pixels

MAX_IMAGES = 64  # in one request

EncodedImage = bytes | MalformedRequest
SentImage = EncodedImage | Pixels | RequestError

_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_URL = re.compile(r"(https?|ftp|file|s3|gs|blob):", re.IGNORECASE)
_TO_STANDARD = str.maketrans("-_", "+/", " \t\r\n")
_OF_TEXT = "b64"  # the key of an object that holds the text


class Payload(NamedTuple):
    """Images and parameters of one request, and the mask of its only image.

    `images` holds encoded images or pixels, or the error in the place of an unreadable one.
    `is_list`: the caller sent a list and gets one back. `parameters`: text from query and form,
    JSON values.
    """

    images: tuple[SentImage, ...]
    is_list: bool
    parameters: Mapping[str, Any] = MappingProxyType({})
    mask: bytes | None = None


def from_base64(name: str, text: object) -> EncodedImage:
    """Decodes a file in JSON, called `name` in messages; returns an error if it is unreadable."""
    if isinstance(text, dict) and _OF_TEXT in text:
        text = text[_OF_TEXT]
    if not isinstance(text, str):
        return MalformedRequest(
            f"the {name} is given as {_in_json(text)}: in JSON, send base64 text (RFC 4648), "
            'or {"b64": text}'
        )
    head = _DATA_URL.match(text)
    if head is not None and not head[0].lower().endswith(";base64,"):
        return MalformedRequest(
            f"the {name} is a data URL without base64 ({short(head[0])}): encode it by RFC 4648"
        )
    if _URL.match(text):
        return MalformedRequest(
            f"the {name} is given by its address ({short(text)}), and none is fetched: "
            "send the bytes of the file"
        )
    try:
        decoded = _decoded(text[head.end() :] if head else text)
    except (binascii.Error, ValueError) as error:
        return MalformedRequest(
            f"the {name} of {len(text):,} characters is not base64 ({error}): encode it by RFC 4648"
        )
    return decoded or MalformedRequest(f"the {name} is empty (0 bytes): send one")


def _in_json(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(short(key) for key in list(value)[:3]) or 'nothing'}"
    return {list: "a list", type(None): "null", bool: "a boolean"}.get(type(value), "a number")


def _decoded(text: str) -> bytes:
    try:
        # Without validation b64decode skips all characters that are not base64.
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        plain = text.translate(_TO_STANDARD).rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def check_counts(payload: Payload) -> Payload:
    """Returns `payload` if one request may hold so many images.

    Raises:
        InvalidParameter: more than MAX_IMAGES, or several images with a mask.
    """
    count = len(payload.images)
    if count > MAX_IMAGES:
        raise InvalidParameter(
            f"{count} or more images in one request; the limit is {MAX_IMAGES}: "
            "send several requests"
        )
    if payload.mask is not None and count > 1:
        raise InvalidParameter(
            f"a mask was sent with {count} images, but belongs to one: "
            "send a request for each image"
        )
    return payload


def with_query(payload: Payload, query: Mapping[str, Any]) -> Payload:
    """Adds the parameters of the query to `payload`.

    Raises:
        InvalidParameter: the query and the body give the same parameter.
    """
    twice = set(query) & set(payload.parameters)
    if twice:
        raise InvalidParameter(
            f"{', '.join(sorted(twice))} is given in the query and in the body: give it once"
        )
    return payload._replace(parameters={**payload.parameters, **query})
