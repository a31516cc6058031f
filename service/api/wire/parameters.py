"""The parameters of requests, but those of methods, which `service.explain.methods` declares.

A class per group is both: what checks the values, and what the document is made of. What depends on
the model, as the number of classes, `service.api.parameters` checks, and the document adds.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from service.api.wire.fields import about
from service.api.wire.schemas import schemas_of
from service.errors import InvalidParameter, short
from service.explain.encoding import Encoding, Format
from service.explain.policy import KINDS
from service.explain.question import Quality
from service.predictions import MOST_CLASSES
from service.schedule.timing import DEADLINE_MS
from service.settings import CONDITION

MAX_DEADLINE_MS = 60_000
# As languages, HTML forms and people write them.
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
MAX_DIGITS = 19  # of a whole number in text; int() takes seconds for millions of them

MapForm = Literal["overlay", "array", "both"]


def _whole(value: Any) -> int:
    # In Python true is an int; in JavaScript 2.0 is one.
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if (
        isinstance(value, str)
        and value.strip().removeprefix("-").isdecimal()
        and len(value) <= MAX_DIGITS
    ):
        return int(value)
    raise ValueError("give a whole number")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else None
    if text not in (*TRUE, *FALSE):
        raise ValueError("give true or false")
    return text in TRUE


Whole = Annotated[int, BeforeValidator(_whole)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(str)]


class OfPredictions(TypedDict, total=False):
    """Parameters of every answer about images."""

    top_k: Annotated[Whole, about("How many classes to list.", 3)]
    classes: Annotated[
        Text,
        about(
            f"Up to {MOST_CLASSES} classes whose probabilities the answer holds as well, whatever "
            "their rank: labels or indices, with commas between them.",
            "0,1",
        ),
    ]
    coverage: Annotated[
        Text, about("The probability that the prediction set holds the true class.", "0.95")
    ]
    by_class: Annotated[
        Flag, about("Whether `coverage` shall hold within each class.", False, default=False)
    ]
    nearest: Annotated[
        Whole, about("How many of the nearest reference images to list.", 0, default=0)
    ]
    deadline_ms: Annotated[
        int,
        about(
            "The time for the answer; a request that cannot be answered in time is rejected at "
            "once.",
            2_000,
            ge=1,
            le=MAX_DEADLINE_MS,
            default=DEADLINE_MS,
        ),
        BeforeValidator(_whole),
    ]


class OfExplanations(TypedDict, total=False):
    """Parameters of every answer with an explanation."""

    target: Annotated[
        Text,
        about(
            "A label, an index, or two of them (cat,dog: why cat rather than dog); the default is "
            "the predicted class. A label of several classes is rejected: give an index.",
            "0",
        ),
    ]
    map: Annotated[MapForm, about("The form of the map.", "array", default="both")]
    overlay_format: Annotated[
        Format,
        about("The file of the overlay; png8 is a PNG of 256 colours.", "webp", default="png"),
    ]
    encoding: Annotated[
        Encoding,
        about(
            "The coding of the map's values: exact (base64, float32), smaller (npy16, png16), or "
            "the cells of a class activation map alone.",
            "png16",
            default="base64",
        ),
    ]
    quality: Annotated[
        Quality,
        about(
            "The measures of the map; full takes some 170 forward passes more.",
            "full",
            default="basic",
        ),
    ]
    legend: Annotated[
        Flag,
        about(
            "Whether to draw a legend below the overlay; the image stays at the upper left.",
            True,
            default=False,
        ),
    ]


_METHOD = "The method of the explanation; GET /methods describes each."


class Given(OfPredictions, OfExplanations, total=False):
    """Every parameter; `explain` and `method` are names of one thing, by the route."""

    explain: Annotated[Text, about(_METHOD, "grad_cam")]
    when: Annotated[
        str,
        about(
            f"Explain on a condition alone: none, {', '.join(KINDS)}, or several with commas "
            "between them.",
            "unsure",
            pattern=CONDITION.pattern,
        ),
        BeforeValidator(str),
    ]
    method: Annotated[Text, about(_METHOD, "rise")]


_GIVEN = TypeAdapter(Given)
SCHEMAS: Mapping[str, Any] = schemas_of(Given)["Given"]["properties"]


def check(given: Mapping[str, Any]) -> Given:
    """The parameters of `given` that are declared here, as what they are declared; values are text
    in a query or a form, and may be numbers and booleans in JSON.

    Raises:
        InvalidParameter: a value is no such thing, or out of its range.
    """
    try:
        return _GIVEN.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        remedy = _remedy(SCHEMAS[name], first.get("ctx", {}).get("error"))
        raise InvalidParameter(f"{name} is {short(first['input'])}; {remedy}") from None


def whole(name: str, value: Any) -> int:
    """`value` of the parameter `name` as a whole number.

    Raises:
        InvalidParameter: it is none.
    """
    try:
        return _whole(value)
    except ValueError as error:
        raise InvalidParameter(f"{name} is {short(value)}; {error}") from None


def _remedy(schema: Mapping[str, Any], error: ValueError | None) -> str:
    if error is not None:
        return str(error)
    if "enum" in schema:
        return f"it is one of {', '.join(schema['enum'])}"
    if "pattern" in schema:
        return str(schema["description"])
    return f"give {schema['minimum']:,} to {schema['maximum']:,}"
