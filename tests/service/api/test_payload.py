"""Files that come as text: base64 in all its forms, or an error that names the remedy."""

import base64
from urllib.parse import quote

import pytest

from service.api.payload import from_base64
from service.errors import MalformedRequest

FILE = bytes(range(256)) * 3 + b"\xfb\xff"
PLAIN = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("="),
        base64.encodebytes(FILE).decode(),
        PLAIN[:76] + "\r\n" + PLAIN[76:],
        base64.urlsafe_b64encode(FILE).decode(),
        base64.urlsafe_b64encode(FILE).decode().rstrip("="),
        "data:image/jpeg;base64," + PLAIN,
        "DATA:image/png;name=a.png;base64," + PLAIN,
        "data:image/png;charset=utf-8; BASE64 ," + PLAIN,
        " data:;base64,\n" + PLAIN + "\n",
        "image/jpeg;base64," + PLAIN,
        "base64," + PLAIN,
        "data:image/png;base64," + quote(PLAIN, safe=""),
        "data:application/octet-stream," + quote(FILE),
        quote(PLAIN, safe=""),
        f'"{PLAIN}"',
        str(PLAIN.encode()),
        {"b64": PLAIN},
        {"data": PLAIN, "mime_type": "image/png"},
        {"url": "data:image/png;base64," + PLAIN},
    ],
)
def test_base64_is_read_in_every_form(text):
    assert from_base64("image", text) == FILE


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "is given as a number"),
        (None, "is given as null"),
        ([PLAIN], "is given as a list"),
        ({"picture": "x"}, "is given as an object with 'picture'"),
        ({}, "is given as an object with nothing"),
        ({"b64": 7}, "is given as an object with 'b64'"),
        ("", "is empty"),
        ("%%%", "is not base64"),
        ("é", "is not base64"),
        ("A", "is not base64"),
        (PLAIN[:5] + "=" + PLAIN[5:], "is not base64"),
        ("https://example.com/cat.jpg", "none is fetched: send the bytes"),
        ("//example.com/cat.jpg", "none is fetched: send the bytes"),
        ("C:\\photos\\cat.jpg", "which names a file elsewhere: send the bytes of the file"),
        ("cat.jpg", "which names a file elsewhere"),
    ],
)
def test_anything_else_is_an_error_in_words(given, words):
    found = from_base64("image", given)
    assert isinstance(found, MalformedRequest)
    assert words in str(found)
