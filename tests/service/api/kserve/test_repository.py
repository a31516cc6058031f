"""The model as Triton's clients ask for it: its configuration, its names, its statistics."""

import gzip
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from support.images import draw, encode

GOOD = encode(draw("red", size=40))
RAW = {
    "Inference-Header-Content-Length": "0",
    "content-type": "application/octet-stream",
    "accept": "application/json",
}
SUFFIXES = (".logits", ".floats", ".files")


@pytest.fixture(scope="module")
def name(embedded):
    return embedded.manifest.name


def test_the_index_lists_every_name(server, name, embedded):
    found = server.client.post("/v2/repository/index", json={"ready": True}).json()
    assert [entry["name"] for entry in found] == [name, *(name + suffix for suffix in SUFFIXES)]
    assert {(entry["state"], entry["version"]) for entry in found} == {
        ("READY", embedded.manifest.version)
    }


def test_a_model_is_loaded_and_the_default_one_is_not_unloaded(server, name, embedded):
    """More of this: tests/service/repository."""
    place = f"/v2/repository/models/{name}"
    loaded = server.client.post(f"{place}/load")
    assert loaded.json() == {"name": name, "version": embedded.manifest.version}
    kept = server.client.post(f"{place}/unload")
    assert kept.status_code == 409
    assert "cannot be unloaded" in kept.json()["error"]


def test_the_configuration_has_the_tensors_of_the_metadata(server, name):
    for each in (name, *(name + suffix for suffix in reversed(SUFFIXES))):
        described = server.client.get(f"/v2/models/{each}").json()
        config = server.client.get(f"/v2/models/{each}/config").json()
        assert (config["name"], config["max_batch_size"]) == (each, 64)
        for kind in ("input", "output"):
            assert [entry["name"] for entry in config[kind]] == [
                entry["name"] for entry in described[f"{kind}s"]
            ]
    assert config["input"][0] == {
        "name": "pixels",
        "data_type": "TYPE_UINT8",
        "format": "FORMAT_NHWC",
        "dims": [32, 32, 3],
    }


def test_a_client_that_follows_metadata_and_configuration_gets_labels(server, name):
    """As Triton's image client does: one input of three dimensions, one output, its classes."""
    place = f"/v2/models/{name}.logits"
    described = server.client.get(place).json()
    config = server.client.get(f"{place}/config").json()
    (image,), (output,) = described["inputs"], described["outputs"]
    assert (output["datatype"], len(image["shape"]), config["max_batch_size"] > 0) == (
        "FP32",
        4,
        True,
    )
    height, width, _ = config["input"][0]["dims"]
    scaled = Image.open(io.BytesIO(GOOD)).convert("RGB").resize((width, height), Image.BILINEAR)
    pixels = np.asarray(scaled)[None]
    request = {
        "inputs": [
            {
                "name": image["name"],
                "datatype": image["datatype"],
                "shape": list(pixels.shape),
                "data": pixels.ravel().tolist(),
            }
        ],
        "outputs": [{"name": output["name"], "parameters": {"classification": 3}}],
        "parameters": {"priority": 1, "timeout": 5_000_000, "sequence_id": 0},
    }
    found = server.client.post(f"{place}/infer", json=request).json()
    values = [float(text.split(":")[0]) for text in found["outputs"][0]["data"]]
    assert values == sorted(values, reverse=True)
    assert found["model_name"] == f"{name}.logits"
    assert "'priority' is not known here and was ignored" in found["parameters"]["warnings"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_network_of_every_name_is_the_same(suffix, server, name):
    plain = server.client.post(f"/v2/models/{name}{suffix}/infer", content=GOOD, headers=RAW).json()
    whole = server.client.post(f"/v2/models/{name}/infer", content=GOOD, headers=RAW).json()
    assert [output["name"] for output in plain["outputs"]] == ["logits"]
    assert plain["outputs"][0] == whole["outputs"][0]
    assert len(whole["outputs"]) == 5


def test_a_raw_binary_request_of_nothing_is_refused(server, name):
    answer = server.client.post(f"/v2/models/{name}/infer", content=b"", headers=RAW)
    assert answer.status_code == 400


def test_the_first_version_is_the_served_one(server, name):
    assert server.client.get(f"/v2/models/{name}/versions/1/ready").json()["ready"]


def test_a_timeout_is_a_deadline(server, name):
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}
    request = {
        "inputs": [tensor],
        "outputs": [{"name": "attribution", "parameters": {"method": "rise", "samples": 4096}}],
        "parameters": {"timeout": 1_000},
    }
    answer = server.client.post(f"/v2/models/{name}/infer", json=request)
    assert answer.status_code in (503, 504)


def test_statistics_count_what_was_inferred(server, name):
    def figures(path):
        (found,) = server.client.get(path).json()["model_stats"]
        return found

    before = figures(f"/v2/models/{name}/stats")
    assert server.client.post(f"/v2/models/{name}/infer", content=GOOD, headers=RAW).is_success
    assert server.client.post(f"/v2/models/{name}/infer", content=b"{").status_code == 400
    after = figures("/v2/models/stats")
    for part, more in (("success", 1), ("fail", 1)):
        counts = [each["inference_stats"][part]["count"] for each in (before, after)]
        assert counts[1] - counts[0] == more
    assert after["inference_count"] > before["inference_count"]
    assert after["inference_stats"]["compute_infer"]["ns"] > 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_requests_and_answers_may_be_compressed(encoding, server, name):
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [9] * 192}
    request = {"inputs": [tensor], "outputs": [{"name": "attribution"}]}
    answer = server.client.post(
        f"/v2/models/{name}/infer",
        content=pack(json.dumps(request).encode()),
        headers={"content-encoding": encoding, "accept-encoding": "gzip"},
    )
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["outputs"][0]["shape"] == [1, 32, 32]


def test_a_compressed_body_may_not_unpack_beyond_the_limit(server, name):
    answer = server.client.post(
        f"/v2/models/{name}/infer",
        content=gzip.compress(bytes(50_000_000)),
        headers={"content-encoding": "gzip"},
    )
    assert answer.status_code == 413
