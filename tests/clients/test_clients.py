"""Public clients predict and explain unchanged; the examples of the README run."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from support import generated as generated_clients
from support import proxies
from support.environments import python_of
from support.servers import ROOT, eventually

IMAGE, MASK = (ROOT / "docs" / "images" / name for name in ("red-ball.jpg", "red-ball-mask.png"))
MAP = "method=integrated_gradients&steps=4&target=0"
# Of a deadline that has passed, and of one that cannot be met.
LATE = ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL)


def native(server, path):
    response = server.client.post(
        path, content=IMAGE.read_bytes(), headers={"content-type": "image/jpeg"}
    )
    assert response.status_code == 200, response.text
    return response.json()


def native_map(server, query=MAP):
    found = native(server, f"/explain?{query}&map=array")["explanation"]["map"]
    return np.frombuffer(base64.b64decode(found["data"]), "<f4").reshape(found["shape"])


def run(python, *arguments):
    done = subprocess.run(
        [python, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def triton(server, embedded, tmp_path_factory):
    """The answers to tritonclient."""
    pixels = tmp_path_factory.mktemp("triton") / "pixels.npy"
    np.save(pixels, np.asarray(Image.open(IMAGE).resize((40, 36)))[None])
    address, name = server.url.removeprefix("http://"), embedded.manifest.name
    return json.loads(
        run(
            python_of("tritonclient"),
            "tests/clients/call_tritonclient.py",
            address,
            name,
            IMAGE,
            pixels,
            json.dumps([embedded.manifest.input.mean, embedded.manifest.input.std]),
        )
    )


@pytest.fixture(scope="session")
def triton_aio(server, embedded):
    """The answers to tritonclient's asynchronous client."""
    address, script = server.url.removeprefix("http://"), "tests/clients/call_tritonclient_aio.py"
    arguments = (address, embedded.manifest.name, IMAGE)
    return json.loads(run(python_of("tritonclient"), script, *arguments))


@pytest.fixture(scope="session")
def kserve(server, embedded, tmp_path_factory):
    """The answers to KServe's client."""
    floats, spec = tmp_path_factory.mktemp("kserve") / "floats.npy", embedded.manifest.input
    pixels = np.asarray(Image.open(IMAGE).resize((32, 32)))
    np.save(floats, np.moveaxis((pixels / 255 - np.array(spec.mean)) / np.array(spec.std), 2, 0))
    return json.loads(
        run(
            python_of("kserve"),
            "tests/clients/call_kserve.py",
            server.url,
            embedded.manifest.name,
            IMAGE,
            floats,
        )
    )


def given_up(server):
    """The number of requests whose callers left before they were answered."""
    return sum(
        float(value)
        for value in re.findall(
            r'candor_requests_total\{code="499",route="/v2/models/\{name\}/infer"\} (\S+)',
            server.client.get("/metrics").text,
        )
    )


def test_tritonclient_finds_server_and_model(triton, embedded):
    assert (triton["live"], triton["ready"], triton["model_ready"], triton["other_ready"]) == (
        True,
        True,
        True,
        False,
    )
    assert {"binary_tensor_data", "classification"} < set(triton["server"]["extensions"])
    name = embedded.manifest.name
    assert [entry["name"] for entry in triton["index"]] == [
        name,
        *(name + suffix for suffix in (".logits", ".floats", ".files")),
    ]
    assert (triton["load"], triton["unload"]["status"]) == (None, "409")
    assert triton["statistics"]["model_stats"][0]["inference_stats"]["success"]["count"] > 0
    assert triton["model"]["versions"] == [embedded.manifest.version]


@pytest.mark.parametrize(("call", "rows"), [("encoded", 2), ("column", 1), ("base64", 1)])
def test_tritonclient_predicts_encoded_images_as_the_native_api(call, rows, triton, server):
    expected, values = native(server, "/predict"), triton[call]["values"]
    assert values["label"] == [expected["label"]] * rows
    assert np.array(values["probabilities"]).shape == np.array(values["logits"]).shape == (rows, 10)
    assert np.max(values["probabilities"], axis=1) == pytest.approx(
        [expected["probability"]] * rows, abs=1e-3
    )


