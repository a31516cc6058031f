"""Names of operations and their groups: generated clients call methods and modules by them."""

import re
from collections.abc import Mapping
from typing import Any

CANDOR, V2, V1, OPERATION = "candor", "open-inference-protocol", "kserve-v1", "operation"
# Name of a tag: the beginning of its paths, and its description.
TAGS = {
    V2: ("/v2", "The Open Inference Protocol (KServe's V2), with Triton's extensions"),
    V1: ("/v1", "KServe's V1 protocol"),
    OPERATION: ("/(livez|readyz|metrics)", "Probes and metrics"),
    CANDOR: ("/", "Predictions, explanations, and documents about the model"),
}


def named(paths: Mapping[str, Any]) -> dict[str, Any]:
    """`paths` with an `operationId` and the tag of each operation."""
    return {
        path: {
            verb: {"operationId": operation_id(verb, path), "tags": [_tag(path)], **operation}
            for verb, operation in item.items()
        }
        for path, item in paths.items()
    }


def operation_id(verb: str, path: str) -> str:
    """`predict` of POST /predict, `get_model_card` of GET /model/card, `v2_infer` of an inference.

    A version in the path is at the end of a name: `v2_infer_version`.
    """
    versioned = "{version}" in path
    words = re.sub(
        r"\{\w+\}|versions?/|\.json", "", path.replace("/models/{name}", "/{name}") + "/"
    )
    parts = [part for part in re.split(r"[/:_]+", words) if part]
    if not re.match("/v[12]", path):
        parts = parts if verb == "post" else ["get", *parts]
    elif len(parts) == 1:
        parts.append("model" if "{name}" in path else "server")
    return "_".join([*parts, "version"] if versioned else parts)


def _tag(path: str) -> str:
    return next(name for name, (begin, _) in TAGS.items() if re.match(begin, path))
