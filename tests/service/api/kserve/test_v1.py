"""KServe's V1 protocol gives the answers of the native API in its own form."""

import base64

import pytest

from service.errors import SHOWN
from support.images import draw, encode

GOOD = encode(draw("red", size=40))
TEXT = base64.b64encode(GOOD).decode()


@pytest.fixture(scope="module")
def model(embedded):
    return f"/v1/models/{embedded.manifest.name}"


def answered(response):
    assert response.status_code == 200, response.text
    return response.json()


def plain(document):
    return {key: value for key, value in document.items() if key not in ("timing_ms", "model")}


def test_the_models_are_listed(server, model, embedded):
    name = embedded.manifest.name
    assert answered(server.client.get("/v1/models")) == {"models": [name]}
    found = answered(server.client.get(model))
    assert (found["name"], found["ready"]) == (name, True)


@pytest.mark.parametrize(
    "instance",
    [TEXT, {"b64": TEXT}, {"image_bytes": {"b64": TEXT}}],
    ids=["text", "b64", "image_bytes"],
)
def test_predictions_are_those_of_predict(instance, server, model):
    native = answered(server.client.post("/predict", json={"image": TEXT, "top_k": 2}))
    found = answered(
        server.client.post(f"{model}:predict", json={"instances": [instance] * 2, "top_k": 2})
    )
    assert [plain(document) for document in found["predictions"]] == [plain(native)] * 2


def test_explanations_are_those_of_explain(server, model):
    parameters = {"method": "integrated_gradients", "steps": 2, "target": 1}
    native = answered(server.client.post("/explain", json={"image": TEXT, **parameters}))
    found = answered(
        server.client.post(f"{model}:explain", json={"instances": [TEXT], **parameters})
    )
    assert set(found) == {"predictions", "explanations"}
    assert plain(found["predictions"][0]) | {"explanation": found["explanations"][0]} == plain(
        native
    )


def test_parameters_may_be_in_the_query(server, model):
    response = server.client.post(f"{model}:explain?method=saliency", json={"instances": [TEXT]})
    assert answered(response)["explanations"][0]["method"] == "saliency"


def test_an_unknown_field_is_ignored_with_a_warning(server, model):
    asked = {"instances": [TEXT], "signature_name": "serving_default"}
    found = answered(server.client.post(f"{model}:predict", json=asked))
    assert found["warnings"] == ["the parameter 'signature_name' is not known here and was ignored"]


BAD = [
    ("no JSON", ":predict", b"{", 400, "is not JSON"),
    ("nothing", ":predict", b"", 400, "is not JSON"),
    ("a list", ":predict", [], 400, "instances"),
    ("a number", ":predict", 5, 400, "instances"),
    ("no instances", ":predict", {}, 400, "instances"),
    ("none of them", ":predict", {"instances": []}, 400, "empty"),
    ("instances that are text", ":predict", {"instances": TEXT}, 400, "not a list"),
    (
        "a number for an image",
        ":predict",
        {"instances": [TEXT, 5]},
        400,
        "instance 1: the image is given as a number",
    ),
    (
        "another field",
        ":predict",
        {"instances": [{"picture": TEXT, "mask": TEXT}]},
        400,
        "instance 0: the image is given as an object with 'picture', 'mask'",
    ),
    ("a list for bytes", ":predict", {"instances": [{"image_bytes": [1]}]}, 422, "instance 0"),
    ("no base64", ":predict", {"instances": ["%%%"]}, 400, "not base64"),
    ("an empty image", ":predict", {"instances": [""]}, 400, "empty"),
    ("no image", ":predict", {"instances": [TEXT, "AAAA"]}, 415, "instance 1"),
    (
        "half an image",
        ":predict",
        {"instances": [base64.b64encode(GOOD[:60]).decode()]},
        422,
        "instance 0",
    ),
    ("too many", ":predict", {"instances": [TEXT] * 65}, 422, "the limit is 64"),
    ("unknown parameter", ":predict", {"instances": [TEXT], "topk": 1}, 422, "'topk'"),
    (
        "a parameter twice",
        ":predict?top_k=1",
        {"instances": [TEXT], "top_k": 2},
        422,
        "in the query and in the body",
    ),
    (
        "a long parameter",
        ":explain",
        {"instances": [TEXT], "method": "m" * 1000},
        422,
        "m" * (SHOWN - 1) + "…",
    ),
    (
        "unknown method",
        ":explain",
        {"instances": [TEXT], "method": "magic"},
        422,
        "the methods are",
    ),
    ("a large body", ":predict", b" " * (11 * 2**20), 413, "10,485,760"),
    ("another model", "x:predict", {"instances": [TEXT]}, 404, "the models are"),
    ("another verb", ":summarise", {"instances": [TEXT]}, 405, "use "),
    ("another path", "/nowhere", {"instances": [TEXT]}, 404, "not served"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_errors_have_the_form_of_the_protocol(path, body, status, words, server, model):
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = server.client.post(model + path, **given)
    assert (response.status_code, response.headers["content-type"]) == (
        status,
        "application/json",
    ), response.text
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]
