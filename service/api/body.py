"""Reads the body of a request, a raw image, a multipart form or JSON, as a `Payload`.

Images stay encoded here: `service.image.decode` opens them. JSON holds files as base64 (RFC 4648).
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request

from service.api import large, negotiation
from service.api.forms import readers
from service.api.forms.parts import unique, valid
from service.api.forms.readers import MAX_FIELDS
from service.api.parameters import EVERYWHERE
from service.api.payload import (
    Payload,
    as_file,
    check_counts,
    from_base64,
    is_text_of_an_image,
    with_query,
)
from service.errors import (
    BodyTooLarge,
    InvalidParameter,
    MalformedRequest,
    SlowRequest,
    UnsupportedFormat,
    short,
)
from service.image.budget import Budget, Lease
from service.image.kinds import MEDIA_TYPES
from service.workers import protocol

READ_SECONDS = 30
MOST_UNPACKED = 1_032  # bytes, from one of a deflated body
USUAL, SHORT = 64, 256  # queries that are remembered, and their bytes
LEASE = "body_lease"  # key of a request's state: the memory of its body
# A smaller body that has arrived at once is charged nothing: the queue has few places for those.
FREE_BYTES = 2**16
FORM, JSON, BYTES = "multipart/form-data", "application/json", "application/octet-stream"
SUPPORTED = ", ".join((*MEDIA_TYPES, BYTES, FORM, JSON))
PAIRS = "application/x-www-form-urlencoded"  # which curl sends of itself, whatever the body is
# The bytes decide, unless a type says that they are something else: one that begins like these, but
# for those of _UNSAID: what fetch() sends of a text.
_OTHERS = (
    *("audio/", "video/", "font/", "model/", "message/", "multipart/", "text/"),
    *(
        f"application/{name}"
        for name in ("pdf", "zip", "gzip", "xml", "javascript", "msword", "vnd.", "x-tar", "wasm")
    ),
)
_UNSAID = ("text/plain",)
_BOM = b"\xef\xbb\xbf"  # which some programs put before UTF-8


class Limits(NamedTuple):
    """The most bytes of one body, and the budget of all that are in memory."""

    max_bytes: int
    budget: Budget


async def read(request: Request, limits: Limits) -> Payload:
    """Reads the payload of `request`.

    Raises:
        BodyTooLarge: the body exceeds `limits`.
        TooManyRequests: there is no memory for it now.
        UnsupportedFormat: the content type or the encoding is not supported.
        SlowRequest: the body is incomplete after READ_SECONDS.
        MalformedRequest: the body is empty or does not match its content type.
        InvalidParameter: a parameter is given twice, or `check_counts` fails.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = query_of(request)  # first, so that a bad query costs no body
    if kind.startswith(_OTHERS) and kind not in (FORM, *_UNSAID) and not _is_json(kind):
        raise UnsupportedFormat(
            f"Content-Type {short(kind)} says that the body is no image; supported are "
            f"{SUPPORTED}: name the type of the body, or leave it out"
        )
    body = await body_of(request, limits)
    if not body:
        raise MalformedRequest("the body is empty (0 bytes): send an image")
    if kind == FORM:
        return with_query(await readers.multipart(request.headers, body), query)
    if _is_json(kind) or (not _is_image(kind) and body[:8].removeprefix(_BOM).lstrip()[:1] == b"{"):
        return with_query(await large.parse(body, lambda: _json(body)), query)
    image = as_file(body)
    if kind == PAIRS and image is body and readers.is_urlencoded(body):
        return with_query(readers.urlencoded(body), query)
    return Payload((image,), is_list=False, parameters=query)


def _is_image(kind: str) -> bool:
    return kind.startswith("image/")


def _is_json(kind: str) -> bool:
    return kind in (JSON, "text/json") or kind.endswith("+json")


def query_of(request: Request) -> Mapping[str, str]:
    """The parameters in the query.

    Raises:
        InvalidParameter: one is given twice, or is a file; or there are more than MAX_FIELDS.
    """
    if not request.scope["query_string"]:
        return {}
    count = request.scope["query_string"].count(b"&") + 1
    if count > MAX_FIELDS:
        raise InvalidParameter(
            f"{count:,} parameters in the query; the limit is {MAX_FIELDS}: leave the others out"
        )
    text = request.scope["query_string"]
    return _usual_query(text) if len(text) <= SHORT else _query(text)


def _query(text: bytes) -> Mapping[str, str]:
    query = unique(QueryParams(text).multi_items(), "the query")
    if "mask" in query:
        raise InvalidParameter(
            "mask is in the query, but a mask is a file: send it as a form part, or in JSON"
        )
    return query


