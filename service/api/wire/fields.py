"""Kinds of values that several types have, and what a field says of itself."""

from typing import Annotated, Any

from pydantic import Field


def about(text: str, *examples: Any, **limits: Any) -> Any:
    """The description of a field, with examples; `limits` as pydantic names them: ge, le, …."""
    return Field(description=text, examples=list(examples) or None, **limits)


Label = Annotated[str, about("The name of a class", "ship")]
Index = Annotated[int, about("The place of a class among the labels, from 0", 8, ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
Warnings = Annotated[
    list[str],
    about(
        "What of the request was ignored",
        ["the parameter 'utm_source' is not known here and was ignored"],
    ),
]
