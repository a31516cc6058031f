"""The Accept header is read with its weights; compressed bodies are unpacked within a limit."""

import asyncio
import gzip
import zlib

import pytest
from starlette.responses import Response

from service.api.negotiation import compressed, preferred, unpack
from service.errors import MalformedRequest, NotAcceptable

JSON, PNG = "application/json", "image/png"


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("*/*", JSON),
        ("", JSON),
        ("image/png", PNG),
        ("image/*", PNG),
        ("image/png;q=0, application/json", JSON),
        ("image/png;q=0, */*", JSON),
        ("application/json;q=0.5, image/png", PNG),
        ("application/json;q=0.5, image/png;q=0.4", JSON),
        ("image/png, application/json", PNG),
        ("text/html, application/*;q=0.2", JSON),
        ("*/*;q=0.1, image/png", PNG),
        ("*/*, image/png;q=0.1", JSON),
        ("image/png; q=nonsense, application/json;q=0.9", PNG),
        ("IMAGE/PNG", PNG),
    ],
)
def test_the_greatest_weight_decides_and_then_the_order(header, kind):
    assert preferred(header, (JSON, PNG)) == kind


@pytest.mark.parametrize(
    "header", ["text/html", "image/png;q=0, application/json;q=0.0", "*/*;q=0"]
)
def test_what_is_not_taken_is_an_error(header):
    with pytest.raises(NotAcceptable, match="this route offers application/json, image/png"):
        preferred(header, (JSON, PNG))


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_packed_body_is_unpacked_up_to_the_limit(encoding, pack):
    body = bytes(range(256)) * 40
    assert unpack(pack(body), encoding, len(body)) == body
    assert unpack(pack(body), encoding, len(body) - 1) is None
    assert unpack(pack(bytes(10**8)), encoding, 1_000) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        gzip.compress(b"x" * 999, mtime=0)[:-9],
        gzip.compress(b"x", mtime=0) + b"y",
        zlib.compress(b"x"),
    ],
)
def test_a_damaged_body_is_an_error_in_words(body):
    with pytest.raises(MalformedRequest, match=r"gzip.*send it whole"):
        unpack(body, "gzip", 1_000)


def test_a_large_answer_is_packed_for_those_who_take_it():
    body = b"map " * 2_000

    def answered(accepted, content=body):
        return asyncio.run(compressed(Response(content), accepted))

    packed = answered("gzip, deflate")
    assert gzip.decompress(packed.body) == body
    assert packed.headers["content-length"] == str(len(packed.body))
    assert packed.headers["content-encoding"] == "gzip"
    assert answered("").body == body
    assert "content-encoding" not in answered("gzip", b"small").headers
