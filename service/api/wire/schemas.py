"""Types as JSON Schemas (2020-12), by pydantic.

Answers may gain fields in any release, so no schema forbids further properties.
"""

from copy import deepcopy
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

Schema = dict[str, Any]
COMPONENTS = "#/components/schemas/"


class _Plain(GenerateJsonSchema):
    """Schemas without a title for each field: generators would name classes by it."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """Returns False for every field."""
        return False

    def typed_dict_schema(self, schema: Any) -> Schema:
        """The schema of a TypedDict; its docstring in one line describes it."""
        made = super().typed_dict_schema(schema)
        made.pop("title", None)
        return made | {"description": " ".join(made["description"].split())}


def schemas_of(*types: Any) -> dict[str, Schema]:
    """The schemas of `types` and of all types in them, by name; the caller may change them."""
    return deepcopy(_schemas_of(*types))


@cache
def _schemas_of(*types: Any) -> dict[str, Schema]:
    # Pydantic takes 0.1 s for those of our answers, which every version of a model has.
    inputs = [(kind, "validation", TypeAdapter(kind)) for kind in types]
    _, made = TypeAdapter.json_schemas(
        inputs,  # type: ignore[arg-type] # its mode is a Literal
        schema_generator=_Plain,
        ref_template=f"{COMPONENTS}{{model}}",
    )
    return dict(made["$defs"])


def ref(kind: type) -> Schema:
    """The component of a type."""
    return {"$ref": COMPONENTS + kind.__name__}
