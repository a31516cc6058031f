"""The Open Inference Protocol gives the answers of the native API, in JSON and in binary."""

import base64
import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.kserve import outputs as model_outputs
from service.api.kserve import tensors
from service.errors import RequestError
from service.image.resize import Input
from support.images import draw, encode, header_of

GOOD, OTHER = encode(draw("red", size=40)), encode(draw("blue", size=24), "JPEG")
HEADER = "Inference-Header-Content-Length"
PLAIN = ["logits", "probabilities", "label"]
USUAL = [*PLAIN, "prediction_set", "familiarity"]
KINDS = {"FP32": "<f4", "BOOL": "?"}


def b64(body):
    return base64.b64encode(body).decode()


def prefixed(*bodies):
    return b"".join(struct.pack("<I", len(body)) + body for body in bodies)


def texts(*bodies, **more):
    """A BYTES tensor in JSON."""
    return {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(bodies)],
        "data": [b64(body) for body in bodies],
    } | more


def pixels(array, **more):
    """A UINT8 tensor in JSON."""
    return {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    } | more


def binary(tensor, data, length=None, size=None, **more):
    """The body and the headers of a request with one binary tensor."""
    size = len(data) if size is None else size
    entry = {name: value for name, value in tensor.items() if name != "data"} | {
        "parameters": {"binary_data_size": size}
    }
    document = json.dumps({"inputs": [entry], **more}).encode()
    return {
        "content": document + data,
        "headers": {HEADER: str(len(document) if length is None else length)},
    }


def asking(tensor, **more):
    return {"json": {"inputs": [tensor], **more}}


@pytest.fixture(scope="module")
def model(embedded):
    return f"/v2/models/{embedded.manifest.name}"


@pytest.fixture
def infer(server, model):
    return lambda request: server.client.post(f"{model}/infer", **request)


