"""GET /schema.json: what BentoML's client reads to learn what can be called, with what and how.

Of a property of type "file" the client takes a path, an open file or an image of Pillow, or a list of them, and sends a form.
"""

from typing import Any

from service.api.openapi import document as openapi_document
from service.bundle.manifest import Manifest


def document(manifest: Manifest) -> dict[str, Any]:
    """The whole document, as JSON values."""
    return {
        "name": "candor",
        "type": "service",
        "routes": [
            _route(
                "predict", "Predicts the class of an image", openapi_document.of_predict(manifest)
            ),
            _route(
                "explain",
                "Predicts, and says which pixels speak for it",
                openapi_document.of_explain(manifest),
            ),
        ],
    }


def _route(name: str, says: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    image = {"type": "file", "format": "image"}
    properties = {
        "image": image,
        "mask": image,
        **{entry["name"]: entry["schema"] for entry in parameters},
    }
    return {
        "name": name,
        "route": f"/{name}",
        "doc": says,
        "input": {
            "type": "object",
            "title": "Input",
            "properties": properties,
            "required": ["image"],
        },
        "output": {"type": "object", "title": "Answer"},
    }
