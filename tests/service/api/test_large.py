"""The count of values in JSON, before it is parsed."""

import pytest

from service.api import large
from service.errors import InvalidParameter

SPACE = b" " * large.LARGE_BYTES  # only large bodies are counted


@pytest.mark.parametrize(
    ("json", "pixels", "name"),
    [
        (b"," * 10_001, False, "10,001 values or more; the limit is 10,000"),
        (b"[" * 10_001, False, "10,001 lists and objects or more; the limit is 10,000"),
        (b"{" * 10_001, True, "10,001 lists and objects or more; the limit is 10,000"),
        (b'"UINT8"' + b"," * 1_000_001, True, "1,000,001 values or more; the limit is 1,000,000"),
        (b'"UINT8"' + b"[" * 200_001, True, "200,001 lists and objects or more"),
        (b'"UINT8"' + b"," * 10_001, False, "the limit is 10,000"),
    ],
)
def test_too_many_values_are_rejected_with_the_limit(json, pixels, name):
    with pytest.raises(InvalidParameter, match=name):
        large.check_values(SPACE + json, numbers=large.NUMBERS_TYPE if pixels else None)


@pytest.mark.parametrize(
    ("json", "pixels"),
    [(b"," * 10_000, False), (b"[" * 10_000, False), (b'"UINT8"' + b"," * 1_000_000, True)],
)
def test_as_many_as_the_limit_pass(json, pixels):
    large.check_values(SPACE + json, numbers=large.NUMBERS_TYPE if pixels else None)


def test_a_small_body_is_not_counted():
    large.check_values(b"," * large.LARGE_BYTES)
