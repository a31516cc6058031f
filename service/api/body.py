"""Reads the body of a request, a raw image, a multipart form or JSON, as a `Payload`.

Images stay encoded here: `service.image.decode` opens them. JSON holds files as base64 (RFC 4648).
"""

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.api import large
from service.errors import (
    BodyTooLarge,
    InvalidParameter,
    MalformedRequest,
    SlowRequest,
    UnsupportedFormat,
    short,
)
from service.image.budget import Budget, Lease
from service.image.decode import MEDIA_TYPES
from service.workers import protocol

MAX_IMAGES = 64  # in one request
MAX_FIELDS = 100  # in a form or a query
READ_SECONDS = 30
LEASE = "body_lease"  # key of a request's state: the memory of its body
# A smaller body that has arrived at once is charged nothing: the queue has few places for those.
FREE_BYTES = 2**16
FORM, JSON = "multipart/form-data", "application/json"
SUPPORTED = ", ".join((*MEDIA_TYPES, FORM, JSON))
# Browsers send octet-stream for files that they do not know; the decoder looks at the bytes.
RAW = (*MEDIA_TYPES, "application/octet-stream")

EncodedImage = bytes | MalformedRequest


class Payload(NamedTuple):
    """Images and parameters of one request, and the mask of its only image.

    `images` holds encoded images, or the error in the place of an unreadable one. `is_list`: the
    caller sent a list and gets one back. `parameters`: text from query and form, JSON values.
    """

    images: tuple[EncodedImage, ...]
    is_list: bool
    parameters: Mapping[str, Any] = MappingProxyType({})
    mask: bytes | None = None


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
    if kind not in (*RAW, FORM, JSON):
        problem = f"Content-Type {short(kind)} is not supported"
        raise UnsupportedFormat(
            f"{problem if kind else 'the request has no Content-Type'}; "
            f"supported are {SUPPORTED}: name the type of the body"
        )
    body = await body_of(request, limits)
    if not body:
        raise MalformedRequest("the body is empty (0 bytes): send an image")
    if kind == FORM:
        return with_query(await _form(request, body), query)
    if kind == JSON:
        return with_query(await large.parse(body, lambda: _json(body)), query)
    return Payload((body,), is_list=False, parameters=query)


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
    query = _unique(request.query_params.multi_items(), "the query")
    if "mask" in query:
        raise InvalidParameter(
            "mask is in the query, but a mask is a file: send it as a form part, or in JSON"
        )
    return query


async def body_of(request: Request, limits: Limits) -> bytes:
    """Reads the body of `request`; its memory is held until `release(request)`.

    Raises:
        BodyTooLarge: the body exceeds `limits`.
        TooManyRequests: there is no memory for it now.
        UnsupportedFormat: the body is compressed.
        SlowRequest: the body is incomplete after READ_SECONDS.
    """
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
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedFormat(
            f"Content-Encoding {short(encoding)} is not supported: images are compressed already; "
            "send the body as it is"
        )
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


async def _form(request: Request, body: bytes) -> Payload:
    async def stream() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), large.PIECE_BYTES):
            if start:
                await asyncio.sleep(0)  # other callers have their turn
            yield body[start : start + large.PIECE_BYTES]

    try:
        # One file more than the limit passes here, so that `check_counts` words the error. The size
        # of a part needs no limit of its own: the body has one.
        parser = MultiPartParser(
            request.headers,
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
        return await _form_payload(form.multi_items())
    finally:
        await form.close()


async def _form_payload(parts: list[tuple[str, UploadFile | str]]) -> Payload:
    files: dict[str, list[EncodedImage]] = {"image": [], "mask": []}
    fields: list[tuple[str, str]] = []
    for name, value in parts:
        if name in files:
            files[name].append(await _part(name, value))
        elif isinstance(value, UploadFile):
            raise MalformedRequest(
                f"the form has a file named {short(name)}: name images 'image' and a mask 'mask'"
            )
        else:
            fields.append((name, _unquote(value)))
    images, masks = files["image"], files["mask"]
    if not images:
        raise MalformedRequest("the form has no part named 'image': send one or more")
    if len(masks) > 1:
        raise InvalidParameter(f"'mask' is given {len(masks)} times in the form: give it once")
    mask = _valid(masks[0]) if masks else None
    payload = Payload(tuple(images), len(images) > 1, _unique(fields, "the form"), mask)
    return check_counts(payload)


async def _part(name: str, value: UploadFile | str) -> EncodedImage:
    # A part without a file name arrives as text; surrogateescape gives its bytes back.
    if isinstance(value, UploadFile):
        body = await value.read()
    else:
        body = value.encode("utf-8", "surrogateescape")
    return body or MalformedRequest(f"a part named '{name}' is empty (0 bytes): send a file")


def _unquote(value: str) -> str:
    # BentoML's client sends the fields of a form as JSON: text comes in quotes.
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    try:
        return str(orjson.loads(value)) if quoted else value
    except orjson.JSONDecodeError:
        return value


def _valid(file: EncodedImage) -> bytes:
    if isinstance(file, MalformedRequest):
        raise file
    return file


def _json(body: bytes) -> Payload:
    large.check_values(body)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f'the body is not JSON ({error}): send {{"image": "<base64>"}}'
        ) from None
    if not isinstance(document, dict) or ("image" in document) == ("images" in document):
        raise MalformedRequest('send a JSON object with exactly one of "image" and "images"')
    is_list = "images" in document
    texts = document.pop("images") if is_list else [document.pop("image")]
    if not isinstance(texts, list) or not texts:
        raise MalformedRequest(
            '"images" is empty, or not a list: send a list of one or more base64 texts'
        )
    mask = _valid(from_base64("mask", document.pop("mask"))) if "mask" in document else None
    images = tuple(from_base64("image", text) for text in texts)
    return check_counts(Payload(images, is_list, document, mask))


def from_base64(name: str, text: object) -> EncodedImage:
    """Decodes a file in JSON, called `name` in messages; returns an error if it is unreadable."""
    if not isinstance(text, str):
        return MalformedRequest(
            f"the {name} is given as {type(text).__name__}: in JSON, send base64 text (RFC 4648)"
        )
    try:
        # Without validation b64decode skips all characters that are not base64.
        return base64.b64decode(text, validate=True) or MalformedRequest(
            f"the {name} is empty (0 bytes): send one"
        )
    except (binascii.Error, ValueError) as error:
        return MalformedRequest(
            f"the {name} of {len(text):,} characters is not base64 ({error}): "
            "encode it by RFC 4648, without line breaks"
        )


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


def _unique(pairs: list[tuple[str, str]], place: str) -> dict[str, str]:
    name, times = next(iter(Counter(name for name, _ in pairs).most_common(1)), ("", 0))
    if times > 1:
        raise InvalidParameter(f"{short(name)} is given {times} times in {place}: give it once")
    return dict(pairs)