def test_tritonclient_gets_its_id_back(triton):
    assert triton["encoded"]["id"] == "seven"


def test_tritonclient_predicts_pixels_alike_as_binary_and_as_json(triton):
    assert list(triton["pixels_json"]["values"]) == ["logits"]
    np.testing.assert_allclose(
        triton["pixels"]["values"]["logits"], triton["pixels_json"]["values"]["logits"], atol=1e-4
    )


@pytest.mark.parametrize("call", ["explained", "explained_json"])
def test_tritonclient_explains(call, triton, server):
    found, expected = np.array(triton[call]["values"]["attribution"]), native_map(server)
    np.testing.assert_allclose(found[0], expected, atol=1e-3 * np.abs(expected).max())
    outputs = {entry["name"]: entry.get("parameters") for entry in triton[call]["outputs"]}
    given = outputs["attribution"]
    assert (given["method"], given["steps"], given["unit"]) == ("integrated_gradients", 4, "logit")


def is_trusted_as(values, server, labels):
    expected = native(server, "/predict?coverage=0.9&by_class=true")
    assert {labels[index] for index in np.flatnonzero(values["prediction_set"][0])} == set(
        expected["prediction_set"]["labels"]
    )
    assert values["familiarity"] == pytest.approx([expected["familiarity"]["score"]], abs=1e-3)


@pytest.mark.parametrize("call", ["trusted", "trusted_json"])
def test_tritonclient_gets_sets_familiarity_and_quality(call, triton, server, embedded):
    values, answer = triton[call]["values"], native(server, "/explain?map=array")["explanation"]
    is_trusted_as(values, server, embedded.manifest.labels)
    outputs = {entry["name"]: entry["parameters"] for entry in triton[call]["outputs"]}
    assert outputs["quality"]["measures"].split(",") == sorted(answer["quality"])
    assert np.shape(values["quality"]) == (1, len(answer["quality"]))


def test_tritonclient_gets_errors_with_status_and_message(triton):
    assert triton["bad_image"]["status"] == "415"
    assert triton["bad_image"]["message"].startswith("row 1: the 5 bytes look like text")
    assert [triton[call]["status"] for call in ("other_model", "other_version")] == ["404"] * 2


def test_tritonclient_may_compress(triton):
    for packed in ("gzip", "deflate"):
        assert triton[packed]["values"]["label"] == triton["encoded"]["values"]["label"][:1]


def test_tritonclient_gets_the_best_classes_of_the_plain_model(triton):
    best, *others = triton["classes"]["values"]["logits"]
    assert len(others) == 2
    assert best.endswith(f":{triton['pixels']['values']['label'][0]}")
    assert "'priority'" in triton["classes"]["parameters"]["warnings"]


def test_tritonclient_may_send_the_networks_own_input(triton):
    np.testing.assert_array_equal(
        triton["floats"]["values"]["logits"], triton["own_size"]["values"]["logits"]
    )


@pytest.mark.parametrize("call", ["image_client", "image_client_scaled"])
def test_tritons_image_client_gets_labels(call, triton):
    ((best, *others),) = triton[call]
    assert [best[2]] == triton["own_size"]["values"]["label"]
    logits = sorted(triton["own_size"]["values"]["logits"][0], reverse=True)
    assert [float(value) for value, _, _ in (best, *others)] == pytest.approx(logits[:3], abs=1e-5)


def test_tritons_client_of_ensembles_gets_labels(triton):
    (rows,) = triton["ensemble_client"].values()
    best = triton["encoded"]["values"]["label"]
    assert [row[0][2] for row in rows] == best
    assert [len(row) for row in rows] == [2, 2]


def test_tritonclient_gives_up_and_gets_deadlines(triton):
    assert triton["hasty"]["seconds"] < 2
    assert triton["late"]["status"] in ("503", "504")


