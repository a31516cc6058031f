"""Several models in one server: each by its name, the least used ones out of memory."""

import httpx
import pytest

from support.images import draw, encode
from support.servers import Server
from support.versions import make_version

IMAGE = encode(draw("red", size=32))
NAMES = ("ants", "bees", "cats", "dogs")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A server of five models, which has room for one beside the default one."""
    folder = tmp_path_factory.mktemp("zoo")
    versions = {
        name: make_version(folder / name, temperature=1.0 + number)
        for number, name in enumerate(NAMES)
    }
    (folder / "broken").mkdir()
    home = tmp_path_factory.mktemp("home")
    with Server(home, models=folder, model_memory=2**20, workers=1) as server:
        yield server, versions


def test_every_model_answers_by_its_name(zoo):
    server, versions = zoo
    for name in (*NAMES, *reversed(NAMES)):
        answer = server.client.post(f"/models/{name}/predict", content=IMAGE)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == {"name": name, "version": versions[name]}
    temperatures = {
        name: server.client.get(f"/models/{name}/model").json()["temperature"] for name in NAMES
    }
    assert list(temperatures.values()) == [1.0, 2.0, 3.0, 4.0]
    assert server.client.post("/predict", content=IMAGE).json()["model"]["name"] == "cifar10"


def test_memory_is_bounded_by_letting_models_go(zoo):
    server, _ = zoo
    for name in NAMES:
        server.client.post(f"/models/{name}/predict", content=IMAGE)
    text = server.client.get("/metrics").text
    assert 'outcome="evicted"' in text
    in_memory = server.metric("candor_models_in_memory")
    assert in_memory == 2


def test_the_protocols_know_all_names(zoo):
    server, versions = zoo
    assert server.client.get("/v1/models").json()["models"] == ["cifar10", *NAMES, "broken"][
        :1
    ] + sorted([*NAMES, "broken"])
    found = server.client.get("/v2/models/bees").json()
    assert (found["name"], found["versions"]) == ("bees", [versions["bees"]])
    body = {"instances": [{"b64": __import__("base64").b64encode(IMAGE).decode()}]}
    answer = server.client.post("/v1/models/dogs:predict", json=body)
    assert answer.status_code == 200, answer.text
    index = server.client.post("/v2/repository/index").json()
    states = {entry["name"]: entry["state"] for entry in index}
    assert states["broken"] == "UNAVAILABLE"
    assert states["cats.logits"] == states["cifar10"] == "READY"


def test_a_version_has_a_path(zoo):
    server, versions = zoo
    good = f"/models/cats/versions/{versions['cats']}/predict"
    assert server.client.post(good, content=IMAGE).json()["model"]["version"] == versions["cats"]
    answer = server.client.post("/models/cats/versions/0123/predict", content=IMAGE)
    assert answer.status_code == 404
    assert versions["cats"] in answer.json()["detail"]


def test_a_model_that_is_missing_or_broken_says_so(zoo):
    server, _ = zoo
    answer = server.client.post("/models/lions/predict", content=IMAGE)
    assert answer.status_code == 404
    assert "ants" in answer.json()["detail"]
    answer = server.client.post("/models/broken/predict", content=IMAGE)
    assert answer.status_code == 503
    assert "cannot be loaded" in answer.json()["detail"]


def test_models_are_unloaded_and_come_back(zoo):
    server, versions = zoo
    place = "/v2/repository/models/ants"
    assert server.client.post(f"{place}/unload").status_code == 200
    answer = server.client.post("/models/ants/predict", content=IMAGE)
    assert answer.status_code == 404
    assert "load" in answer.json()["detail"]
    assert server.client.post(f"{place}/load").json()["version"] == versions["ants"]
    assert server.client.post("/models/ants/predict", content=IMAGE).status_code == 200


def test_the_models_are_listed(zoo):
    server, versions = zoo
    found = server.client.get("/models").json()
    assert found["default"] == "cifar10"
    listed = {model["name"]: model for model in found["models"]}
    assert listed["bees"]["versions"] == [versions["bees"]]
    assert listed["broken"]["state"] == "UNAVAILABLE"
    assert "no bundle" in listed["broken"]["reason"]


def test_explanations_and_files_are_the_models_own(zoo):
    server, _ = zoo
    answer = server.client.post("/models/bees/explain?method=grad_cam", content=IMAGE)
    assert answer.json()["explanation"]["method"] == "grad_cam"
    sample = server.client.get("/models/bees/model").json()["samples"][0]["file"]
    assert server.client.get(f"/models/bees/model/samples/{sample}").status_code == 200
    answer = httpx.post(f"{server.url}/models/bees/predict?neighbours=1", content=IMAGE)
    assert answer.status_code == 200
