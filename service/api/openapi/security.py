"""Keys in the OpenAPI document: the scheme, what each operation needs, and its answers without it.

Only the document of a server with keys names them: each server describes itself. An alternative
`{}` for open servers would make generated clients treat the key as optional, and would leave their
users in doubt. Scopes stand in descriptions: OpenAPI 3.1 allows names of roles in the requirement
of a bearer scheme, but 3.0 wants an empty list there, and so may tools that were made for it.
"""

from collections.abc import Mapping
from typing import Any

from service.api.access.guard import OPEN, PREDICT, Needs
from service.api.openapi.problems import error, problem
from service.api.problems import PROTOCOLS
from service.errors import Forbidden, RequestError, Unauthorized

SCHEME = "key"
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key that the operator made: `Authorization: Bearer KEY`.",
}


def with_keys(document: Mapping[str, Any], needs: Mapping[str, Needs]) -> dict[str, Any]:
    """`document` of a server with keys; `needs`: the scopes of which each path needs one."""
    paths = {
        path: {
            verb: operation if needs[path] == OPEN else _guarded(path, operation, needs[path])
            for verb, operation in item.items()
        }
        for path, item in document["paths"].items()
    }
    components = {**document["components"], "securitySchemes": {SCHEME: BEARER}}
    return {**document, "paths": paths, "components": components}


def _guarded(path: str, operation: Mapping[str, Any], needs: Needs) -> dict[str, Any]:
    answers = {str(leaf.status): _answer(path, leaf) for leaf in (Unauthorized, Forbidden)}
    return {
        **operation,
        "description": _description(needs),
        "security": [{SCHEME: []}],
        "responses": {**operation["responses"], **answers},
    }


def _description(needs: Needs) -> str:
    text = f"Needs a key with the scope {' or '.join(f'`{scope}`' for scope in needs)}."
    if needs == PREDICT:
        text += " An explanation that the request asks for needs the scope `explain`, too."
    return text


def _answer(path: str, leaf: type[RequestError]) -> dict[str, Any]:
    return error(leaf.title) if f"{path}/".startswith(PROTOCOLS) else problem([leaf])