# Most callers send the same query again and again.
_usual_query = lru_cache(USUAL)(_query)


async def body_of(request: Request, limits: Limits) -> bytes:
    """Reads the body of `request`; its memory is held until `release(request)`.

    Raises:
        BodyTooLarge: the body exceeds `limits`.
        TooManyRequests: there is no memory for it now.
        UnsupportedFormat: the body is compressed in another way than by gzip or deflate.
        MalformedRequest: it cannot be unpacked.
        SlowRequest: the body is incomplete after READ_SECONDS.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    encoding = negotiation.ALIASES.get(encoding, encoding)
    negotiation.check_encoding(encoding)
    if encoding != "identity":
        return await _unpacked(request, limits, encoding)
    return await _sent_body(request, limits)


async def _unpacked(request: Request, limits: Limits, encoding: str) -> bytes:
    """A compressed body; its memory, too, is charged before it is taken."""
    packed = await _sent_body(request, limits)
    lease = request.scope.setdefault("state", {}).get(LEASE)
    if lease is None:
        lease = request.scope["state"][LEASE] = limits.budget.take(0)
    # A deflated byte unpacks to 1,032 at the most.
    lease.grow(min(limits.max_bytes, len(packed) * MOST_UNPACKED))
    body = await asyncio.to_thread(negotiation.unpack, packed, encoding, limits.max_bytes)
    if body is None:
        raise _too_large(limits.max_bytes, limits.max_bytes)
    return body


async def _sent_body(request: Request, limits: Limits) -> bytes:
    size = _announced_bytes(request, limits.max_bytes)
    caller = protocol.of(request.scope)
    arrived = caller is not None and caller.body_received
    if arrived and size is not None and size <= FREE_BYTES:
        return await _collect(request, limits.max_bytes)
    # Before a byte of it is read; a chunked body is charged as it comes.
    lease = limits.budget.take(size or 0)
    request.scope.setdefault("state", {})[LEASE] = lease
    collect = _collect(request, limits.max_bytes, lease if size is None else None)
    # A timer costs more than reading a body that has already arrived.
    if arrived:
        return await collect
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await collect
    except TimeoutError:
        raise SlowRequest(
            f"the body is incomplete after {READ_SECONDS} s: send it faster, or a smaller image"
        ) from None


def _announced_bytes(request: Request, max_bytes: int) -> int | None:
    """The Content-Length of a body that may be read; None of a chunked one."""
    announced = request.headers.get("content-length", "")
    if not announced.isdecimal():
        return None
    size = int(announced)
    if size > max_bytes:
        raise _too_large(size, max_bytes)
    return size


def release(request: Request) -> None:
    """Gives the memory of the body of `request` back."""
    lease: Lease | None = request.scope["state"].pop(LEASE, None)
    if lease is not None:
        lease.release()


async def _collect(request: Request, max_bytes: int, growing: Lease | None = None) -> bytes:
    # Content-Length is missing in a chunked body, so the bytes are counted.
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(size, max_bytes)
        if growing is not None:
            growing.grow(len(part))
        parts.append(part)
    return b"".join(parts)


def _too_large(size: int, max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has {size:,} bytes or more; the limit is {max_bytes:,}: "
        "send a smaller image, or fewer at once"
    )


def _json(body: bytes) -> Payload:
    large.check_values(body)
    try:
        document = orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f'the body is not JSON ({error}): send {{"image": "<base64>"}}'
        ) from None
    document = _named(document)
    if not isinstance(document, dict) or ("image" in document) == ("images" in document):
        raise MalformedRequest('send a JSON object with exactly one of "image" and "images"')
    texts = document.pop("images", None) or document.pop("image", [])
    is_list = isinstance(texts, list) and not (texts and isinstance(texts[0], int))
    if is_list and not texts:
        raise MalformedRequest(
            '"images" is empty, or not a list: send a list of one or more base64 texts'
        )
    mask = valid(from_base64("mask", document.pop("mask"))) if "mask" in document else None
    images = tuple(from_base64("image", text) for text in (texts if is_list else [texts]))
    return check_counts(Payload(images, is_list, document, mask))


def _named(document: object) -> object:
    """`document` with the images under their name: those of a bare list or text, and of one key
    that holds images and is no other parameter.
    """
    if isinstance(document, str) or (isinstance(document, list) and document):
        return {"image": document}
    if not isinstance(document, dict) or "image" in document or "images" in document:
        return document
    holding = [
        name
        for name, value in document.items()
        if name not in EVERYWHERE
        and name != "mask"
        and is_text_of_an_image(value[0] if isinstance(value, list) and value else value)
    ]
    if len(holding) != 1:
        return document
    return {"image" if name == holding[0] else name: value for name, value in document.items()}
