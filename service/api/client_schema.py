"""GET /schema.json: what BentoML's client reads to learn what can be called, with what and how.

Of a property of type "file" the client takes a path, an open file or a picture of Pillow, or a list of them, and sends a form.
"""

from typing import Any

from service.api import openapi
from service.manifest import Manifest


def document(manifest: Manifest) -> dict[str, Any]:
    """The whole document, as JSON values."""
    return {
        "name": "candor",
        "type": "service",
        "routes": [
            _route("predict", "Predicts the class of a picture", openapi.of_predict(manifest)),
            _route("explain", "Predicts, and says which pixels speak for it", openapi.of_explain(manifest)),
        ],
    }


def _route(name: str, says: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    picture = {"type": "file", "format": "image"}
    properties = {"image": picture, "mask": picture, **{entry["name"]: entry["schema"] for entry in parameters}}
    return {
        "name": name,
        "route": f"/{name}",
        "doc": says,
        "input": {"type": "object", "title": "Input", "properties": properties, "required": ["image"]},
        "output": {"type": "object", "title": "Answer"},
    }
