"""The Open Inference Protocol and Triton's extensions, point by point, as docs/clients.md lists
them.
"""

import base64
import gzip
import json
import re
import struct
import zlib

import numpy as np
import pytest

from support.images import draw, encode
from support.servers import ROOT

IMAGE = draw("red", size=32)
FILE = encode(IMAGE)
BASE64 = base64.b64encode(FILE).decode()
HEADER = "Inference-Header-Content-Length"
RAW = {HEADER: "0", "content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def name(embedded):
    return embedded.manifest.name


@pytest.fixture(scope="module")
def place(name):
    return f"/v2/models/{name}"


def asked(**more):
    """A request of one image in pixels."""
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    return {"inputs": [tensor | {"data": IMAGE.ravel().tolist()}], **more}


def answered(response):
    assert response.status_code == 200, response.text
    return response.json()


def refused(response, status, words):
    assert response.headers["content-type"] == "application/json"
    assert (response.status_code, list(response.json())) == (status, ["error"]), response.text
    assert words in response.json()["error"]


def binary_outputs(response):
    """The document of an answer in binary data, and the bytes of each output."""
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    document, rest, found = json.loads(response.content[:length]), response.content[length:], {}
    for output in document["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]], rest = rest[:size], rest[size:]
        assert "data" not in output
    assert rest == b""
    return document, found


def test_probes_of_server_and_model_are_answered(server, place, name, embedded):
    assert answered(server.client.get("/v2/health/live")) == {"live": True}
    assert answered(server.client.get("/v2/health/ready")) == {"ready": True}
    for version in ("", f"/versions/{embedded.manifest.version}", "/versions/1"):
        found = answered(server.client.get(f"{place}{version}/ready"))
        assert found == {"name": name, "ready": True}
    refused(server.client.get(f"{place}/versions/2/ready"), 404, "of version '2'")


def test_the_metadata_list_what_a_request_has_and_gets(server, place, embedded):
    found = answered(server.client.get(place))
    assert set(found) == {"name", "versions", "platform", "inputs", "outputs"}
    for each in (*found["inputs"], *found["outputs"]):
        assert set(each) == {"name", "datatype", "shape"}
    (image,) = found["inputs"]
    outputs = [{"name": each["name"]} for each in found["outputs"]]
    request = {"inputs": [image | {"shape": [1], "data": [BASE64]}], "outputs": outputs}
    answers = answered(server.client.post(f"{place}/infer", json=request))["outputs"]
    for listed, answer in zip(found["outputs"], answers, strict=True):
        assert (listed["name"], listed["datatype"]) == (answer["name"], answer["datatype"])
        assert len(listed["shape"]) == len(answer["shape"])
        assert all(
            wanted in (-1, got)
            for wanted, got in zip(listed["shape"], answer["shape"], strict=True)
        )


@pytest.mark.parametrize("suffix", ["", ".logits", ".floats", ".files"])
def test_a_request_made_from_the_metadata_is_answered(suffix, server, place, embedded):
    """As a client does that knows nothing but the protocol."""
    (listed,) = answered(server.client.get(place + suffix))["inputs"]
    data = {"BYTES": [BASE64], "UINT8": IMAGE.ravel().tolist()}
    mean, std = (
        np.array(each) for each in (embedded.manifest.input.mean, embedded.manifest.input.std)
    )
    data["FP32"] = np.moveaxis((IMAGE / 255 - mean) / std, 2, 0).ravel().tolist()
    shape = [1 if side == -1 else side for side in listed["shape"]]
    tensor = listed | {"shape": shape, "data": data[listed["datatype"]]}
    request = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
    (found,) = answered(server.client.post(f"{place}{suffix}/infer", json=request))["outputs"]
    (expected,) = answered(
        server.client.post(f"{place}/infer", json=asked(outputs=[{"name": "logits"}]))
    )["outputs"]
    assert found["data"] == pytest.approx(expected["data"], abs=1e-3)


def test_unknown_parameters_are_ignored_with_a_warning(server, place):
    request = asked(outputs=[{"name": "label", "parameters": {"colour": "blue"}}])
    request["inputs"][0]["parameters"] = {"content_type": "np", "layout": "NHWC"}
    request["parameters"] = {
        "headers": "x", "priority": 1, "sequence_id": 42, "sequence_start": True,
        "triton_enable_empty_final_response": False,
    }  # fmt: skip
    found = answered(server.client.post(f"{place}/infer", json=request))["parameters"]["warnings"]
    for parameter in ("colour", "layout", *request["parameters"]):
        assert f"the parameter '{parameter}' is not known here and was ignored" in found
    assert "content_type" not in found


def test_a_misspelt_parameter_of_an_output_is_refused(server, place):
    request = asked(outputs=[{"name": "logits", "parameters": {"clasification": 2}}])
    refused(server.client.post(f"{place}/infer", json=request), 422, "did you mean classification")


def test_more_unknown_parameters_than_anybody_sends_are_refused(server, place):
    request = asked(parameters={f"own{number}": number for number in range(500)})
    refused(server.client.post(f"{place}/infer", json=request), 422, "the limit is 100")


@pytest.mark.parametrize("count", [1, 10])
def test_a_classification_has_values_indices_and_labels(count, server, place, embedded):
    outputs = [
        {"name": each, "parameters": {"classification": count}}
        for each in ("logits", "probabilities")
    ]
    found = answered(server.client.post(f"{place}/infer", json=asked(outputs=outputs)))["outputs"]
    plain = answered(server.client.post(f"{place}/infer", json=asked()))["outputs"]
    for output, values in zip(found, (plain[0]["data"], plain[1]["data"]), strict=True):
        assert (output["datatype"], output["shape"]) == ("BYTES", [1, count])
        order = np.argsort(values)[::-1][:count]
        for text, index in zip(output["data"], order, strict=True):
            value, place_, label = text.split(":")
            assert (int(place_), label) == (index, embedded.manifest.labels[index])
            assert float(value) == pytest.approx(values[index], abs=1e-5)


@pytest.mark.parametrize("count", [0, 11, "2", True, 1.5])
def test_a_classification_of_no_such_number_is_refused(count, server, place):
    request = asked(outputs=[{"name": "logits", "parameters": {"classification": count}}])
    refused(server.client.post(f"{place}/infer", json=request), 422, "give 1 to 10")


def test_a_raw_binary_request_is_answered_in_binary_data(server, place):
    found = server.client.post(f"{place}/infer", content=FILE, headers=RAW)
    document, data = binary_outputs(found)
    plain = answered(server.client.post(f"{place}/infer", json=asked()))["outputs"]
    assert [each["name"] for each in document["outputs"]] == [each["name"] for each in plain]
    np.testing.assert_allclose(np.frombuffer(data["logits"], "<f4"), plain[0]["data"], atol=1e-3)
    (size,) = struct.unpack("<I", data["label"][:4])
    assert data["label"][4 : 4 + size].decode() == plain[2]["data"][0]
    in_json = {**RAW, "accept": "application/json"}
    found = answered(server.client.post(f"{place}/infer", content=FILE, headers=in_json))
    assert found["outputs"][2] == plain[2]


@pytest.mark.parametrize("suffix", [".logits", ".floats"])
def test_a_raw_binary_request_may_be_the_tensor_of_the_metadata(suffix, server, place, embedded):
    spec = embedded.manifest.input
    content = IMAGE
    if suffix == ".floats":
        content = np.moveaxis((IMAGE / 255 - np.array(spec.mean)) / np.array(spec.std), 2, 0)
    content = content.astype("<f4" if suffix == ".floats" else "u1").tobytes()
    found = server.client.post(f"{place}{suffix}/infer", content=content, headers=RAW)
    _, data = binary_outputs(found)
    (expected,) = answered(
        server.client.post(f"{place}/infer", json=asked(outputs=[{"name": "logits"}]))
    )["outputs"]
    np.testing.assert_allclose(np.frombuffer(data["logits"], "<f4"), expected["data"], atol=1e-4)


UNSERVED = [
    ("GET", "/v2/systemsharedmemory/status", "no memory is shared"),
    ("GET", "/v2/cudasharedmemory/region/a/status", "no memory is shared"),
    ("POST", "/v2/systemsharedmemory/region/a/register", "no memory is shared"),
    ("POST", "/v2/cudasharedmemory/unregister", "no memory is shared"),
    ("GET", "/v2/trace/setting", "GET /metrics has the time of each stage"),
    ("POST", "/v2/models/NAME/trace/setting", "GET /metrics has the time of each stage"),
    ("GET", "/v2/logging", "CANDOR_ACCESS_LOG"),
    ("POST", "/v2/logging", "CANDOR_ACCESS_LOG"),
    ("POST", "/v2/models/NAME/generate", "POST to /infer"),
    ("POST", "/v1/models/NAME:regress", "POST to :predict or :classify"),
    ("POST", "/v1/models/NAME/labels/stable:predict", "leave the label out"),
    ("GET", "/v1/models/NAME/labels/stable", "leave the label out"),
]


@pytest.mark.parametrize(
    ("verb", "path", "words"), UNSERVED, ids=[f"{v} {p}" for v, p, _ in UNSERVED]
)
def test_what_is_not_served_says_why_in_the_form_of_the_protocol(verb, path, words, server, name):
    response = server.client.request(verb, path.replace("NAME", name), json={})
    refused(response, 404, words)


@pytest.mark.parametrize(
    ("verb", "path", "words"),
    [
        ("POST", "/predictions/NAME", "POST the same body to /predict"),
        ("POST", "/predictions/NAME/1.0", "POST the same body to /predict"),
        ("POST", "/explanations/NAME", "POST the same body to /explain"),
        ("GET", "/ping", "GET /readyz"),
    ],
)
def test_paths_of_torchserve_lead_to_those_here(verb, path, words, server, name):
    response = server.client.request(verb, path.replace("NAME", name), content=FILE)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert words in response.json()["detail"]


@pytest.mark.parametrize("side", ["input", "output"])
def test_tensors_in_shared_memory_are_refused(side, server, place):
    memory = {"shared_memory_region": "a", "shared_memory_byte_size": 40}
    request = asked(outputs=[{"name": "logits"}])
    of = request["outputs"][0]
    if side == "input":
        of = request["inputs"][0]
        del of["data"]
    of["parameters"] = memory
    refused(server.client.post(f"{place}/infer", json=request), 422, "no memory is shared")


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip;q=0, deflate;q=0", None),
        ("gzip;q=0", None),
        ("identity", None),
    ],
)
def test_answers_are_compressed_as_the_caller_likes(accepted, encoding, server, place):
    request = asked(outputs=[{"name": "attribution"}])
    with server.client.stream(
        "POST", f"{place}/infer", json=request, headers={"accept-encoding": accepted}
    ) as response:
        body = b"".join(response.iter_raw())
    assert response.headers.get("content-encoding") == encoding
    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[encoding]
    assert json.loads(unpack(body))["outputs"][0]["shape"] == [1, 32, 32]