def test_tritonclient_hears_why_something_is_not_served(triton):
    for call, words in (
        ("shared", "no memory is shared"),
        ("tracing", "GET /metrics"),
    ):
        assert (triton[call]["status"], words in triton[call]["message"]) == ("404", True)


def test_tritonclients_asynchronous_calls_are_answered_at_once(triton_aio, triton, server):
    label = native(server, "/predict")["label"]
    assert triton_aio["labels"] == [label] * 3
    assert triton_aio["ids"] == ["0", "1", "2"]
    np.testing.assert_allclose(
        triton_aio["map"], triton["explained"]["values"]["attribution"], atol=1e-4
    )


def test_tritonclient_may_cancel(triton_aio, server):
    assert triton_aio["cancelled"]["error"] == "CancelledError"
    assert triton_aio["cancelled"]["seconds"] < 2
    assert (triton_aio["timed_out"], triton_aio["late"] in ("503", "504")) == ("TimeoutError", True)
    asyncio.run(eventually(lambda: given_up(server) >= 2))


@pytest.fixture(scope="session")
def document(server):
    """GET /openapi.json."""
    return server.client.get("/openapi.json").content


@pytest.fixture(scope="session")
def package(document, tmp_path_factory):
    """A folder with a client in Python that is generated from the document."""
    return generated_clients.python(document, tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="session")
def generated(server, package):
    """The answers to that client."""
    script = "tests/clients/call_generated.py"
    return json.loads(run(python_of("openapi"), script, server.url, IMAGE, package))


def test_a_generated_client_predicts_and_explains(generated, server):
    label = native(server, "/predict")["label"]
    assert [generated[call]["label"] for call in ("raw", "json")] == [label] * 2
    for call in ("form", "several"):
        assert [result["label"] for result in generated[call]["results"]] == [label] * 2
    assert generated["json"]["explanation"]["method"] == "grad_cam"
    assert generated["tensors"]["outputs"][2]["data"] == [label]


def test_a_generated_client_gets_problems(generated):
    assert generated["rejected"]["status"] == 415
    assert generated["rejected"]["code"] == "unsupported_format"


def test_kserves_client_finds_server_and_model(kserve):
    assert [kserve[call] for call in ("ready", "live", "model_ready", "v1_ready")] == [True] * 4


@pytest.mark.parametrize("call", ["binary", "json"])
def test_kserves_client_predicts_and_explains_over_v2(call, kserve, server):
    values, expected = kserve[call]["values"], native_map(server)
    assert values["label"] in (
        [native(server, "/predict")["label"]],
        [list(native(server, "/predict")["label"].encode())],
    )
    np.testing.assert_allclose(
        values["attribution"][0], expected, atol=1e-3 * np.abs(expected).max()
    )


def test_kserves_client_predicts_and_explains_over_v1(kserve, server):
    expected = native(server, "/predict")
    for answer in (kserve["predicted"], kserve["explained"]):
        assert [found["label"] for found in answer["predictions"]] == [expected["label"]] * 3
    assert [found["method"] for found in kserve["explained"]["explanations"]] == ["grad_cam"] * 3


def test_kserves_client_predicts_the_samples_of_kserve_and_torchserve(kserve, server):
    label = native(server, "/predict")["label"]
    labels = [found["predictions"][0]["label"] for found in kserve["sampled"]]
    assert labels[:2] == [label] * 2
    assert len(labels) == 3


def test_kserves_client_gives_up_and_gets_deadlines(kserve):
    assert kserve["hasty"] == "ReadTimeout"
    assert kserve["late"]["status"] in (503, 504)


def test_kserves_client_gets_sets_and_familiarity(kserve, server, embedded):
    is_trusted_as(kserve["trusted"]["values"], server, embedded.manifest.labels)


def test_kserves_client_gets_errors_with_status_and_message(kserve):
    assert (kserve["refused"]["status"], kserve["v1_refused"]["status"]) == (415, 400)
    assert "row 0" in kserve["refused"]["message"]
    assert "instance 0: the image of 3 characters is not base64" in kserve["v1_refused"]["message"]


