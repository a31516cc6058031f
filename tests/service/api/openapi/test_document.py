"""The OpenAPI document agrees with the server: routes, answers, errors and examples."""

import base64
import re

import jsonschema
import pytest

from service.api.access.guard import DOCUMENTS, OPEN, PREDICT
from service.api.access.keys import SCOPES, make
from service.api.kserve.arrays import DTYPES
from service.api.kserve.tensors import BYTES
from service.api.parameters import of_explain
from service.api.wire.predictions import Answer
from service.api.wire.schemas import schemas_of
from support.images import draw, encode
from support.requests import BAD, GOOD
from support.servers import Server

VERBS = ("get", "post")
BENTOMLS = {"/livez", "/readyz", "/schema.json", "/docs.json"}
KEYS = {scope: make(scope, (scope,)) for scope in SCOPES}
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def document(server):
    response = server.client.get("/openapi.json")
    assert response.status_code == 200, response.text
    return response.json()


def bearer(scope):
    return {"authorization": f"Bearer {KEYS[scope][0]}"}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A server with a key of each scope."""
    folder = tmp_path_factory.mktemp("keyed")
    keys = folder / "keys"
    keys.write_text("\n".join(line for _, line in KEYS.values()))
    keys.chmod(0o600)
    with Server(folder, keys=keys, reference=folder, workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def keyed_document(keyed):
    return keyed.client.get("/openapi.json", headers=bearer("predict")).json()


def operations(document):
    """Path with its parameters filled in, verb, operation."""
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            places = {
                entry["name"]: entry["schema"].get("enum", entry["schema"]["examples"])[0]
                for entry in operation.get("parameters", [])
                if entry["in"] == "path"
            }
            yield path.format(**places), verb, operation


def validate(value, schema, document):
    jsonschema.validate(
        value, schema | {"components": document["components"]}, jsonschema.Draft202012Validator
    )


def check(response, operation, document):
    """Checks that `operation` documents `response`."""
    documented = operation["responses"][str(response.status_code)]["content"]
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in documented
    if kind.endswith("json"):
        validate(response.json(), documented[kind]["schema"], document)


def served(server):
    """The templates of the routes in the metrics, and those of probes, which have no metrics."""
    from service.api.middleware import PROBES, UNKNOWN

    text = server.client.get("/metrics").text
    return {
        *re.findall(r'candor_request_duration_seconds_count\{route="([^"]+)"', text),
        *PROBES,
    } - {UNKNOWN}


def test_the_document_has_every_route_and_no_other(document, server):
    assert document["openapi"].startswith("3.1")
    below = re.compile(r"^/models/\{name\}(/versions/\{version\})?(?=/)")
    paths = set(document["paths"]) - BENTOMLS
    references = {path for path in served(server) if path.endswith("/reference/{row:int}")}
    others = served(server) - paths - references  # this server shows none
    # The default model's own routes, below its name: `servers` of the document says so.
    assert others == {path for path in served(server) if below.sub("", path) in paths} - paths
    assert paths <= served(server)
    for path, verb, _ in operations(document):
        assert verb in VERBS
        assert server.client.request(verb, path).status_code not in (404, 405), (verb, path)


def test_the_schemas_are_valid(document):
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_what_a_document_changes_in_a_schema_is_not_in_the_next_one():
    schemas_of(Answer)["Answer"]["properties"].clear()
    assert schemas_of(Answer)["Answer"]["properties"]


def test_every_get_answer_is_documented(document, server):
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
def test_every_prediction_is_documented(query, count, document, server):
    images = [base64.b64encode(body).decode() for body in (GOOD, encode(draw()), b"noise")[:count]]
    given = {"image": images[0]} if count == 1 else {"images": images}
    check(
        server.client.post(f"/predict{query}", json=given),
        document["paths"]["/predict"]["post"],
        document,
    )


@pytest.mark.parametrize("accept", ["application/json", "image/png", "application/x-npy"])
def test_every_representation_is_documented(accept, document, server):
    response = server.client.post(
        "/explain", content=GOOD, headers={"accept": accept, "content-type": "image/png"}
    )
    assert response.headers["content-type"] == accept
    check(response, document["paths"]["/explain"]["post"], document)


@pytest.mark.parametrize(
    ("path", "body", "kind"), [case[1:4] for case in BAD], ids=[case[0] for case in BAD]
)
def test_every_error_is_documented(path, body, kind, document, server):
    response = server.client.post(
        path, content=body, headers={"content-type": kind} if kind else {}
    )
    assert response.status_code >= 400
    check(response, document["paths"][path.partition("?")[0]]["post"], document)


def test_the_examples_of_requests_are_answered(document, server):
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
    assert asked == 12


def test_the_examples_of_answers_fit_their_schemas(document):
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            for media in response["content"].values():
                for example in media.get("examples", {}).values():
                    validate(example["value"], media["schema"], document)


def test_the_parameters_are_those_of_the_methods(document, server):
    documented = {
        entry["name"]: entry for entry in document["paths"]["/explain"]["post"]["parameters"]
    }
    for method in server.client.get("/methods").json()["methods"]:
        for parameter in method["parameters"]:
            entry = documented[parameter["name"]]
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


def test_the_former_name_of_descriptions_is_deprecated(document):
    for name in ("MethodEntry", "MethodParameter"):
        fields = document["components"]["schemas"][name]["properties"]
        assert fields["says"]["deprecated"] is True
        assert "deprecated" not in fields["description"]


def fields(document):
    """Where it stands, its schema and its description, of every field and parameter."""
    for name, schema in document["components"]["schemas"].items():
        for field, of in schema["properties"].items():
            yield f"{name}.{field}", of, of.get("description")
    for path, verb, operation in operations(document):
        for entry in operation.get("parameters", []):
            where = f"{verb} {path} {entry['name']}"
            yield where, entry["schema"], entry.get("description")


def test_every_field_has_a_description_and_a_value_an_example(document):
    found = list(fields(document))
    assert len(found) > 200
    for where, schema, description in found:
        if "$ref" in schema:
            continue  # the type has the description
        assert description, where
        examples = schema.get("examples", [])
        is_value = "$ref" not in str(schema) and "binary" not in str(schema)
        assert examples or not is_value, where
        for example in examples:
            validate(example, schema, document)


def objects(value):
    """Every object in a document."""
    if isinstance(value, dict):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from objects(part)


def test_every_array_has_items_and_every_operation_a_name_of_its_own(document):
    arrays = [each for each in objects(document) if "array" in each.get("type", ())]
    assert len(arrays) > 10
    assert all("items" in each for each in arrays)
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)


def defaults(document, path):
    entries = document["paths"][path]["post"]["parameters"]
    return {
        entry["name"]: entry["schema"]["default"]
        for entry in entries
        if "default" in entry["schema"]
    }


def test_every_declared_default_is_answered_whatever_the_method(document, server, embedded):
    declared = defaults(document, "/explain")
    assert {"steps", "map", "deadline_ms", "method"} <= set(declared)
    for path in ("/predict", "/explain"):
        given = defaults(document, path)
        texts = {name: str(value).lower() for name, value in given.items()}
        asked = server.client.post(path, params=texts, content=GOOD, headers=PNG)
        assert asked.status_code == 200, asked.text
        asked = server.client.post(path, json={"image": base64.b64encode(GOOD).decode(), **given})
        assert asked.status_code == 200, asked.text
    for method in server.client.get("/model").json()["methods"]:
        question = of_explain(embedded.manifest, declared | {"method": method}).question
        assert question.method.name == method


def test_bentomls_document_agrees(document, server):
    bentomls = server.client.get("/docs.json").json()
    for path in ("/predict", "/explain"):
        content = bentomls["paths"][path]["post"]["requestBody"]["content"]
        fields = content["multipart/form-data"]["schema"]["properties"]
        parameters = {
            entry["name"]: entry["schema"]
            for entry in document["paths"][path]["post"]["parameters"]
        }
        assert set(fields) == {"image", "mask", *parameters}
        for name, schema in parameters.items():
            assert fields[name] == schema


def test_the_datatypes_are_those_that_tensors_are_read_as(document):
    datatype = document["components"]["schemas"]["InputTensor"]["properties"]["datatype"]
    assert set(datatype["enum"]) == {*DTYPES, BYTES}


def test_exactly_the_guarded_routes_document_a_key_with_its_scopes(keyed_document, needs):
    by_path = {path.replace(":int", ""): scopes for path, scopes in needs.items()}
    for path, item in keyed_document["paths"].items():
        for operation in item.values():
            if by_path[path] == OPEN:
                assert not {"security", "description"} & set(operation), path
                assert not {"401", "403"} & set(operation["responses"]), path
                continue
            named = {scope for scope in SCOPES if f"`{scope}`" in operation["description"]}
            also = {"explain"} if by_path[path] == PREDICT else set()
            assert named == {*by_path[path], *also}, path
            assert operation["security"] == [{"key": []}], path
            assert {"401", "403"} <= set(operation["responses"]), path
    assert {OPEN, DOCUMENTS, PREDICT} <= {by_path[path] for path in keyed_document["paths"]}
    scheme = keyed_document["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_an_answer_to_a_missing_or_another_key_is_documented(keyed_document, keyed):
    asked = 0
    for path, verb, operation in operations(keyed_document):
        body = GOOD if verb == "post" else None
        missing = keyed.client.request(verb, path, content=body, headers=PNG)
        assert (missing.status_code == 401) == ("security" in operation), path
        if "security" in operation:
            asked += 1
            check(missing, operation, keyed_document)
            key = bearer("predict" if path == "/metrics" else "metrics")
            other = keyed.client.request(verb, path, content=body, headers=PNG | key)
            assert other.status_code == 403, path
            check(other, operation, keyed_document)
    assert asked > 10


def test_a_server_without_keys_documents_none(document):
    assert "securitySchemes" not in document["components"]
    for _, _, operation in operations(document):
        assert "security" not in operation
        assert "401" not in operation["responses"]