def test_documents_are_compressed_for_those_alone_that_take_it(server):
    for accepted, encoding in (("gzip", "gzip"), ("gzip;q=0", None), ("*", "gzip")):
        response = server.client.get("/openapi.json", headers={"accept-encoding": accepted})
        assert response.headers.get("content-encoding") == encoding


SECTION = re.search(
    r"\n## The Open Inference Protocol\n(.*?)\n## ",
    (ROOT / "docs" / "clients.md").read_text(),
    re.DOTALL,
)[1]
# A point, what happens here, and the tests of it over REST and over gRPC.
POINTS = re.findall(r"^\| ([^|]+) \| [^|]+ \| (`test_[^|]+`|—) \|([^|]*)\|$", SECTION, re.MULTILINE)


@pytest.fixture(scope="module")
def tests():
    """The names of all tests of the protocol."""
    folders = (ROOT / "tests" / "service" / "api", ROOT / "tests" / "clients")
    sources = (path.read_text() for folder in folders for path in folder.rglob("test_*.py"))
    return {
        name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    }


def test_the_table_of_the_protocol_has_its_points():
    assert len(POINTS) >= 35


@pytest.mark.parametrize("point", POINTS, ids=[point[0] for point in POINTS])
def test_every_point_of_the_table_has_a_test(point, tests):
    _, rest, rpc = point
    assert {*re.findall(r"`(test_\w+)`", rest), *re.findall(r"`(test_\w+)`", rpc)} <= tests
