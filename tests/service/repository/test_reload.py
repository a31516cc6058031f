"""New versions while a server answers: swapped whole, or kept out with the reason."""

import json
import shutil
import sys
import time

import httpx
import pytest

from support.callers import Callers
from support.groups import memory_group
from support.images import draw, encode
from support.servers import Server
from support.versions import make_version, point, replace_file

IMAGE = encode(draw("red", size=32))
LOAD = "/v2/repository/models/cats/load"
WORKERS = 2


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """A model of two versions, of which the first is served."""
    folder = tmp_path_factory.mktemp("models") / "cats"
    versions = {
        label: make_version(folder / label, temperature=temperature)
        for label, temperature in (("one", 1.0), ("two", 2.0))
    }
    point(folder, "one")
    return folder, versions


@pytest.fixture(scope="module")
def served(cats, tmp_path_factory):
    folder, _ = cats
    with Server(
        tmp_path_factory.mktemp("reload"),
        ready_seconds=60,
        bundle=folder,
        model_name="cats",
        workers=WORKERS,
    ) as server:
        server.wait_for_processes(WORKERS)
        yield server


def loads(server, outcome):
    """The value of candor_model_loads_total; 0 where nothing was counted yet."""
    name = f'candor_model_loads_total{{model="cats",outcome="{outcome}"}} '
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(name))


def versions_now(server, of=20):
    """The versions that new connections, of both workers, are answered by."""
    return {
        httpx.post(f"{server.url}/predict", content=IMAGE, timeout=60).json()["model"]["version"]
        for _ in range(of)
    }


def test_versions_are_swapped_under_load_and_no_request_is_lost(cats, served):
    folder, versions = cats
    point(folder, "one")
    assert served.client.post(LOAD).status_code == 200
    before = loads(served, "replaced")
    with Callers(served.port, 4, IMAGE, lambda: "/predict") as callers:
        for label in ("two", "one", "two"):
            point(folder, label)
            answer = served.client.post(LOAD)
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"name": "cats", "version": versions[label]}
            assert versions_now(served) == {versions[label]}
    assert {seen.status for seen in callers.seen} == {200}
    found = {(seen.version, seen.probability) for seen in callers.seen}
    # The temperature is the version's: no answer is made by two of them.
    assert sorted(version for version, _ in found) == sorted(versions.values())
    assert len({probability for _, probability in found}) == len(versions)
    text = served.client.get("/metrics").text
    for label, value in (("one", 0), ("two", 1)):
        assert f'candor_model_info{{name="cats",version="{versions[label]}"}} {value}.0' in text
    assert loads(served, "replaced") - before == 3 * WORKERS
    assert f"candor_models_in_memory {WORKERS}.0" in text
    assert (
        f'candor_model_requests_total{{code="200",model="cats",version="{versions["one"]}"}}'
        in text
    )


def test_a_version_that_is_served_already_is_not_loaded_again(cats, served):
    folder, versions = cats
    point(folder, "two")
    for _ in range(2):
        assert served.client.post(LOAD).json()["version"] == versions["two"]
        before = loads(served, "loaded")
    assert loads(served, "loaded") == before


def cut_graph(folder):
    replace_file(folder, "predict.onnx", (folder / "predict.onnx").read_bytes()[:1_000])


def no_graph(folder):
    (folder / "predict.onnx").unlink()


def no_json(folder):
    (folder / "manifest.json").write_text("{")


def other_labels(folder):
    document = json.loads((folder / "manifest.json").read_text())
    document["labels"] = document["labels"][::-1]
    (folder / "manifest.json").write_text(json.dumps(document))


def other_answer(folder):
    document = json.loads((folder / "manifest.json").read_text())
    index, logit = document["self_test"]
    document["self_test"] = [index, logit + 1.0]
    (folder / "manifest.json").write_text(json.dumps(document))


def no_schema(folder):
    document = json.loads((folder / "manifest.json").read_text())
    document["schema_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(document))


def nothing(folder):
    shutil.rmtree(folder)


def no_onnx(folder):
    import hashlib

    content = b"no graph at all"
    replace_file(folder, "predict.onnx", content)
    document = json.loads((folder / "manifest.json").read_text())
    document["files"]["predict.onnx"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "length": len(content),
    }
    document["files"].pop("report.json", None)
    (folder / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (cut_graph, "the manifest says"),
        (no_graph, "is missing"),
        (no_json, "no manifest"),
        (other_labels, "has other labels"),
        (other_answer, "self-test"),
        (no_schema, "99"),
        (nothing, "names 'bad'"),
        (no_onnx, "trial"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_version_leaves_the_old_one(cats, served, breaks, words):
    folder, versions = cats
    point(folder, "two")
    assert served.client.post(LOAD).status_code == 200
    bad = folder / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    make_version(bad, temperature=3.0)
    breaks(bad)
    point(folder, "bad")
    before = loads(served, "failed")
    answer = served.client.post(LOAD)
    assert answer.status_code == 409
    assert words in answer.json()["error"]
    assert versions_now(served) == {versions["two"]}
    assert loads(served, "failed") == before + 1
    assert "served as before" in served.log.read_text()


def test_the_default_model_cannot_be_unloaded(served):
    answer = served.client.post("/v2/repository/models/cats/unload")
    assert answer.status_code == 409
    assert "cannot be unloaded" in answer.json()["error"]


def test_a_version_without_room_is_refused(tmp_path):
    folder = tmp_path / "cats"
    versions = [make_version(folder / str(n), temperature=float(n)) for n in (1, 2)]
    point(folder, "1")
    with memory_group(2**30) as group:
        if group is None:
            pytest.skip("this machine allows no control groups")
        command = group.command(sys.executable, "-m", "service", "serve")
        settings = {"bundle": folder, "model_name": "cats", "workers": 1}
        with Server(tmp_path, command, ready_seconds=60, **settings) as server:
            for label in ("2", "1"):  # both pass their trials
                point(folder, label)
                assert server.client.post(LOAD).status_code == 200
            group.limit(int(server.metric("candor_memory_bytes")) + 2**20)
            point(folder, "2")
            answer = server.client.post(LOAD)
            group.limit(2**30)
            assert answer.status_code == 409
            assert "give the service more memory" in answer.json()["error"]
            assert versions_now(server, of=2) == {versions[0]}


def test_a_pointer_is_followed_by_itself(tmp_path):
    folder = tmp_path / "cats"
    versions = [make_version(folder / str(n), temperature=float(n)) for n in (1, 2)]
    point(folder, "1")
    with Server(tmp_path, bundle=folder, workers=1, reload_seconds=0.2, ready_seconds=60) as server:
        assert versions_now(server, of=1) == {versions[0]}
        point(folder, "2")
        end = time.monotonic() + 60
        while versions_now(server, of=1) != {versions[1]}:
            assert time.monotonic() < end
            time.sleep(0.2)
