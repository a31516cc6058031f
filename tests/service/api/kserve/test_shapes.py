"""Requests in the shapes that other servers' clients send get the labels of the native API.

The shapes are those that the documents of KServe, TorchServe, TensorFlow Serving, OpenVINO Model
Server and MLServer show for images.
"""

import base64
import json
import struct

import numpy as np
import pytest

from support.images import draw, encode

IMAGE = draw("red", size=32)  # of the network's own size, so that every shape has the same pixels
FILE = encode(IMAGE)
TEXT = base64.b64encode(FILE).decode()
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def name(embedded):
    return embedded.manifest.name


@pytest.fixture(scope="module")
def normalised(embedded):
    """The image as the network's own input, float32 (H, W, 3)."""
    spec = embedded.manifest.input
    return ((IMAGE / 255 - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)


@pytest.fixture(scope="module")
def native(server):
    def ask(path):
        response = server.client.post(path, content=FILE, headers={"content-type": "image/png"})
        assert response.status_code == 200, response.text
        return response.json()

    return ask


def answered(response):
    assert response.status_code == 200, response.text
    return response.json()


def rows(instance):
    return {"instances": [instance]}


V1_ROWS = {
    "KServe, a custom model": rows({"image": {"b64": TEXT}}),
    "KServe, a transformer": rows({"image": {"b64": TEXT}, "caption": "seaside"}),
    "KServe, a transformer of tensors": rows({"image_bytes": {"b64": TEXT}}),
    "TorchServe on KServe": rows({"data": TEXT}),
    "TorchServe on KServe, in an object": rows({"data": {"b64": TEXT}}),
    "TensorFlow Serving": rows({"b64": TEXT}) | {"signature_name": "serving_default"},
    "TensorFlow Serving, named": rows({"input_1": {"b64": TEXT}}),
    "TensorFlow Serving, pixels": rows(IMAGE.tolist()),
    "TensorFlow Serving, named pixels": rows({"input_1": IMAGE.tolist()}),
    "KServe, channels first": rows(np.moveaxis(IMAGE, 2, 0).tolist()),
    "OpenVINO Model Server": rows({"0": {"b64": TEXT}}),
}
V1_COLUMNS = {
    "OpenVINO Model Server": {"inputs": {"0": [{"b64": TEXT}]}},
    "OpenVINO Model Server, an image alone": {"inputs": {"0": {"b64": TEXT}}},
    "TensorFlow Serving, without a name": {"inputs": [{"b64": TEXT}]},
    "TensorFlow Serving, pixels": {"inputs": {"input_1": [IMAGE.tolist()]}},
}


@pytest.mark.parametrize("request_", V1_ROWS.values(), ids=V1_ROWS)
def test_rows_of_v1_are_predicted(request_, server, name, native):
    expected = native("/predict")
    (found,) = answered(server.client.post(f"/v1/models/{name}:predict", json=request_))[
        "predictions"
    ]
    assert (found["label"], found["probability"]) == (
        expected["label"],
        pytest.approx(expected["probability"], abs=1e-3),
    )


@pytest.mark.parametrize("request_", V1_COLUMNS.values(), ids=V1_COLUMNS)
def test_columns_of_v1_are_answered_in_columns(request_, server, name, native):
    found = answered(server.client.post(f"/v1/models/{name}:predict", json=request_))["outputs"]
    assert found["label"] == [native("/predict")["label"]]
    assert found["probability"] == [pytest.approx(native("/predict")["probability"], abs=1e-3)]


@pytest.mark.parametrize("shape", ["TorchServe on KServe", "TensorFlow Serving, pixels"])
def test_rows_of_v1_are_explained(shape, server, name, native):
    expected = native("/explain?map=array")["explanation"]
    found = answered(server.client.post(f"/v1/models/{name}:explain", json=V1_ROWS[shape]))
    (explanation,) = found["explanations"]
    assert explanation["overlay"].startswith("data:image/png;base64,")
    maps = [
        np.frombuffer(base64.b64decode(each["map"]["data"]), "<f4")
        for each in (explanation, expected)
    ]
    np.testing.assert_allclose(*maps, atol=1e-3 * np.abs(maps[1]).max())


def test_the_networks_own_input_is_predicted_in_rows_and_columns(server, name, native, normalised):
    label, values = native("/predict")["label"], normalised.tolist()
    place = f"/v1/models/{name}/versions/1:predict"
    first = np.moveaxis(normalised, 2, 0).tolist()
    for request in (rows(values), rows({"x": first})):
        (found,) = answered(server.client.post(place, json=request))["predictions"]
        assert found["label"] == label
    found = answered(server.client.post(place, json={"inputs": {"x": [values]}}))
    assert found["outputs"]["label"] == [label]


def test_classes_are_answered_with_their_scores(server, name, native, embedded):
    request = {"signature_name": "classify", "examples": [{"image": {"b64": TEXT}, "caption": "s"}]}
    ((best, *others),) = answered(server.client.post(f"/v1/models/{name}:classify", json=request))[
        "results"
    ]
    assert best == [native("/predict")["label"], pytest.approx(native("/predict")["probability"])]
    assert {best[0], *(label for label, _ in others)} == set(embedded.manifest.labels)
    found = answered(server.client.post(f"/v1/models/{name}:classify?top_k=2", json=request))
    assert len(found["results"][0]) == 2


@pytest.mark.parametrize("version", ["", "/versions/1", "/versions/{}"])
def test_status_and_metadata_have_the_form_of_tensorflow_serving(version, server, name, embedded):
    place = f"/v1/models/{name}{version.format(embedded.manifest.version)}"
    (status,) = answered(server.client.get(place))["model_version_status"]
    assert (int(status["version"]), status["state"], status["status"]["error_code"]) == (
        1,
        "AVAILABLE",
        "OK",
    )
    found = answered(server.client.get(f"{place}/metadata"))
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert found["model_spec"]["name"] == name
    assert signature["inputs"]["image"]["dtype"] == "DT_STRING"
    prediction = answered(server.client.post(f"{place}:predict", json=rows({"b64": TEXT})))
    assert set(signature["outputs"]) <= set(prediction["predictions"][0])


REFUSED_V1 = {
    "rows and columns": (
        {"instances": [TEXT], "inputs": [TEXT]},
        400,
        "instances and inputs were sent",
    ),
    "two columns": ({"inputs": {"a": [TEXT], "b": [TEXT]}}, 400, "2 inputs were sent, and one is"),
    "a column of nothing": ({"inputs": {"a": []}}, 400, '"inputs" is empty'),
    "floats of another size": (rows([[[0.5] * 3] * 9] * 9), 422, "instance 0: the input is 9 × 9"),
    "floats of 0 to 255": (rows([[[255.0] * 3] * 32] * 32), 422, "normalise them so"),
    "a flat list": (rows([1, 2, 3]), 422, "give (N, H, W, 3)"),
    "uneven numbers": (rows([[[1, 2, 3], [4]]]), 400, "4 values, but its shape has 6"),
    "an empty list": (rows([]), 422, "instance 0"),
    "no numbers": (rows([[["a", "b", "c"]]]), 400, "instance 0: the input's data hold 'a'"),
    "text among lists": (rows([[[1, 2, 3]], "a"]), 400, "instance 0: the input's data is nested"),
    "a deep list": (rows(json.loads("[" * 40 + "1" + "]" * 40)), 422, "instance 0"),
}


@pytest.mark.parametrize("case", REFUSED_V1.values(), ids=REFUSED_V1)
def test_what_v1_cannot_mean_is_refused_in_words(case, server, name):
    request, status, words = case
    response = server.client.post(f"/v1/models/{name}:predict", json=request)
    assert (response.status_code, list(response.json())) == (status, ["error"]), response.text
    assert words in response.json()["error"]


def test_many_numbers_are_taken_and_too_many_refused(server, name):
    image = np.zeros((320, 320, 3), np.uint8).tolist()
    place = f"/v1/models/{name}:predict"
    assert answered(server.client.post(place, json=rows(image)))["predictions"]
    response = server.client.post(place, json={"instances": [image] * 2})
    assert (response.status_code, "the limit is" in response.text) == (422, True)


def tensor(datatype, shape, data=None, **parameters):
    """A request of one tensor in JSON."""
    entry = {"name": "INPUT__0", "datatype": datatype, "shape": list(shape)}
    entry |= {} if data is None else {"data": data}
    return {"inputs": [entry | ({"parameters": parameters} if parameters else {})]}


def packed(request, data):
    """The same with binary data."""
    head = json.dumps(request).encode()
    return {"content": head + data, "headers": {HEADER: str(len(head))}}


def prefixed(data):
    return struct.pack("<I", len(data)) + data


def label_of(response):
    outputs = {entry["name"]: entry for entry in answered(response)["outputs"]}
    return outputs["label"]["data"]


FIRST = np.moveaxis(IMAGE, 2, 0)[None]
V2 = {
    "MLServer, NumPy": {
        "json": tensor("UINT8", (1, 32, 32, 3), IMAGE.ravel().tolist(), content_type="np")
        | {"parameters": {"content_type": "np"}}
    },
    "MLServer, base64": {"json": tensor("BYTES", (1, 1), [TEXT], content_type="base64")},
    "MLServer, an image": {"json": tensor("BYTES", (1, 1), [TEXT], content_type="pillow_image")},
    "MLServer, base64 as text alone": {
        "json": tensor("BYTES", (1,), TEXT, content_type="str"),
    },
    "MLServer, base64 in binary data": packed(
        tensor("BYTES", (1,), content_type="base64", binary_data_size=len(TEXT) + 4),
        prefixed(TEXT.encode()),
    ),
    "TorchServe on KServe": {"json": tensor("BYTES", (-1,), [TEXT])},
    "KServe on Triton": {"json": tensor("INT64", (1, 3, 32, 32), FIRST.tolist())},
    "Triton's DALI backend": packed(
        tensor("UINT8", (1, len(FILE)), binary_data_size=len(FILE)), FILE
    ),
    "Triton's DALI backend, without rows": {"json": tensor("UINT8", (len(FILE),), list(FILE))},
    "OpenVINO Model Server, a file alone": packed(tensor("BYTES", (1,)), FILE),
    "OpenVINO Model Server, files": packed(
        tensor("BYTES", (1,), binary_data_size=len(FILE) + 4), prefixed(FILE)
    ),
    "OpenVINO Model Server, raw data": packed(tensor("UINT8", FIRST.shape), FIRST.tobytes()),
}


@pytest.mark.parametrize("request_", V2.values(), ids=V2)
def test_tensors_of_v2_are_predicted(request_, server, name, native):
    found = label_of(server.client.post(f"/v2/models/{name}/infer", **request_))
    assert found == [native("/predict")["label"]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_files_in_rows_of_bytes_may_have_zeros_behind_them(kind, server, name):
    files = [encode(draw(colour, size=32), kind) for colour in ("red", "blue")]
    longest = max(map(len, files)) + 300
    data = b"".join(file.ljust(longest, b"\0") for file in files)
    request = packed(tensor("UINT8", (2, longest), binary_data_size=len(data)), data)
    padded = label_of(server.client.post(f"/v2/models/{name}/infer", **request))
    texts = [base64.b64encode(file).decode() for file in files]
    plain = {"json": tensor("BYTES", (2,), texts)}
    assert padded == label_of(server.client.post(f"/v2/models/{name}/infer", **plain))


@pytest.mark.parametrize("axis", [3, 1], ids=["channels last", "channels first"])
@pytest.mark.parametrize("binary", [False, True])
def test_the_networks_own_input_is_predicted(axis, binary, server, name, native, normalised):
    values = np.ascontiguousarray(np.moveaxis(normalised[None], 3, axis))
    request = {"json": tensor("FP32", values.shape, values.tolist(), content_type="np")}
    if binary:
        request = packed(tensor("FP32", values.shape), values.tobytes())
    found = label_of(server.client.post(f"/v2/models/{name}/infer", **request))
    assert found == [native("/predict")["label"]]


@pytest.mark.parametrize("shape", ["MLServer, base64", "OpenVINO Model Server, raw data"])
def test_tensors_of_v2_are_explained(shape, server, name, native):
    expected = native("/explain?map=array")["explanation"]["map"]
    given = dict(V2[shape])
    wanted = [{"name": "attribution"}]
    if "json" in given:
        given = {"json": given["json"] | {"outputs": wanted}}
    else:
        given = packed(tensor("UINT8", FIRST.shape) | {"outputs": wanted}, FIRST.tobytes())
    (found,) = answered(server.client.post(f"/v2/models/{name}/infer", **given))["outputs"]
    values = np.frombuffer(base64.b64decode(expected["data"]), "<f4")
    np.testing.assert_allclose(found["data"], values, atol=1e-3 * np.abs(values).max())
