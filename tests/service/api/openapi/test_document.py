"""The OpenAPI document tells the truth: every route, every answer, every refusal and every example is checked against the server."""

import base64
import re

import jsonschema
import pytest

from support.images import draw, encode
from support.requests import BAD, GOOD

VERBS = ("get", "post")
BENTOMLS = {"/livez", "/readyz", "/schema.json", "/docs.json"}


@pytest.fixture(scope="module")
def document(server):
    response = server.client.get("/openapi.json")
    assert response.status_code == 200, response.text
    return response.json()


def operations(document):
    """Path with its parameters filled in, verb, operation."""
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            places = {
                entry["name"]: entry["schema"]["enum"][0]
                for entry in operation.get("parameters", [])
                if entry["in"] == "path"
            }
            yield path.format(**places), verb, operation


def validate(value, schema, document):
    jsonschema.validate(
        value, schema | {"components": document["components"]}, jsonschema.Draft202012Validator
    )


def check(response, operation, document):
    """That `response` is one which `operation` tells of."""
    told = operation["responses"][str(response.status_code)]["content"]
    kind = response.headers["content-type"].partition(";")[0]
    if kind.endswith("json"):
        validate(response.json(), told[kind]["schema"], document)
    assert kind in told


def served(server):
    """The templates that requests are counted by, known from the start, and those of probes and scrapes, which are not counted."""
    from service.api.middleware import PROBES, UNKNOWN

    text = server.client.get("/metrics").text
    return {
        *re.findall(r'candor_request_duration_seconds_count\{route="([^"]+)"', text),
        *PROBES,
    } - {UNKNOWN}


def test_it_describes_every_route_and_no_other(document, server):
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) - BENTOMLS == served(server)
    for path, verb, _ in operations(document):
        assert verb in VERBS
        assert server.client.request(verb, path).status_code not in (404, 405), (verb, path)


def test_its_schemas_are_schemas(document):
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_what_is_got_is_what_it_tells(document, server):
    for path, verb, operation in operations(document):
        if verb == "get":
            check(server.client.get(path), operation, document)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?explain=integrated_gradients&map=both",
        "?explain=rise&target=0,1&map=array&quality=full",
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_answered_is_what_it_tells(query, count, document, server):
    images = [base64.b64encode(body).decode() for body in (GOOD, encode(draw()), b"noise")[:count]]
    given = {"image": images[0]} if count == 1 else {"images": images}
    check(
        server.client.post(f"/predict{query}", json=given),
        document["paths"]["/predict"]["post"],
        document,
    )


@pytest.mark.parametrize("accept", ["application/json", "image/png", "application/x-npy"])
def test_each_representation_is_one_that_it_tells(accept, document, server):
    response = server.client.post(
        "/explain", content=GOOD, headers={"accept": accept, "content-type": "image/png"}
    )
    assert response.headers["content-type"] == accept
    check(response, document["paths"]["/explain"]["post"], document)


@pytest.mark.parametrize(
    ("path", "body", "kind"), [case[1:4] for case in BAD], ids=[case[0] for case in BAD]
)
def test_each_refusal_is_one_that_it_tells(path, body, kind, document, server):
    response = server.client.post(
        path, content=body, headers={"content-type": kind} if kind else {}
    )
    assert response.status_code >= 400
    check(response, document["paths"][path.partition("?")[0]]["post"], document)


def test_its_examples_are_answered(document, server):
    asked = 0
    for path, verb, operation in operations(document):
        taken = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = [entry["value"] for entry in taken.get("examples", {}).values()] + (
            [taken["example"]] if "example" in taken else []
        )
        for example in examples:
            asked += 1
            response = server.client.request(verb, path, json=example)
            assert response.status_code == 200, (path, response.text)
            check(response, operation, document)
    assert asked == 8


def test_its_examples_of_answers_are_such_answers(document):
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            for media in response["content"].values():
                for example in media.get("examples", {}).values():
                    validate(example["value"], media["schema"], document)


def test_its_parameters_are_those_of_the_methods(document, server):
    told = {entry["name"]: entry for entry in document["paths"]["/explain"]["post"]["parameters"]}
    for method in server.client.get("/methods").json()["methods"]:
        for parameter in method["parameters"]:
            entry = told[parameter["name"]]
            schema = entry["schema"]
            assert schema.get("enum") == parameter.get("choices")
            if "choices" not in parameter:
                assert (
                    schema["minimum"]
                    <= parameter["minimum"]
                    <= parameter["maximum"]
                    <= schema["maximum"]
                )
            assert schema.get("default", parameter["default"]) == parameter["default"]
            assert "default" in schema or f"{method['name']}: " in entry["description"]