def parsed(response):
    """The document of an answer, and its tensors as arrays and lists of texts."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(HEADER, len(response.content)))
    document, rest, found = json.loads(response.content[:length]), response.content[length:], {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        data, rest = (output.get("data"), rest) if size is None else (rest[:size], rest[size:])
        if output["datatype"] in KINDS:
            kind = KINDS[output["datatype"]]
            values = np.array(data, kind) if size is None else np.frombuffer(data, kind)
            found[output["name"]] = values.reshape(output["shape"])
        else:
            found[output["name"]] = data if size is None else elements(data)
            assert output["shape"] == [len(found[output["name"]])]
    assert not rest
    return document, found


def elements(data):
    found = []
    while data:
        (size,) = struct.unpack("<I", data[:4])
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return found


def native(server, body, path="/predict"):
    response = server.client.post(
        path, content=body, headers={"content-type": "application/octet-stream"}
    )
    assert response.status_code == 200, response.text
    return response.json()


def test_the_server_has_metadata(server):
    found = server.client.get("/v2").json()
    assert (found["name"], found["extensions"]) == (
        "candor",
        [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository",
            "parameters",
            "statistics",
        ],
    )
    assert server.client.get("/v2/health/live").json() == {"live": True}
    assert server.client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("versioned", [False, True])
def test_the_model_lists_its_tensors(versioned, server, model, embedded):
    manifest = embedded.manifest
    place = f"{model}/versions/{manifest.version}" if versioned else model
    found = server.client.get(place).json()
    assert (found["name"], found["versions"], found["platform"]) == (
        manifest.name,
        [manifest.version],
        "onnx_onnxv1",
    )
    assert found["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [entry["name"] for entry in found["outputs"]] == [
        *USUAL,
        "attribution",
        "quality",
    ]
    assert server.client.get(f"{place}/ready").json() == {"name": manifest.name, "ready": True}


def test_a_request_without_outputs_gets_all_that_cost_nothing(infer, embedded):
    document, found = parsed(infer(asking(texts(GOOD, OTHER))))
    assert list(found) == USUAL
    assert (document["model_name"], document["model_version"]) == (
        embedded.manifest.name,
        embedded.manifest.version,
    )
    assert "id" not in document
    assert (
        found["logits"].shape == found["probabilities"].shape == (2, len(embedded.manifest.labels))
    )
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-5)


def test_json_and_binary_tensors_give_the_native_prediction(infer, server):
    expected = [native(server, body) for body in (GOOD, OTHER)]
    column = texts(GOOD, OTHER, shape=[2, 1], data=[[b64(GOOD)], [b64(OTHER)]])
    for request in (
        asking(texts(GOOD, OTHER)),
        asking(column),
        binary(texts(GOOD, OTHER), prefixed(GOOD, OTHER)),
        binary(texts(GOOD, OTHER), prefixed(GOOD, OTHER), parameters={"binary_data_output": True}),
        binary(
            texts(GOOD, OTHER),
            prefixed(GOOD, OTHER),
            outputs=[{"name": n, "parameters": {"binary_data": True}} for n in PLAIN],
        ),
    ):
        _, found = parsed(infer(request))
        assert found["label"] == [answer["label"] for answer in expected]
        assert found["probabilities"].max(1) == pytest.approx(
            [answer["probability"] for answer in expected], abs=1e-3
        )


def test_outputs_come_in_the_requested_order_and_form(infer):
    wanted = [{"name": "label"}, {"name": "logits", "parameters": {"binary_data": True}}]
    document, found = parsed(
        infer(asking(texts(GOOD), outputs=wanted, parameters={"binary_data_output": True}))
    )
    assert list(found) == ["label", "logits"]
    assert ["data" in output for output in document["outputs"]] == [False, False]
    wanted[0]["parameters"] = {"binary_data": False}
    document, found = parsed(infer(asking(texts(GOOD), outputs=wanted)))
    assert ["data" in output for output in document["outputs"]] == [True, False]


def test_the_id_comes_back(infer):
    assert parsed(infer(asking(texts(GOOD), id="ä-7")))[0]["id"] == "ä-7"


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 41), (1, 3)])
def test_pixels_are_resized_like_an_image(height, width, infer, server):
    array = np.stack([draw("red", height, 1, width), draw("green", height, 2, width)])
    expected = [native(server, encode(row)) for row in array]
    nested = pixels(array, data=array.tolist())
    for request in (asking(pixels(array)), asking(nested), binary(pixels(array), array.tobytes())):
        _, found = parsed(infer(request))
        assert found["label"] == [answer["label"] for answer in expected]
        assert found["probabilities"].max(1) == pytest.approx(
            [answer["probability"] for answer in expected], abs=1e-3
        )


@pytest.mark.parametrize("place", ["output", "request"])
@pytest.mark.parametrize("as_binary", [True, False])
def test_an_attribution_is_the_native_map(place, as_binary, infer, server):
    asked = {"method": "integrated_gradients", "steps": 4, "target": 1, "baseline": "black"}
    output = {
        "name": "attribution",
        "parameters": {"binary_data": as_binary} | (asked if place == "output" else {}),
    }
    more = {"parameters": asked} if place == "request" else {}
    document, found = parsed(
        infer(binary(texts(GOOD, OTHER), prefixed(GOOD, OTHER), outputs=[output], **more))
    )
    query = "method=integrated_gradients&steps=4&target=1&baseline=black&map=array"
    for body, values in zip((GOOD, OTHER), found["attribution"], strict=True):
        expected = native(server, body, f"/explain?{query}")["explanation"]["map"]
        expected = np.frombuffer(base64.b64decode(expected["data"]), "<f4").reshape(
            expected["shape"]
        )
        np.testing.assert_allclose(values, expected, atol=1e-3 * np.abs(expected).max())
    parameters = document["outputs"][0]["parameters"]
    assert {name: parameters[name] for name in ("method", "steps", "baseline", "sign")} == {
        "method": "integrated_gradients",
        "steps": 4,
        "baseline": "black",
        "sign": "signed",
    }


@pytest.mark.parametrize("place", ["output", "request"])
@pytest.mark.parametrize("as_binary", [True, False])
def test_sets_and_familiarity_are_those_of_the_native_api(
    place, as_binary, infer, server, embedded
):
    asked = {"coverage": "0.99", "by_class": True}
    outputs = [
        {"name": name, "parameters": {"binary_data": as_binary}}
        for name in ("familiarity", "prediction_set")
    ]
    more = {"parameters": asked} if place == "request" else {}
    if place == "output":
        outputs[1]["parameters"] |= asked
    document, found = parsed(infer(asking(texts(GOOD, OTHER), outputs=outputs, **more)))
    labels = np.array(embedded.manifest.labels)
    for row, body in enumerate((GOOD, OTHER)):
        expected = native(server, body, "/predict?coverage=0.99&by_class=true")
        assert set(labels[found["prediction_set"][row]]) == set(
            expected["prediction_set"]["labels"]
        )
        assert found["familiarity"][row] == pytest.approx(
            expected["familiarity"]["score"], abs=1e-3
        )
    parameters = {output["name"]: output["parameters"] for output in document["outputs"]}
    assert parameters["familiarity"]["threshold"] == embedded.manifest.familiarity.threshold
    sets = parameters["prediction_set"]
    assert (sets["coverage"], sets["by_class"]) == (0.99, True)


def test_a_set_without_parameters_is_the_one_of_predict(infer, server, embedded):
    _, found = parsed(infer(asking(texts(GOOD), outputs=[{"name": "prediction_set"}])))
    labels = native(server, GOOD)["prediction_set"]["labels"]
    assert {
        embedded.manifest.labels[index] for index in np.flatnonzero(found["prediction_set"][0])
    } == set(labels)


def test_the_quality_of_an_attribution_is_an_output(infer, server):
    outputs = [
        {"name": "quality"},
        {"name": "attribution", "parameters": {"method": "integrated_gradients", "steps": 4}},
    ]
    document, found = parsed(infer(asking(texts(GOOD, OTHER), outputs=outputs)))
    measures = document["outputs"][0]["parameters"]["measures"].split(",")
    for values, body in zip(found["quality"], (GOOD, OTHER), strict=True):
        expected = native(server, body, "/explain?method=integrated_gradients&steps=4&map=array")[
            "explanation"
        ]["quality"]
        assert dict(zip(measures, values.tolist(), strict=True)) == pytest.approx(
            expected, rel=1e-2, abs=1e-3
        )


def test_the_unit_of_deletion_and_insertion_stands_beside_their_quality(infer):
    asked = {"method": "grad_cam", "quality": "full", "target": "truck,ship"}
    outputs = [{"name": "quality"}, {"name": "attribution", "parameters": asked}]
    document, _ = parsed(infer(asking(texts(GOOD), outputs=outputs)))
    parameters = document["outputs"][0]["parameters"]
    assert parameters["areas_unit"] == "row 0: difference of logits"
    assert "deletion_blob" in parameters["measures"].split(",")


def test_optional_outputs_follow_the_bundle(embedded):
    plain = replace(embedded.manifest, prediction_sets=None, familiarity=None)
    assert model_outputs.names(plain) == (*PLAIN, "attribution", "quality")


def test_an_attribution_alone_needs_no_parameters(infer, embedded):
    _, found = parsed(infer(asking(pixels(draw()[None]), outputs=[{"name": "attribution"}])))
    assert found["attribution"].shape == (
        1,
        embedded.manifest.input.size,
        embedded.manifest.input.size,
    )


def test_degraded_rows_are_named(embedded):
    from service.api.kserve.outputs import map_parameters
    from service.explain import Attribution, ask
    from service.explain.maps.target import Target

    asked = ask(embedded.manifest, "integrated_gradients", None, {"steps": 32})
    cheaper = ask(embedded.manifest, "integrated_gradients", None, {"steps": 8})
    values = np.zeros((32, 32), np.float32)
    maps = [
        Attribution(asked, Target(0), values, {}),
        Attribution(cheaper, Target(0), values, {}, degraded_from=asked),
    ]
    assert "degraded" not in map_parameters(maps[:1])
    assert map_parameters(maps)["steps"] == map_parameters(maps[::-1])["steps"] == 32
    assert map_parameters(maps)["degraded"].startswith("row 1: integrated_gradients steps=8")


def test_rows_whose_map_is_mostly_error_are_named(embedded):
    from service.api.kserve.outputs import map_parameters
    from service.explain import Attribution, ask
    from service.explain.maps.target import Target

    asked = ask(embedded.manifest, "integrated_gradients", None, {})
    values = np.ones((32, 32), np.float32)
    maps = [Attribution(asked, Target(0), values, {"completeness_gap": gap}) for gap in (0.1, 0.9)]
    assert "warnings" not in map_parameters(maps[:1])
    assert map_parameters(maps)["warnings"].startswith("row 1: the map misses")


@pytest.mark.parametrize("place", ["output", "request"])
def test_an_explanation_that_misses_the_deadline_is_refused(place, infer):
    slow = {"method": "kernel_shap", "samples": 4096, "deadline_ms": 1}
    output = {"name": "attribution"} | ({"parameters": slow} if place == "output" else {})
    response = infer(
        asking(
            texts(*[GOOD] * 8),
            outputs=[output],
            **({"parameters": slow} if place == "request" else {}),
        )
    )
    assert response.status_code in (503, 504)
    assert list(response.json()) == ["error"]


def test_rows_run_together(infer, server):
    def batches():
        text = server.client.get("/metrics").text
        found = {
            name: float(value)
            for name, value in re.findall(
                r'candor_batch_size_(count|sum)\{lane="predict"\} (\S+)', text
            )
        }
        return found["sum"], found["count"]

    rows, runs = batches()
    parsed(infer(asking(pixels(np.stack([draw(seed=n) for n in range(64)])))))
    after_rows, after_runs = batches()
    assert after_rows - rows == 64
    assert after_runs - runs < 32


def test_the_version_may_be_named(server, model, embedded):
    response = server.client.post(
        f"{model}/versions/{embedded.manifest.version}/infer", **asking(texts(GOOD))
    )
    assert parsed(response)[1]["label"]


DISC = draw()[None]
SMALL = DISC[:, :2, :2]
WORDS = {"name": "image", "datatype": "BYTES", "shape": [1]}


def output(name, parameters=None):
    """The request for an output."""
    return {"name": name, "parameters": parameters or {}}


ASKED = output("attribution", {"method": "saliency"})
BAD = [
    ("nothing", {"content": b""}, 400, "is not JSON"),
    ("no JSON", {"content": b"{"}, 400, "is not JSON"),
    ("an image", {"content": GOOD}, 400, "is not JSON"),
    ("a list", {"json": []}, 400, "a JSON list"),
    ("a deep list", {"content": b"[" * 5000 + b"]" * 5000}, 400, "is not JSON"),
    ("no inputs", {"json": {}}, 400, '"inputs"'),
    ("inputs that are an object", {"json": {"inputs": {}}}, 400, '"inputs"'),
    ("no input", {"json": {"inputs": []}}, 400, '"inputs"'),
    (
        "two inputs",
        {"json": {"inputs": [texts(GOOD)] * 2}},
        400,
        "2 inputs were sent, and one is taken",
    ),
    ("an input that is text", {"json": {"inputs": ["image"]}}, 400, '"inputs"'),
    ("an id that is a number", asking(texts(GOOD), id=7), 400, '"id" is 7'),
    (
        "parameters that are a list",
        asking(texts(GOOD), parameters=[1]),
        400,
        '"parameters" of the request',
    ),
    ("no name", asking(texts(GOOD, name=None)), 400, "name"),
    ("no shape", asking(texts(GOOD, shape=None)), 400, "shape"),
    ("an empty shape", asking(texts(GOOD, shape=[])), 400, "shape"),
    ("a shape that is no number", asking(texts(GOOD, shape=["1"])), 400, "shape"),
    ("a shape that is true", asking(texts(GOOD, shape=[True])), 400, "shape"),
    ("a negative shape", asking(pixels(DISC, shape=[-1, 32, 32, 3])), 400, "shape"),
    ("no rows", asking(texts()), 422, "0 rows"),
    ("65 rows", asking(texts(*[GOOD] * 65)), 422, "the limit is 64"),
    (
        "a huge shape",
        asking(pixels(DISC, shape=[64, 2**62, 2**62, 3])),
        413,
        "the limit is 50 MP",
    ),
    ("no datatype", asking(pixels(DISC, datatype=None)), 422, "UINT8 (N, H, W, 3)"),
    ("truths", asking(pixels(DISC, datatype="BOOL")), 422, "'BOOL'"),
    ("a matrix of images", asking(texts(GOOD, GOOD, shape=[1, 2])), 422, "BYTES (N,)"),
    ("pixels without rows", asking(pixels(DISC[0])), 422, "has no axis of images"),
    (
        "pixels with alpha",
        asking(pixels(np.zeros((1, 2, 2, 4), np.uint8))),
        422,
        "give (N, H, W, 3), (N, 3, H, W)",
    ),
    ("no pixels", asking(pixels(DISC, shape=[1, 0, 32, 3], data=[])), 422, "give (N, H, W, 3)"),
    ("too few pixels", asking(pixels(DISC, data=[1, 2, 3])), 400, "3 values"),
    ("a pixel of 256", asking(pixels(SMALL, data=[256] * 12)), 400, "0 to 255"),
    ("a pixel below 0", asking(pixels(SMALL, data=[-1] * 12)), 400, "0 to 255"),
    ("half a pixel", asking(pixels(SMALL, data=[0.5] * 12)), 400, "0 to 255"),
    ("a pixel of text", asking(pixels(SMALL, data=["1"] * 12)), 400, "0 to 255"),
    ("uneven nests", asking(pixels(SMALL, data=[[1, 2], 3])), 400, "nested unevenly"),
    ("data that is a number", asking(pixels(SMALL, data=12)), 400, "no data"),
    ("no data", asking(WORDS), 400, "no data"),
    ("too many images", asking(texts(GOOD, data=[b64(GOOD)] * 2)), 400, "2 elements"),
    (
        "an image that is a number",
        asking(texts(GOOD, data=[5])),
        400,
        "row 0: the image is given as a number",
    ),
    ("an image that is an object", asking(texts(GOOD, data=[{}])), 400, "row 0"),
    (
        "no base64",
        asking(texts(GOOD, GOOD, data=[b64(GOOD), "%%"])),
        400,
        "row 1: the image of 2 characters is not base64",
    ),
    ("an empty image", asking(texts(GOOD, b"")), 400, "row 1"),
    ("no image", asking(texts(GOOD, b"noise", GOOD)), 415, "row 1: the 5 bytes look like text"),
    ("half an image", asking(texts(GOOD, OTHER[:200])), 422, "row 1"),
    ("a huge image", asking(texts(header_of(40_000, 40_000))), 413, "row 0"),
    (
        "an input in shared memory",
        asking(texts(GOOD, parameters={"shared_memory_region": "x"})),
        422,
        "shared_memory_region",
    ),
    (
        "a misspelt parameter of an input",
        asking(texts(GOOD, parameters={"contenttype": "str"})),
        422,
        "did you mean content_type",
    ),
    (
        "binary data without its header",
        {"json": {"inputs": [WORDS | {"parameters": {"binary_data_size": 9}}]}},
        400,
        "0 bytes follow",
    ),
    ("a header that is text", {"content": b"{}", "headers": {HEADER: "two"}}, 400, HEADER),
    ("a header beyond the body", {"content": b"{}", "headers": {HEADER: "3"}}, 400, "2 bytes"),
    ("a negative header", {"content": b"{}", "headers": {HEADER: "-1"}}, 400, HEADER),
    ("a header of 5,000 digits", {"content": b"{}", "headers": {HEADER: "9" * 5000}}, 400, HEADER),
    ("a header within the JSON", binary(texts(GOOD), prefixed(GOOD), length=5), 400, "is not JSON"),
    ("a wrong size", binary(texts(GOOD), prefixed(GOOD), size=5), 400, "binary_data_size 5"),
    ("a size that is true", binary(texts(GOOD), b"1", size=True), 400, "binary_data_size"),
    ("a size that is text", binary(texts(GOOD), b"1", size="1"), 400, "binary_data_size"),
    (
        "data and binary data",
        asking(texts(GOOD, parameters={"binary_data_size": 0})),
        400,
        "some data",
    ),
    (
        "a length beyond the data",
        binary(texts(GOOD), struct.pack("<I", 2**32 - 1) + GOOD),
        400,
        "row 0: its length is 4,294,967,295 bytes",
    ),
    ("a length cut off", binary(texts(GOOD, GOOD), prefixed(GOOD) + b"\1"), 400, "row 1"),
    ("a million empty images", binary(texts(GOOD), b"\0" * 4_000_000), 400, "elements or more"),
    ("too few binary images", binary(texts(GOOD, GOOD), prefixed(GOOD)), 400, "1 elements"),
    ("an empty binary image", binary(texts(GOOD), prefixed(b"")), 400, "row 0: the image is empty"),
    ("raw bytes without a length", binary(texts(GOOD), GOOD), 400, "4 bytes of length"),
    ("too few binary pixels", binary(pixels(DISC), DISC.tobytes()[:-1]), 400, "3,071 values"),
    ("base64 in binary", binary(texts(GOOD), prefixed(b64(GOOD).encode())), 415, "row 0"),
    ("outputs that are text", asking(texts(GOOD), outputs="label"), 400, '"outputs"'),
    ("an output without a name", asking(texts(GOOD), outputs=[{}]), 400, '"outputs"'),
    ("an unknown output", asking(texts(GOOD), outputs=[output("boxes")]), 422, "there are logits"),
    ("an output twice", asking(texts(GOOD), outputs=[output("label")] * 2), 400, "twice"),
    (
        "a parameter of another output",
        asking(texts(GOOD), outputs=[output("label", {"steps": 2})]),
        422,
        "steps",
    ),
    (
        "a coverage without its output",
        asking(texts(GOOD), outputs=[output("label")], parameters={"coverage": "0.9"}),
        422,
        "'prediction_set'",
    ),
    (
        "a coverage that is not there",
        asking(texts(GOOD), outputs=[output("prediction_set", {"coverage": 0.5})]),
        422,
        "0.5",
    ),
    (
        "steps of a set",
        asking(texts(GOOD), outputs=[output("prediction_set", {"steps": 2})]),
        422,
        "it has coverage",
    ),
    ("quality of nothing", asking(texts(GOOD), outputs=[output("quality")]), 422, "'attribution'"),
    (
        "binary_data that is text",
        asking(texts(GOOD), outputs=[output("label", {"binary_data": "no"})]),
        422,
        "binary_data",
    ),
    (
        "binary_data_output that is a number",
        asking(texts(GOOD), parameters={"binary_data_output": 1}),
        422,
        "binary_data_output",
    ),
    (
        "a misspelt parameter",
        asking(texts(GOOD), parameters={"deadlin_ms": 1}),
        422,
        "did you mean deadline_ms",
    ),
    (
        "explaining without asking",
        asking(texts(GOOD), parameters={"method": "saliency"}),
        422,
        "'attribution'",
    ),
    (
        "a parameter twice",
        asking(texts(GOOD), outputs=[ASKED], parameters={"method": "rise"}),
        422,
        "given with the output",
    ),
    (
        "no such method",
        asking(texts(GOOD), outputs=[output("attribution", {"method": "magic"})]),
        422,
        "the methods are",
    ),
    (
        "a method that is a list",
        asking(texts(GOOD), outputs=[output("attribution", {"method": [1]})]),
        422,
        "method",
    ),
    (
        "no such class",
        asking(texts(GOOD), outputs=[output("attribution", {"target": "unicorn"})]),
        422,
        "unicorn",
    ),
    (
        "the overlay",
        asking(texts(GOOD), outputs=[output("attribution", {"map": "overlay"})]),
        422,
        "'map'",
    ),
    (
        "no steps",
        asking(
            texts(GOOD),
            outputs=[output("attribution")],
            parameters={"method": "smooth_grad", "samples": 0},
        ),
        422,
        "2 to",
    ),
    ("11 MiB", {"content": b" " * (11 * 2**20)}, 413, "10,485,760"),
    (
        "compressed in another way",
        {"content": b"x", "headers": {"content-encoding": "br"}},
        415,
        "Content-Encoding 'br' is not supported; gzip, deflate are",
    ),
]


@pytest.mark.parametrize(
    ("request_", "status", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_errors_have_the_form_of_the_protocol(request_, status, words, infer):
    refused(infer(request_), status, words)


def refused(response, status, words):
    assert (response.status_code, response.headers["content-type"]) == (
        status,
        "application/json",
    ), response.text
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]


def test_unknown_models_and_paths_have_errors_of_the_protocol(server, model, embedded):
    refused(server.client.get("/v2/models/other"), 404, embedded.manifest.name)
    refused(server.client.get(f"{model}/versions/2"), 404, "'2'")
    refused(server.client.get("/v2/models/other/ready"), 404, "'other'")
    refused(server.client.post("/v2/models/other/infer", **asking(texts(GOOD))), 404, "'other'")
    refused(server.client.get("/v2/nowhere"), 404, "not served")
    refused(server.client.get(f"{model}/infer"), 405, "use POST")
    assert server.client.get("/v2x").headers["content-type"] == "application/problem+json"


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 300),
    st.floats(allow_nan=False),
    st.text(max_size=9),
    st.just("BYTES"),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=9,
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.just("x"),
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32", None, 5]) | VALUES,
    },
    optional={
        "shape": st.lists(st.integers(0, 5), max_size=5) | VALUES,
        "data": VALUES,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "content_type"]), VALUES)
        | VALUES,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, min_size=1, max_size=1) | VALUES},
    optional={"id": VALUES, "outputs": VALUES, "parameters": VALUES},
)


SPEC = Input(size=2, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@settings(max_examples=500, deadline=None)
@given(DOCUMENTS, st.binary(max_size=40), st.none() | st.integers(-2, 400))
def test_any_request_is_read_or_refused(document, data, length):
    body = json.dumps(document).encode()
    announced = None if length is None else str(min(length, len(body)))
    try:
        asked = tensors.read(body + (data if announced else b""), announced, SPEC, 10**6)
    except RequestError as error:
        assert 400 <= error.status < 500
    else:
        assert 1 <= len(asked.rows) <= 64


def test_routes_are_counted_by_their_templates_and_probes_not_at_all(server, model, infer):
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        f"{model}/ready",
        "/metrics",
        "/livez",
        "/readyz",
        "/v2/models/other",
    ):
        server.client.get(path)
    infer(asking(texts(GOOD)))
    counted = set(
        re.findall(
            r'candor_requests_total\{code="\d+",route="([^"]+)"\}',
            server.client.get("/metrics").text,
        )
    )
    assert {"/v2/models/{name}/infer", "/v2/models/{name}"} <= counted
    assert not [
        route
        for route in counted
        if "health" in route or route.endswith(("ready", "/metrics", "livez", "readyz"))
    ]
    assert not [route for route in counted if route.removesuffix(":predict").startswith(model)]
