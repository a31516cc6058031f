"""Checks resources of KServe, a list in JSON on standard input, against the models of its client.

The argument names the model. Prints the path of every field that the models do not have.
"""

import json
import re
import sys

import kserve
from kubernetes import client


def unknown(value, kind, place):
    """The paths in `value` that the model named `kind` does not have."""
    inner = re.fullmatch(r"[Ll]ist\[(.+)\]", kind)
    if isinstance(value, list):
        assert inner, kind
        return [
            found
            for number, one in enumerate(value)
            for found in unknown(one, inner[1], f"{place}[{number}]")
        ]
    model = getattr(kserve, kind, None) or getattr(client, kind, None)
    if not isinstance(value, dict) or model is None:
        return []
    fields = {
        name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()
    }
    return [
        found
        for name, one in value.items()
        for found in (
            unknown(one, fields[name], f"{place}.{name}") if name in fields else [f"{place}.{name}"]
        )
    ]


for resource in json.load(sys.stdin):
    for line in unknown(resource, sys.argv[1], sys.argv[1]):
        sys.stdout.write(line + "\n")
