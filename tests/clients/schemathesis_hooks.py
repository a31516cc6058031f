"""What no schema says of a request: schemathesis's valid cases are made so before they are sent.

A schema has no words for "the bytes of an image", "of the method that is named beside it", "as many
values as the shape says". Such parts of a case are replaced; everything else is sent as generated.
"""

import base64
import json
import os
import urllib.request

import schemathesis

URL = os.environ["CANDOR_URL"]
DEADLINE_MS = 300  # of an explanation: 2,000 cases have to end


def document(path):
    return json.load(urllib.request.urlopen(URL + path))


API = document("/openapi.json")
METHODS = {
    method["name"]: {entry["name"]: entry for entry in method["parameters"]}
    for method in document("/methods")["methods"]
}
OF_METHODS = set().union(*METHODS.values())
OF_EXPLANATIONS = {"target", "map", "quality", "legend"}
IMAGE = API["components"]["schemas"]["PredictImage"]["properties"]["image"]["examples"][0]
BYTES, LENGTH = base64.b64decode(IMAGE), "inference-header-content-length"


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.method.upper() != "POST":
        return
    if case.meta.generation.mode.is_positive:
        make_valid(case)
    elif case.path in ("/predict", "/explain") and isinstance(case.query, dict):
        case.query = {"deadline_ms": DEADLINE_MS, **case.query}


@schemathesis.hook
def filter_failure(context, failure, case, response):
    # So short a deadline passes on a busy machine: a documented answer, and no failure of a server.
    late = response.status_code in (503, 504)
    return not (late and type(failure).__name__ == "ServerError")


def make_valid(case):
    """Replaces what no schema describes."""
    raw, path = case.media_type == "application/octet-stream", case.path
    # The length of the JSON is that of this body; 0 stands for an image alone.
    headers = {name: value for name, value in case.headers.items() if name.lower() != LENGTH}
    case.headers = headers | ({LENGTH: "0"} if raw and path.endswith("/infer") else {})
    if path in ("/predict", "/explain"):
        body, case.query = _native(path, case.media_type, {} if raw else case.body, case.query)
        case.body = BYTES if raw else body
    elif raw:
        case.body = BYTES
    elif path.endswith("/infer"):
        case.body = _inference(case.body)
    elif path.startswith("/v1"):
        name = "examples" if path.endswith(":classify") else "instances"
        case.body = {**case.body, name: [_instance(each) for each in case.body[name]]}


def _native(path, kind, body, query):
    """The body with images, and a query of what is not in it; each with what has a meaning."""
    name = "method" if path == "/explain" else "explain"
    query = {each: value for each, value in (query or {}).items() if each not in body}
    given = {**query, **body}
    method = given.get(name, "grad_cam" if path == "/explain" else None)
    known = METHODS.get(method, {})
    meaningless = (OF_METHODS - known.keys()) | (set() if method else OF_EXPLANATIONS) | {"mask"}
    if given.get("map") == "array":
        meaningless |= {"legend"}
    changed = {"target": "0", "classes": "0,1", "deadline_ms": DEADLINE_MS}

    def meant(part):
        return {
            each: changed.get(each, _within(value, known.get(each, {})))
            for each, value in part.items()
            if each not in meaningless
        }

    body = meant(body)
    if "image" in body:
        is_form = kind.startswith("multipart")
        body["image"] = [BYTES] * len(body["image"]) if is_form else IMAGE
    if "images" in body:
        body["images"] = [IMAGE] * len(body["images"])
    query = meant(query)
    if "deadline_ms" not in body:
        query["deadline_ms"] = DEADLINE_MS
    return body, query


def _within(value, parameter):
    """A number in the range that the method has, which may be narrower than that of all methods."""
    if "minimum" not in parameter or isinstance(value, str):
        return value
    return min(max(value, parameter["minimum"]), parameter["maximum"])


def _instance(instance):
    if isinstance(instance, str):
        return IMAGE
    return {"b64": IMAGE} if "b64" in instance else {"image_bytes": {"b64": IMAGE}}


def _inference(body):
    """One tensor whose data fit its shape, and each output once with its own parameters."""
    datatype = body["inputs"][0]["datatype"]
    tensor = {"name": body["inputs"][0]["name"], "shape": [1], "datatype": "BYTES", "data": [IMAGE]}
    if "INT" in datatype:
        tensor |= {"shape": [1, 2, 2, 3], "datatype": datatype, "data": list(range(12))}
    outputs = {each["name"]: each for each in body.get("outputs", [])}
    if "quality" in outputs:
        outputs.setdefault("attribution", {"name": "attribution"})
    made = {**body, "inputs": [tensor], "parameters": {"deadline_ms": DEADLINE_MS}}
    if outputs:
        made["outputs"] = [{"name": name} for name in outputs]
    return made
