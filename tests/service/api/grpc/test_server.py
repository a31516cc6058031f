"""gRPC answers as HTTP does: predictions, explanations, errors, deadlines, keys, health."""

import re
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from service import errors
from service.api.access.keys import make
from service.api.grpc import COUNTED, SERVICE, messages, status
from support import rpc
from support.images import draw, encode
from support.servers import ROOT, Server, free_port

PNG = encode(draw(size=64))
PIXELS = np.random.default_rng(7).integers(0, 256, (2, 32, 32, 3), np.uint8)
LONG = {"method": "lime", "samples": 2_000}


@pytest.fixture
def client(rpc_server):
    with rpc.Client(rpc_server.grpc_port) as one:
        yield one


@pytest.fixture
def model(embedded):
    return embedded.manifest.name


def over_http(server, model, message):
    """The answer to the same request over HTTP, as JSON."""
    document = {
        "inputs": [
            {
                "name": "pixels",
                "datatype": "UINT8",
                "shape": list(PIXELS.shape),
                "data": PIXELS.ravel().tolist(),
            }
        ],
        "outputs": [
            {
                "name": output.name,
                "parameters": {
                    name: messages.value_of(value) for name, value in output.parameters.items()
                },
            }
            for output in message.outputs
        ],
    }
    answer = server.client.post(f"/v2/models/{model}/infer", json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()


OUTPUTS = {
    "logits": {},
    "probabilities": {},
    "label": {},
    "prediction_set": {"coverage": "0.9"},
    "familiarity": {},
    "attribution": {"method": "saliency", "target": "0"},
    "quality": {},
}


def test_every_output_is_that_of_http_with_its_parameters(client, rpc_server, model):
    message = rpc.request(model, PIXELS, OUTPUTS)
    found, expected = client.call("ModelInfer", message), over_http(rpc_server, model, message)
    values = rpc.values(found)
    for output, theirs in zip(found.outputs, expected["outputs"], strict=True):
        assert (output.name, output.datatype, list(output.shape)) == (
            theirs["name"],
            theirs["datatype"],
            theirs["shape"],
        )
        parameters = {name: messages.value_of(value) for name, value in output.parameters.items()}
        assert parameters == theirs.get("parameters", {})
        if output.datatype == "BYTES":
            assert values[output.name] == theirs["data"]
        else:
            np.testing.assert_allclose(
                values[output.name].ravel(), np.array(theirs["data"], float), atol=1e-4
            )


def test_typed_contents_are_answered_by_typed_contents_and_raw_by_raw(client, model):
    raw = client.call("ModelInfer", rpc.request(model, PIXELS))
    typed = rpc.request(model, PIXELS)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.uint_contents.extend(PIXELS.ravel().tolist())
    answer = client.call("ModelInfer", typed)
    assert raw.raw_output_contents
    assert not answer.raw_output_contents
    np.testing.assert_allclose(rpc.values(answer)["logits"], rpc.values(raw)["logits"], atol=1e-4)
    assert rpc.values(answer)["label"] == rpc.values(raw)["label"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floats_are_the_networks_own_input(dtype, client, model, embedded):
    mean, std = (
        np.array(each, np.float32)
        for each in (embedded.manifest.input.mean, embedded.manifest.input.std)
    )
    x = np.moveaxis((PIXELS.astype(np.float32) / 255 - mean) / std, 3, 1)
    given = rpc.request(model, np.ascontiguousarray(x.astype(dtype)))
    values = [
        rpc.values(client.call("ModelInfer", each)) for each in (given, rpc.request(model, PIXELS))
    ]
    np.testing.assert_allclose(values[0]["logits"], values[1]["logits"], atol=1e-4)


def test_an_encoded_image_is_predicted_as_typed_bytes_and_as_raw(client, model):
    typed = rpc.request(model, PNG)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.bytes_contents.append(PNG)
    labels = [
        rpc.values(client.call("ModelInfer", each))["label"]
        for each in (typed, rpc.request(model, PNG))
    ]
    assert labels[0] == labels[1]


def test_the_best_classes_come_as_texts(client, model):
    message = rpc.request(model, PIXELS, {"probabilities": {"classification": 3}})
    texts = rpc.values(client.call("ModelInfer", message))["probabilities"]
    assert len(texts) == 6
    assert all(len(text.split(":")) == 3 for text in texts)


def test_ids_come_back_and_unknown_parameters_are_warned_of(client, model):
    message = rpc.request(model, PIXELS, surprise=1)
    message.id = "seven"
    call = client.method("ModelInfer").with_call
    answer, done = call(message, timeout=60, metadata=[("x-request-id", "my-id")])
    assert answer.id == "seven"
    assert "surprise" in answer.parameters["warnings"].string_param
    assert dict(done.trailing_metadata())["x-request-id"] == "my-id"


def test_live_ready_metadata_config_statistics_and_index_are_those_of_http(
    client, rpc_server, model
):
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    named = {
        name: messages.request_of(name)(name=model)
        for name in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
    }
    assert client.call("ModelReady", named["ModelReady"]).ready
    http = rpc_server.client
    assert list(client.call("ServerMetadata").extensions) == http.get("/v2").json()["extensions"]
    metadata, there = (
        client.call("ModelMetadata", named["ModelMetadata"]),
        http.get(f"/v2/models/{model}").json(),
    )
    assert [output.name for output in metadata.outputs] == [
        output["name"] for output in there["outputs"]
    ]
    assert list(metadata.versions) == there["versions"]
    config = client.call("ModelConfig", named["ModelConfig"]).config
    assert (config.max_batch_size, config.backend) == (64, "onnxruntime")
    before = client.call("ModelStatistics", named["ModelStatistics"]).model_stats[0]
    client.call("ModelInfer", rpc.request(model, PIXELS))
    after = client.call("ModelStatistics", named["ModelStatistics"]).model_stats[0]
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert [each.name for each in client.call("RepositoryIndex").models] == [
        model + suffix for suffix in ("", ".logits", ".floats", ".files")
    ]


def broken(model, change):
    message = rpc.request(model, PIXELS)
    change(message)
    return message


def name_twice(message):
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])


