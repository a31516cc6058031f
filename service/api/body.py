"""Reads the body of a request, a raw image, a multipart form or JSON, as a `Payload`.

Images stay encoded here: `service.image.decode` opens them. JSON holds files as base64 (RFC 4648).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.api import large, negotiation
from service.api.payload import (
    MAX_IMAGES,
    EncodedImage,
    Payload,
    check_counts,
    from_base64,
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

MAX_FIELDS = 100  # in a form or a query
READ_SECONDS = 30
MOST_UNPACKED = 1_032  # bytes, from one of a deflated body
LEASE = "body_lease"  # key of a request's state: the memory of its body
# A smaller body that has arrived at once is charged nothing: the queue has few places for those.
FREE_BYTES = 2**16
FORM, JSON, BYTES = "multipart/form-data", "application/json", "application/octet-stream"
SUPPORTED = ", ".join((*MEDIA_TYPES, BYTES, FORM, JSON))
# The bytes decide. These types say nothing of them: what S3 keeps without a type, what curl sends
# of itself, what fetch() sends of a text. An empty one stands for no header.
_UNSAID = (
    "",
    "*/*",
    BYTES,
    "binary/octet-stream",
    "text/plain",
    "application/x-www-form-urlencoded",
)
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
    if kind not in (FORM, *_UNSAID) and not kind.startswith("image/") and not _is_json(kind):
        raise UnsupportedFormat(
            f"Content-Type {short(kind)} is not supported; supported are {SUPPORTED}: "
            "name the type of the body, or leave it out"
        )
    body = await body_of(request, limits)
    if not body:
        raise MalformedRequest("the body is empty (0 bytes): send an image")
    if kind == FORM:
        return with_query(await _form(request, body), query)
    if _is_json(kind) or (kind in _UNSAID and body[:8].removeprefix(_BOM).lstrip()[:1] == b"{"):
        return with_query(await large.parse(body, lambda: _json(body)), query)
    return Payload((body,), is_list=False, parameters=query)


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
        UnsupportedFormat: the body is compressed in another way than by gzip or deflate.
        MalformedRequest: it cannot be unpacked.
        SlowRequest: the body is incomplete after READ_SECONDS.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
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
    images, masks = [], []
    fields: list[tuple[str, str]] = []
    name_of_images = _name_of_images(parts)
    for name, value in parts:
        if name == name_of_images:
            images.append(await _part(name, value))
        elif name == "mask":
            masks.append(await _part(name, value))
        elif isinstance(value, UploadFile):
            raise MalformedRequest(
                f"the form has a file named {short(name)} beside {short(name_of_images)}: "
                "name images 'image' and a mask 'mask'"
            )
        else:
            fields.append((name, _unquote(value)))
    if not images:
        raise MalformedRequest("the form has no part named 'image': send one or more")
    if len(masks) > 1:
        raise InvalidParameter(f"'mask' is given {len(masks)} times in the form: give it once")
    mask = _valid(masks[0]) if masks else None
    payload = Payload(tuple(images), len(images) > 1, _unique(fields, "the form"), mask)
    return check_counts(payload)


def _name_of_images(parts: list[tuple[str, UploadFile | str]]) -> str:
    """'image', or the one name that all files have where there is no such part."""
    names = {name for name, value in parts if isinstance(value, UploadFile)} - {"mask"}
    is_named = any(name == "image" for name, _ in parts)
    return "image" if is_named or len(names) != 1 else names.pop()


async def _part(name: str, value: UploadFile | str) -> EncodedImage:
    if isinstance(value, UploadFile):
        body = await value.read()
    elif value.startswith("data:"):
        return from_base64(name, value)
    else:
        # A part without a file name arrives as text; surrogateescape gives its bytes back.
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
        document = orjson.loads(body.removeprefix(_BOM))
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


def _unique(pairs: list[tuple[str, str]], place: str) -> dict[str, str]:
    name, times = next(iter(Counter(name for name, _ in pairs).most_common(1)), ("", 0))
    if times > 1:
        raise InvalidParameter(f"{short(name)} is given {times} times in {place}: give it once")
    return dict(pairs)
