"""Requests to the service, good and bad, and checks of its answers."""

import base64
from typing import Any

import httpx
from PIL import Image

from support.images import draw, encode, header_of, saved

GOOD = encode(draw("red", size=64, width=96))
JPEG = encode(draw(size=200), "JPEG")
PROBLEM = {"type", "title", "status", "detail", "code"}
# name, path, body, content type, status, code, words of the detail
BAD = [
    ("empty body", "/predict", b"", "image/png", 400, "malformed_request", "empty"),
    (
        "noise",
        "/predict",
        bytes(range(7, 27)),
        "image/jpeg",
        415,
        "unsupported_format",
        "JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF are supported",
    ),
    (
        "truncated",
        "/predict",
        JPEG[: len(JPEG) // 2],
        "image/jpeg",
        422,
        "undecodable_picture",
        "send it whole",
    ),
    (
        "an icon",
        "/predict",
        saved(Image.fromarray(draw()), "ICO"),
        "image/png",
        415,
        "unsupported_format",
        "an icon",
    ),
    (
        "an icon declared as one",
        "/predict",
        saved(Image.fromarray(draw()), "ICO"),
        "image/x-icon",
        415,
        "unsupported_format",
        "an icon",
    ),
    (
        "an SVG",
        "/predict",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "image/png",
        415,
        "unsupported_format",
        "an SVG",
    ),
    (
        "40,000 x 40,000",
        "/predict",
        header_of(40_000, 40_000),
        "image/png",
        413,
        "picture_too_large",
        "1,600 MP",
    ),
    (
        "11 MiB",
        "/predict",
        b"\xff\xd8" + b"\0" * (11 * 2**20),
        "image/jpeg",
        413,
        "body_too_large",
        "10,485,760",
    ),
    (
        "half a quote",
        "/predict?top_k=%22",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "whole number",
    ),
    (
        "wrong content type",
        "/predict",
        GOOD,
        "application/zip",
        415,
        "unsupported_format",
        "'application/zip'",
    ),
    ("no content type and no image", "/predict", b"hello", None, 415, "unsupported_format", "text"),
    (
        "bad base64",
        "/predict",
        b'{"image": "%%%"}',
        "application/json",
        400,
        "malformed_request",
        "base64",
    ),
    ("no JSON", "/predict", b"{", "application/json", 400, "malformed_request", "is not JSON"),
    (
        "JSON without an image",
        "/predict",
        b"{}",
        "application/json",
        400,
        "malformed_request",
        '"image"',
    ),
    (
        "JSON with both",
        "/predict",
        b'{"image": "", "images": []}',
        "application/json",
        400,
        "malformed_request",
        "exactly one",
    ),
    (
        "an empty list",
        "/predict",
        b'{"images": []}',
        "application/json",
        400,
        "malformed_request",
        "empty",
    ),
    ("a JSON array", "/predict", b"[]", "application/json", 400, "malformed_request", '"image"'),
    (
        "an image that is a number",
        "/predict",
        b'{"image": 5}',
        "application/json",
        400,
        "malformed_request",
        "a number",
    ),
    (
        "a form that is none",
        "/predict",
        GOOD,
        "multipart/form-data",
        400,
        "malformed_request",
        "form",
    ),
    (
        "a form with a bad boundary",
        "/predict",
        GOOD,
        "multipart/form-data; boundary=x",
        400,
        "malformed_request",
        "form",
    ),
    (
        "unknown method",
        "/explain?method=magic",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "the methods are saliency",
    ),
    (
        "unknown target",
        "/explain?target=unicorn",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "airplane",
    ),
    (
        "no steps",
        "/explain?method=integrated_gradients&steps=0",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "from 1 to 512",
    ),
    (
        "too many steps",
        "/explain?method=integrated_gradients&steps=1000000000",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "from 1 to 512",
    ),
    (
        "too many classes",
        "/predict?top_k=99",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "1 to 10",
    ),
    (
        "no number",
        "/predict?top_k=many",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "whole number",
    ),
    (
        "a misspelt parameter",
        "/predict?topk=3",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "unknown parameter 'topk': did you mean top_k?",
    ),
    (
        "a parameter twice",
        "/predict?top_k=1&top_k=2",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "2 times",
    ),
    (
        "a bad map",
        "/explain?map=huge",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "overlay, array, both",
    ),
    (
        "a bad legend",
        "/explain?legend=maybe",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "legend is 'maybe'; give true or false",
    ),
    (
        "a legend of nothing",
        "/explain?legend=true&map=array",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "below an overlay",
    ),
    (
        "explaining without a method",
        "/predict?steps=3",
        GOOD,
        "image/png",
        422,
        "invalid_parameter",
        "steps has no meaning here",
    ),
]


def answered(response: httpx.Response) -> Any:
    """The JSON of an answer; its status must be 200."""
    assert response.status_code == 200, response.text
    return response.json()


def problem(response: httpx.Response, status: int, code: str) -> str:
    """The detail of a problem; its status and code must be these."""
    assert (response.status_code, response.headers["content-type"]) == (
        status,
        "application/problem+json",
    ), response.text
    document = response.json()
    assert set(document) == PROBLEM
    assert (document["status"], document["code"]) == (status, code)
    return str(document["detail"])


def b64(body: bytes) -> str:
    """`body` in base64."""
    return base64.b64encode(body).decode()


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """An answer without its times."""
    return {key: value for key, value in document.items() if key != "timing_ms"}