BAD = {
    "no bytes of a message": (b"\xff\xff", "INVALID_ARGUMENT", "no inference.ModelInferRequest"),
    "no image": (
        lambda m: m.raw_input_contents.append(b""),
        "INVALID_ARGUMENT",
        "2 elements for 1 inputs",
    ),
    "no data": (
        lambda m: m.ClearField("raw_input_contents"),
        "INVALID_ARGUMENT",
        "has no data: give contents.uint_contents or raw_input_contents",
    ),
    "both": (
        lambda m: m.inputs[0].contents.uint_contents.append(1),
        "INVALID_ARGUMENT",
        "has contents, and raw_input_contents",
    ),
    "two inputs": (name_twice, "INVALID_ARGUMENT", "2 inputs were sent, and one is taken"),
    "too few bytes": (
        lambda m: m.raw_input_contents.__setitem__(0, b"123"),
        "INVALID_ARGUMENT",
        "the input has 3 values, but its shape has 6,144",
    ),
    "another type": (
        lambda m: setattr(m.inputs[0], "datatype", "BF16"),
        "INVALID_ARGUMENT",
        "the input is 'BF16'",
    ),
    "negative shape": (
        lambda m: m.inputs[0].shape.__setitem__(0, -1),
        "INVALID_ARGUMENT",
        "the input's shape is [-1, 32, 32, 3]",
    ),
    "another model": (
        lambda m: setattr(m, "model_name", "other"),
        "NOT_FOUND",
        "there is no model 'other'",
    ),
    "another version": (lambda m: setattr(m, "model_version", "7"), "NOT_FOUND", "of version '7'"),
    "another output": (
        lambda m: m.outputs.add(name="x"),
        "INVALID_ARGUMENT",
        "there is no output 'x'",
    ),
    "another method": (
        lambda m: messages.set_parameters(
            m.outputs.add(name="attribution").parameters, {"method": "magic"}
        ),
        "INVALID_ARGUMENT",
        "method is 'magic'",
    ),
    "a bad deadline": (
        lambda m: messages.set_parameters(m.parameters, {"deadline_ms": 0}),
        "INVALID_ARGUMENT",
        "deadline_ms is 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_with_a_code_and_the_words_of_http(case, client, model):
    change, code, words = BAD[case]
    message = change if isinstance(change, bytes) else broken(model, change)
    found = client.refused("ModelInfer", message)
    assert found[0] == code
    assert words in found[1]


def test_an_image_that_is_none_is_named_by_its_row(client, model):
    code, words = client.refused("ModelInfer", rpc.request(model, b"noise"))
    assert code == "INVALID_ARGUMENT"
    assert words.startswith("row 0: the 5 bytes look like text")


def test_a_call_without_a_message_is_named(client):
    method = client.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        method(iter(()), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the call has no message: send one"


def test_a_message_above_the_limit_is_rejected(client, model):
    code, words = client.refused("ModelInfer", rpc.request(model, bytes(11 * 2**20)))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in words


def test_a_compressed_message_is_taken_and_a_bomb_is_not_unpacked(client, rpc_server, model):
    assert client.call("ModelInfer", rpc.request(model, PIXELS), compression=grpc.Compression.Gzip)
    before = peak_bytes(rpc_server.worker())
    bomb = rpc.request(model, bytes(2**25))
    code, _ = client.refused("ModelInfer", bomb, compression=grpc.Compression.Gzip)
    assert code == "RESOURCE_EXHAUSTED"
    assert peak_bytes(rpc_server.worker()) < before + 2**24


def peak_bytes(pid):
    with Path(f"/proc/{pid}/status").open() as status_file:
        return next(int(line.split()[1]) * 1024 for line in status_file if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    "name",
    [
        "TraceSetting",
        "LogSettings",
        "SystemSharedMemoryStatus",
        "CudaSharedMemoryRegister",
    ],
)
def test_what_is_not_served_is_refused_in_words(name, client):
    method = client.channel.unary_unary(f"/{SERVICE}/{name}")
    with pytest.raises(grpc.RpcError) as caught:
        method(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details().endswith(f"{name} is not served")


def test_models_are_loaded_and_unloaded_over_grpc(client, model):
    def call(name, field):
        method = client.channel.unary_unary(f"/{SERVICE}/RepositoryModel{name}")
        asked = messages.request_of(f"RepositoryModel{name}")(**{field: model})
        return method(asked.SerializeToString(), timeout=60)

    for field in ("model_name", "repository_name"):
        assert call("Load", field) == b"", "it is served already"
    with pytest.raises(grpc.RpcError) as caught:
        call("Unload", "model_name")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "cannot be unloaded" in caught.value.details()


def test_every_error_has_a_status():
    leaves = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.RequestError)
    }
    assert set(status.CODES) == leaves - {errors.RequestError}


def test_the_documented_table_has_every_error_under_its_status():
    section = (ROOT / "docs" / "clients.md").read_text().partition("## gRPC")[2]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    for error, code in status.CODES.items():
        (row,) = [row for row in rows if f"`{error.code}`" in row]
        assert f"`{code.name}`" in row.split("|")[1], error


def test_the_documented_tests_exist():
    section = (ROOT / "docs" / "clients.md").read_text().partition("## gRPC")[2]
    named = re.findall(r"`(test_\w+)`", section)
    assert len(named) >= 12
    assert set(named) <= set(globals())


def test_a_deadline_ends_a_call_and_frees_its_place(client, rpc_server, model):
    started = time.monotonic()
    message = rpc.request(model, PIXELS[:1], {"attribution": LONG})
    code, _ = client.refused("ModelInfer", message, seconds=0.003)  # no answer is as quick
    assert code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    assert time.monotonic() - started < 2
    assert settles(rpc_server)


def test_a_deadline_makes_an_explanation_cheaper(client, model):
    explained = {"attribution": {"method": "lime", "samples": 4_096}}
    answer = client.call("ModelInfer", rpc.request(model, PIXELS[:1], explained), seconds=1.5)
    assert answer.outputs[0].parameters["degraded"].string_param.startswith("row 0: ")


def settles(server):
    """True once nothing is in flight or in a queue, within two seconds."""
    names = ("candor_requests_in_flight", 'candor_queue_depth{lane="explain"}')
    end = time.monotonic() + 2
    while time.monotonic() < end:
        if all(server.metric(name) == 0 for name in names):
            return True
        time.sleep(0.05)
    return False


def test_a_cancelled_call_gives_up_its_place(client, rpc_server, model):
    explained = rpc.request(model, PIXELS, {"attribution": LONG}, deadline_ms=60_000)
    lost = f'candor_requests_total{{code="499",route="{COUNTED[-2]}"}}'
    calls = [client.method("ModelInfer").future(explained, timeout=60) for _ in range(4)]
    time.sleep(0.5)
    for call in calls:
        call.cancel()
    assert settles(rpc_server)
    assert rpc_server.metric(lost) >= 3


def test_a_stream_answers_in_order_and_goes_on_after_an_error(client, model):
    requests = [rpc.request(model, PIXELS[:1]) for _ in range(20)]
    requests[7] = rpc.request(model, b"noise")
    for number, request in enumerate(requests):
        request.id = str(number)
    answers = list(client.stream(requests))
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(20)]
    failed = [answer.error_message for answer in answers if answer.error_message]
    assert len(failed) == 1
    assert "the 5 bytes look like text" in failed[0]
    assert (
        rpc.values(answers[0].infer_response)["label"]
        == rpc.values(answers[19].infer_response)["label"]
    )


def test_a_stream_explains_and_may_be_cancelled(client, rpc_server, model):
    short = rpc.request(model, PIXELS[:1], {"attribution": {"method": "saliency"}})
    (answer,) = client.stream([short])
    assert rpc.values(answer.infer_response)["attribution"].shape == (1, 32, 32)
    ended = threading.Event()

    def requests():
        yield rpc.request(model, PIXELS, {"attribution": LONG}, deadline_ms=60_000)
        ended.wait(20)

    call = client.stream(requests())
    time.sleep(0.3)
    call.cancel()
    ended.set()
    assert settles(rpc_server)


def test_health_and_reflection(client, rpc_server):
    health = health_pb2_grpc.HealthStub(client.channel)
    for name in ("", SERVICE):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    database = ProtoReflectionDescriptorDatabase(client.channel)
    assert {SERVICE, "grpc.health.v1.Health"} < set(database.get_services())
    file = database.FindFileContainingSymbol(SERVICE)
    assert "ModelInferRequest" in [message.name for message in file.message_type]


def test_calls_are_counted_and_timed_as_requests(client, rpc_server, model):
    method, counter = COUNTED[-2], 'candor_requests_total{{code="{}",route="{}"}}'
    client.call("ModelInfer", rpc.request(model, PIXELS))
    before = rpc_server.metric(counter.format(200, method))
    client.call("ModelInfer", rpc.request(model, PIXELS))
    client.refused("ModelInfer", rpc.request("other", PIXELS))
    assert rpc_server.metric(counter.format(200, method)) == before + 1
    assert rpc_server.metric(counter.format(404, method)) >= 1
    assert rpc_server.metric(f'candor_request_duration_seconds_count{{route="{method}"}}') >= 2


def test_without_a_port_nothing_of_grpc_is_loaded(server, rpc_server):
    loaded = [
        "cygrpc" in Path(f"/proc/{each.worker()}/maps").read_text() for each in (server, rpc_server)
    ]
    assert loaded == [False, True]


SCOPED = {scope: make(scope, (scope,)) for scope in ("predict", "explain", "admin")}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyed")
    keys = folder / "keys"
    keys.write_text("\n".join(line for _, line in SCOPED.values()))
    keys.chmod(0o600)
    port = free_port()
    with Server(folder, workers=1, grpc_port=port, keys=keys) as server:
        server.grpc_port = port
        yield server


def bearer(scope):
    return [("authorization", f"Bearer {SCOPED[scope][0]}")] if scope in SCOPED else []


def test_keys_open_what_their_scopes_name(keyed, model):
    predict, explain = rpc.request(model, PIXELS), rpc.request(model, PIXELS, {"attribution": {}})
    with rpc.Client(keyed.grpc_port) as client:
        assert client.call("ServerLive").live  # probes need none
        health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest())
        assert client.refused("ModelInfer", predict) == (
            "UNAUTHENTICATED",
            "the request has no key: send `Authorization: Bearer KEY`",
        )
        wrong = [("authorization", "Bearer wrong")]
        assert client.refused("ServerMetadata", metadata=wrong)[0] == "UNAUTHENTICATED"
        assert client.call("ModelInfer", predict, metadata=bearer("predict")).outputs
        assert client.refused("ModelInfer", explain, metadata=bearer("predict")) == (
            "PERMISSION_DENIED",
            "the key 'predict' lacks the scope explain: use a key that has it",
        )
        assert (
            client.refused("ModelInfer", predict, metadata=bearer("admin"))[0]
            == "PERMISSION_DENIED"
        )
        assert client.call("ServerMetadata", metadata=bearer("admin")).name == "candor"
        with pytest.raises(grpc.RpcError) as caught:
            list(client.stream([predict]))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError):
            ProtoReflectionDescriptorDatabase(client.channel).get_services()
