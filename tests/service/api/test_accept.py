"""The Accept header is read with its weights."""

import pytest

from service.api.accept import preferred
from service.errors import NotAcceptable

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