@pytest.fixture(scope="session")
def triton_grpc(rpc_server, embedded, tmp_path_factory):
    """The answers to tritonclient's gRPC clients."""
    pixels = tmp_path_factory.mktemp("triton_grpc") / "pixels.npy"
    np.save(pixels, np.asarray(Image.open(IMAGE).resize((40, 36)))[None])
    address, script = f"127.0.0.1:{rpc_server.grpc_port}", "tests/clients/call_tritonclient_grpc.py"
    return json.loads(
        run(python_of("tritonclient"), script, address, embedded.manifest.name, IMAGE, pixels)
    )


def test_tritonclient_finds_server_and_model_over_grpc(triton_grpc, embedded):
    name = embedded.manifest.name
    assert [triton_grpc[call] for call in ("live", "ready", "model_ready")] == [True] * 3
    assert "statistics" in triton_grpc["server"]["extensions"]
    assert triton_grpc["model"]["versions"] == [embedded.manifest.version]
    assert (triton_grpc["config"]["name"], triton_grpc["config"]["max_batch_size"]) == (name, 64)
    names = [name + suffix for suffix in ("", ".logits", ".floats", ".files")]
    assert [each["name"] for each in triton_grpc["index"]["models"]] == names
    assert triton_grpc["load"] is None
    assert "FAILED_PRECONDITION" in triton_grpc["unload"]["status"]
    (stats,) = triton_grpc["statistics"]["model_stats"]
    assert int(stats["inference_stats"]["success"]["count"]) >= 4


def test_tritonclient_predicts_over_grpc(triton_grpc, rpc_server):
    expected, found = native(rpc_server, "/predict"), triton_grpc["encoded"]
    assert (found["id"], found["values"]["label"]) == ("seven", [expected["label"]] * 2)
    assert np.max(found["values"]["probabilities"], axis=1) == pytest.approx(
        [expected["probability"]] * 2, abs=1e-3
    )
    label = triton_grpc["pixels"]["values"]["label"]
    assert triton_grpc["classes"]["values"]["logits"][0].endswith(f":{label[0]}")
    assert triton_grpc["concurrent"] == [label] * 19


def test_tritonclient_explains_over_grpc(triton_grpc, rpc_server):
    found = np.array(triton_grpc["explained"]["values"]["attribution"])
    expected = native_map(rpc_server)
    np.testing.assert_allclose(found[0], expected, atol=1e-3 * np.abs(expected).max())
    parameters = triton_grpc["explained"]["outputs"][0]["parameters"]
    assert parameters["method"] == {"string_param": "integrated_gradients"}


def test_tritonclient_streams_and_cancels(triton_grpc):
    first, second, third = triton_grpc["streamed"]
    assert first == triton_grpc["pixels"]["values"]["label"]
    assert second.startswith("row 0: the 5 bytes look like text")
    assert third == triton_grpc["encoded"]["values"]["label"][:1]
    assert triton_grpc["cancelled"] == "StatusCode.CANCELLED"


def test_tritonclient_gets_errors_with_status_and_message_over_grpc(triton_grpc):
    found = {call: triton_grpc[call]["status"] for call in ("bad_image", "other_model", "memory")}
    assert found == {
        "bad_image": "StatusCode.INVALID_ARGUMENT",
        "other_model": "StatusCode.NOT_FOUND",
        "memory": "StatusCode.UNIMPLEMENTED",
    }
    assert triton_grpc["bad_image"]["message"].startswith("row 1: the 5 bytes look like text")
    assert triton_grpc["late"]["status"] in LATE


def test_kserves_client_predicts_and_explains_over_grpc(rpc_server, embedded):
    found = json.loads(
        run(
            python_of("kserve"),
            "tests/clients/call_kserve_grpc.py",
            f"127.0.0.1:{rpc_server.grpc_port}",
            embedded.manifest.name,
            IMAGE,
        )
    )
    assert [found[call] for call in ("ready", "live", "model_ready")] == [True] * 3
    label, expected = native(rpc_server, "/predict")["label"], native_map(rpc_server)
    assert found["predicted"]["id"] == "seven"
    for call in ("predicted", "explained"):
        assert found[call]["values"]["label"] == [label]
    np.testing.assert_allclose(
        found["explained"]["values"]["attribution"][0], expected, atol=1e-3 * np.abs(expected).max()
    )
    assert found["refused"]["status"] == "INVALID_ARGUMENT"
    assert "the 5 bytes look like text" in found["refused"]["message"]
    assert f"StatusCode.{found['late']['status']}" in LATE


