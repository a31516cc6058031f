"""What a caller sends, in any of its three forms: a raw image, a form, or JSON."""

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

from service.errors import (
    BodyTooLarge,
    InvalidParameter,
    MalformedRequest,
    SlowRequest,
    UnsupportedFormat,
    short,
)
from service.image.decode import MEDIA_TYPES
from service.workers import protocol

MAX_IMAGES = 64
READ_SECONDS = 30
FORM, JSON = "multipart/form-data", "application/json"
TAKEN = ", ".join((*MEDIA_TYPES, FORM, JSON))
RAW = (*MEDIA_TYPES, "application/octet-stream")


class Submission(NamedTuple):
    """The images of one request as `bodies`, or the error in place of one; `many` says whether a list was asked for.

    `options` holds the parameters of the query and of the body as they came: text, or JSON values. `mask` is the file of the
    image's segments, if one was sent.
    """

    bodies: tuple[bytes | MalformedRequest, ...]
    many: bool
    options: Mapping[str, Any] = MappingProxyType({})
    mask: bytes | None = None


async def read(request: Request, max_body_bytes: int) -> Submission:
    """The submission of `request`.

    Raises:
        BodyTooLarge: more than `max_body_bytes`.
        UnsupportedFormat: none of the content types that are taken.
        MalformedRequest: the body is empty, or not what its content type says.
        InvalidParameter: a parameter is given twice, there are more than 64 images, or a mask that is not of one image.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = query_of(request)
    if kind not in (*RAW, FORM, JSON):
        told = f"the content type is {short(kind)}" if kind else "there is no Content-Type"
        raise UnsupportedFormat(f"{told}; {TAKEN} are taken: name the one that was sent")
    body = await body_of(request, max_body_bytes)
    if not body:
        raise MalformedRequest("the body is empty (0 bytes): send an image")
    if kind == FORM:
        return merged(await _form(request, body), query)
    if kind == JSON:
        return merged(_json(body), query)
    return Submission((body,), many=False, options=query)


def query_of(request: Request) -> Mapping[str, str]:
    """The parameters in the query.

    Raises:
        InvalidParameter: one is given twice, or is a file.
    """
    if not request.scope["query_string"]:
        return {}
    query = _once(request.query_params.multi_items(), "the query")
    if "mask" in query:
        raise InvalidParameter(
            "mask is in the query, and it is a file: send it as a part of a form, or in JSON"
        )
    return query


async def body_of(request: Request, most: int) -> bytes:
    """The body of `request`.

    Raises:
        BodyTooLarge: more than `most` bytes.
        UnsupportedFormat: it is compressed.
        SlowRequest: it is not all there after READ_SECONDS.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedFormat(
            f"the body is compressed ({short(encoding)}), and images are already: send it as it is"
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(int(announced), most)
    caller = protocol.of(request.scope)
    if caller is not None and caller.body_received:
        return await _collected(request, most)
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await _collected(request, most)
    except TimeoutError:
        raise SlowRequest(
            f"{READ_SECONDS} s have passed and the body is not all there: send it faster, or a smaller image"
        ) from None


async def _collected(request: Request, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(size, most)
        parts.append(part)
    return b"".join(parts)


def _too_large(size: int, most: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has {size:,} bytes or more; the limit is {most:,}: send a smaller image, or fewer at once"
    )


async def _form(request: Request, body: bytes) -> Submission:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(
            request.headers,
            stream(),
            max_files=MAX_IMAGES + 1,
            max_fields=100,
            max_part_size=len(body),
        )
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise MalformedRequest(
            f"the form cannot be read ({error}): send multipart/form-data with parts named 'image'"
        ) from None
    images: list[bytes | MalformedRequest] = []
    masks: list[bytes | MalformedRequest] = []
    fields: list[tuple[str, str]] = []
    try:
        for name, value in form.multi_items():
            if name in ("image", "mask"):
                (images if name == "image" else masks).append(await _part(name, value))
            elif isinstance(value, UploadFile):
                raise MalformedRequest(
                    f"the form has a file named {short(name)}; name images 'image' and the mask of one 'mask'"
                )
            else:
                fields.append((name, _unquoted(value)))
    finally:
        await form.close()
    if not images:
        raise MalformedRequest("the form has no part named 'image': send one or more")
    if len(masks) > 1:
        raise InvalidParameter(f"'mask' is given {len(masks)} times in the form: give it once")
    mask = _mask(masks[0]) if masks else None
    return checked(Submission(tuple(images), len(images) > 1, _once(fields, "the form"), mask))


async def _part(name: str, value: UploadFile | str) -> bytes | MalformedRequest:
    body = (
        await value.read()
        if isinstance(value, UploadFile)
        else value.encode("utf-8", "surrogateescape")
    )
    return body or MalformedRequest(f"a part named '{name}' is empty (0 bytes): send a file")


def _unquoted(value: str) -> str:
    """A field's text; BentoML's client sends it as JSON, in quotes."""
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    try:
        return str(orjson.loads(value)) if quoted else value
    except orjson.JSONDecodeError:
        return value


def _mask(given: bytes | MalformedRequest) -> bytes:
    if isinstance(given, MalformedRequest):
        raise given
    return given


def _json(body: bytes) -> Submission:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f'the body is no JSON ({error}): send {{"image": "<base64>"}}'
        ) from None
    if not isinstance(document, dict) or ("image" in document) == ("images" in document):
        raise MalformedRequest(
            'the JSON holds neither or both of "image" and "images": send one of them'
        )
    many = "images" in document
    given = document.pop("images") if many else [document.pop("image")]
    if not isinstance(given, list) or not given:
        raise MalformedRequest(
            '"images" is no list of base64 texts, or an empty one: send one or more'
        )
    mask = _mask(from_base64("mask", document.pop("mask"))) if "mask" in document else None
    return checked(
        Submission(tuple(from_base64("image", text) for text in given), many, document, mask)
    )


def from_base64(what: str, text: object) -> bytes | MalformedRequest:
    """The file that a text in JSON holds: a `what`, or the error in place of one."""
    if not isinstance(text, str):
        return MalformedRequest(
            f"the {what} is given as {type(text).__name__}; in JSON it is base64 text (RFC 4648)"
        )
    try:
        return base64.b64decode(text, validate=True) or MalformedRequest(
            f"the {what} is empty (0 bytes): send one"
        )
    except (binascii.Error, ValueError) as error:
        return MalformedRequest(
            f"the {what} of {len(text):,} characters is no base64 ({error}): encode it as RFC 4648 says, without line breaks"
        )


def checked(submission: Submission) -> Submission:
    """`submission`, if it holds no more than what goes at once.

    Raises:
        InvalidParameter: more than 64 images, or a mask of several.
    """
    count = len(submission.bodies)
    if count > MAX_IMAGES:
        raise InvalidParameter(
            f"{count} images or more were sent at once; the limit is {MAX_IMAGES}: send several requests"
        )
    if submission.mask is not None and count > 1:
        raise InvalidParameter(
            f"a mask was sent with {count} images, and it is of one: send a request for each"
        )
    return submission


def merged(submission: Submission, query: Mapping[str, Any]) -> Submission:
    """`submission` with the parameters of the query, too.

    Raises:
        InvalidParameter: one is given in both.
    """
    twice = set(query) & set(submission.options)
    if twice:
        raise InvalidParameter(
            f"{', '.join(sorted(twice))} is given in the query and in the body: give it once"
        )
    return submission._replace(options={**submission.options, **query})


def _once(pairs: list[tuple[str, str]], place: str) -> dict[str, str]:
    name, times = next(iter(Counter(name for name, _ in pairs).most_common(1)), ("", 0))
    if times > 1:
        raise InvalidParameter(f"{short(name)} is given {times} times in {place}: give it once")
    return dict(pairs)
