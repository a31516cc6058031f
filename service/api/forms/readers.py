"""Bodies that are forms, in parts (multipart/form-data) or in pairs (urlencoded) → payloads."""

import asyncio
import re
from collections.abc import AsyncGenerator
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api import large
from service.api.forms.parts import Part, field, payload_of
from service.api.payload import MAX_IMAGES, Payload
from service.errors import MalformedRequest

MAX_FIELDS = 100  # in a form or a query

_PAIR = re.compile(rb"[\w%+.\[\]-]{1,100}=")


async def multipart(headers: Headers, body: bytes) -> Payload:
    """The payload of a form in parts.

    Raises:
        MalformedRequest: it cannot be read, or has no image.
        InvalidParameter: `payload_of` fails.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), large.PIECE_BYTES):
            if start:
                await asyncio.sleep(0)  # other callers have their turn
            yield body[start : start + large.PIECE_BYTES]

    try:
        # One file more than the limit passes here, so that `check_counts` words the error. The size
        # of a part needs no limit of its own: the body has one.
        parser = MultiPartParser(
            headers,
            stream(),
            max_files=MAX_IMAGES + 1,
            max_fields=MAX_FIELDS,
            max_part_size=len(body),
        )
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise MalformedRequest(
            f"the form cannot be read ({error}): send multipart/form-data with parts named 'image'"
        ) from None
    try:
        parts = [await _part(name, value) for name, value in form.multi_items()]
    finally:
        await form.close()
    if not parts:
        raise MalformedRequest("the form has no whole part: send one named 'image', up to its end")
    return payload_of(parts)


async def _part(name: str, value: UploadFile | str) -> Part:
    if isinstance(value, UploadFile):
        return Part(name, await value.read(), value.filename or "")
    return field(name, value)


def is_urlencoded(body: bytes) -> bool:
    """True if `body` begins like pairs of names and values, and not like an image."""
    return _PAIR.match(body) is not None


def urlencoded(body: bytes) -> Payload:
    """The payload of a form in pairs, in which an image is base64 or a data URL.

    Raises:
        MalformedRequest: it has too many pairs, or no image.
        InvalidParameter: `payload_of` fails.
    """
    try:
        pairs = parse_qsl(
            body.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS + MAX_IMAGES
        )
    except ValueError as error:
        raise MalformedRequest(
            f"the form cannot be read ({error}): send multipart/form-data with parts named 'image'"
        ) from None
    # A plus that was not encoded has become a space, which base64 has not.
    parts = [Part(name, text.encode()) for name, text in pairs]
    return payload_of(
        [
            part._replace(content=part.content.replace(b" ", b"+")) if part.is_file else part
            for part in parts
        ]
    )
