"""What a request holds: encoded images and parameters; and files that stand in it as text.

Text is base64 (RFC 4648) as programs write it: with or without padding, in lines (MIME), with the
letters of URLs, escaped as in a URL, in quotes, behind the head of a data URL (RFC 2397) or what is
left of it, or in an object as {"b64": text}, which is TensorFlow Serving's.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from service.errors import InvalidParameter, MalformedRequest, RequestError, short
from service.image.kinds import begins_like_an_image
from service.image.resize import Pixels

MAX_IMAGES = 64  # in one request

EncodedImage = bytes | MalformedRequest
SentImage = EncodedImage | Pixels | RequestError

_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_HEAD = re.compile(r"(?:data:)?[^,]{0,200}?base64\s*,", re.IGNORECASE)
_URL = re.compile(r"(https?:|ftp:|file:|s3:|gs:|blob:|//|www\.)", re.IGNORECASE)
_FILE_NAME = re.compile(r"[^\n]{1,250}\.[a-z]\w{1,4}", re.IGNORECASE)
_TO_STANDARD = str.maketrans("-_", "+/", " \t\r\n")
# Keys of an object that hold the text: TensorFlow Serving's and KServe's, and what others call it.
_OF_TEXT = ("b64", "base64", "data", "image_bytes", "bytes", "content", "image", "url")
_BEGINNING = 300  # characters of a text in which its head ends
_SAMPLE = 24  # characters of base64 that show how a file begins


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
    text = _text_in(text)
    if not isinstance(text, str):
        return MalformedRequest(
            f"the {name} is given as {_in_json(text)}: in JSON, send base64 text (RFC 4648), "
            'or {"b64": text}'
        )
    text = _bare(text)
    if _URL.match(text):
        return MalformedRequest(
            f"the {name} is given by its address ({short(text)}), and none is fetched: "
            "send the bytes of the file"
        )
    try:
        decoded = _decoded(text)
    except (binascii.Error, ValueError) as error:
        if _FILE_NAME.fullmatch(text):
            return MalformedRequest(
                f"the {name} is given by its name ({short(text)}), which names a file elsewhere: "
                "send the bytes of the file"
            )
        return MalformedRequest(
            f"the {name} of {len(text):,} characters is not base64 ({error}): encode it by RFC 4648"
        )
    return decoded or MalformedRequest(f"the {name} is empty (0 bytes): send one")


def as_file(body: bytes) -> EncodedImage:
    """`body` itself; or, if it is an image as base64 text or as a data URL, the image."""
    if not body[:8].isascii() or not is_text_of_an_image(body[:_BEGINNING].decode("latin-1")):
        return body
    return from_base64("image", body.decode("latin-1"))


def is_text_of_an_image(value: object) -> bool:
    """True of a data URL, and of base64 that begins like an image."""
    text = _text_in(value)
    if not isinstance(text, str):
        return False
    text = _bare(text[:_BEGINNING])
    if _DATA_URL.match(text):
        return True
    head = _HEAD.match(text)
    sample = unquote(text[head.end() :] if head else text).translate(_TO_STANDARD)[:_SAMPLE]
    try:
        return begins_like_an_image(base64.b64decode(sample, validate=True))
    except (binascii.Error, ValueError):
        return False


def _text_in(value: object) -> object:
    """The text in an object, else `value`."""
    if not isinstance(value, dict):
        return value
    return next((value[key] for key in _OF_TEXT if isinstance(value.get(key), str)), value)


def _bare(text: str) -> str:
    """`text` without spaces and quotes around it, those of Python's b'…' too."""
    text = text.strip()
    for opening in ("b'", 'b"', "'", '"'):
        if text.startswith(opening):
            return text[len(opening) :].removesuffix(opening[-1])
    return text


def _in_json(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(short(key) for key in list(value)[:3]) or 'nothing'}"
    return {list: "a list", type(None): "null", bool: "a boolean"}.get(type(value), "a number")


def _decoded(text: str) -> bytes:
    head = _HEAD.match(text)
    if head is None and (url := _DATA_URL.match(text)):
        return unquote_to_bytes(text[url.end() :])
    text = text[head.end() :] if head else text
    try:
        # Without validation b64decode skips all characters that are not base64.
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        plain = unquote(text).translate(_TO_STANDARD).rstrip("=")
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


def with_query(payload: Payload, query: Mapping[str, str]) -> Payload:
    """Adds the parameters of the query to `payload`.

    Raises:
        InvalidParameter: the query and the body give the same parameter, with two values.
    """
    # The same value twice is no contradiction: generated clients fill both in.
    twice = {
        name
        for name in set(query) & set(payload.parameters)
        if str(payload.parameters[name]).lower() != query[name].lower()
    }
    if twice:
        raise InvalidParameter(
            f"{', '.join(sorted(twice))} is given in the query and in the body, with two values: "
            "give it once"
        )
    return payload._replace(parameters={**payload.parameters, **query})