@pytest.fixture(scope="session")
def bento(server, tmp_path_factory):
    """What BentoML's client was answered."""
    noise = tmp_path_factory.mktemp("bento") / "noise.png"
    noise.write_bytes(b"noise")
    return json.loads(
        run(sys.executable, "tests/clients/call_bentoml.py", server.url, IMAGE, MASK, noise)
    )


def test_bentomls_client_predicts(bento, server):
    expected = native(server, "/predict")["label"]
    assert [bento[call]["label"] for call in ("predicted", "both", "pillow")] == [expected] * 3
    assert (len(bento["both"]["top"]), bento["both"]["explanation"]["method"]) == (5, "grad_cam")


def test_bentomls_client_takes_no_open_file_which_the_documents_say(bento):
    assert bento["open_file"].startswith("AssertionError")


def test_calls_at_once_of_bentomls_client_are_answered_each_by_its_own(bento, server):
    assert bento["at_once"] == [native(server, "/predict")["label"]] * 3


def test_bentomls_client_predicts_several(bento):
    assert [result["image"]["format"] for result in bento["several"]["results"]] == ["JPEG", "JPEG"]


def test_bentomls_client_explains(bento, server):
    found, expected = bento["explained"]["explanation"]["map"], native_map(server)
    values = np.frombuffer(base64.b64decode(found["data"]), "<f4").reshape(found["shape"])
    np.testing.assert_allclose(values, expected, atol=1e-3 * np.abs(expected).max())


def test_bentomls_client_sends_masks(bento):
    assert bento["masked"]["explanation"]["method"] == "feature_ablation"


def test_bentomls_client_is_told_what_is_wrong(bento):
    assert "the 5 bytes look like text" in bento["bad_image"]
    assert "method is 'magic'" in bento["bad_method"]
    assert bento["bad_parameter"].startswith("TypeError")
    assert "stepz" in bento["bad_parameter"]


def test_the_example_of_grpc_runs(rpc_server):
    (example,) = [block for block in EXAMPLES if "tritonclient.grpc" in block]
    address = f"127.0.0.1:{rpc_server.grpc_port}"
    printed = run(python_of("tritonclient"), "-c", example.replace("127.0.0.1:3001", address))
    assert native(rpc_server, "/predict")["label"] in printed


@pytest.fixture
def ways(server, tmp_path):
    """URLs that lead to the server: straight, in one packet, in two; through nginx likewise."""
    with ExitStack() as running:
        relays = [
            running.enter_context(proxies.relay(server.port, cut))
            for cut in (proxies.cut_nowhere, proxies.cut_after_head)
        ]
        fronts = []
        for relay in relays:
            folder = tmp_path / str(relay)
            folder.mkdir()
            fronts.append(running.enter_context(proxies.nginx(folder, relay)))
        yield [f"http://127.0.0.1:{port}" for port in (server.port, *relays, *fronts)]


def test_the_jdks_client_predicts_and_explains_although_it_asks_for_an_upgrade(server, ways):
    java = shutil.which("java")
    if java is None or shutil.which("javac") is None:
        pytest.skip("no JDK is installed: scripts/packages default-jdk-headless")
    lines = run(java, "tests/clients/JdkClient.java", str(IMAGE), *ways).splitlines()
    assert [line[:4] for line in lines] == ["200 "] * 3 * len(ways)
    answers = [json.loads(line[4:]) for line in lines]
    label = native(server, "/predict")["label"]
    assert {answer["label"] for answer in answers} == {label}
    explained = [answer.get("explanation", {}).get("method") for answer in answers]
    assert explained == [None, "grad_cam", None] * len(ways)
