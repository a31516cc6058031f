"""Answers carry prediction sets, familiarity and the nearest reference images."""

import io

import numpy as np
import pytest
from PIL import Image

from support.images import draw, encode
from support.servers import Server

PNG = {"content-type": "image/png"}
GOOD = encode(draw("green", 48))


@pytest.fixture(scope="module")
def discs(bundle, drawn, tmp_path_factory):
    """The bundle of discs, served with its training images as reference images."""
    with Server(
        tmp_path_factory.mktemp("server"),
        bundle=str(bundle.folder),
        reference=str(drawn),
        workers=1,
    ) as server:
        yield server


def answered(response):
    assert response.status_code == 200, response.text
    return response.json()


def test_a_set_holds_the_predicted_class_and_grows_with_its_coverage(server):
    sizes = []
    for coverage in ("0.90", "0.95", "0.99"):
        found = answered(
            server.client.post(f"/predict?coverage={coverage}", content=GOOD, headers=PNG)
        )
        assert found["prediction_set"]["labels"][0] == found["label"]
        assert found["prediction_set"]["coverage"] == float(coverage)
        sizes.append(len(found["prediction_set"]["labels"]))
    assert sizes == sorted(sizes)


def test_a_set_may_be_by_class(server):
    found = answered(
        server.client.post("/predict?by_class=true&coverage=0.9", content=GOOD, headers=PNG)
    )
    assert found["prediction_set"]["by_class"] is True


def test_a_set_says_how_often_held_out_sets_like_it_were_right(server, embedded):
    for by_class in ("false", "true"):
        path = f"/predict?by_class={by_class}&coverage=0.99"
        found = answered(server.client.post(path, content=GOOD, headers=PNG))["prediction_set"]
        measured = found["measured"]
        low, high = measured["interval"]
        assert low <= measured["share"] <= high
        assert measured["least_size"] <= found["size"] <= (measured["most_size"] or 10)
        sets = embedded.manifest.prediction_sets
        counted = sets.like(found["size"], found["indices"][0], "0.99", by_class=found["by_class"])
        assert (measured["sets"], measured["share"]) == (counted.sets, counted.share)


def test_noise_is_unfamiliar_and_counted(server):
    noise = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    found = answered(server.client.post("/predict", content=noise, headers=PNG))
    assert found["familiarity"]["familiar"] is False
    assert found["familiarity"]["score"] < found["familiarity"]["threshold"]
    lines = server.client.get("/metrics").text.splitlines()
    for name in ("candor_unfamiliar_total", "candor_familiarity_count"):
        assert float(next(line for line in lines if line.startswith(name)).split()[-1]) >= 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("coverage=0.5", "coverage is '0.5'; it is one of 0.90, 0.95, 0.99"),
        ("coverage=much", "coverage is 'much'; it is one of"),
        ("by_class=perhaps", "by_class is 'perhaps'; give true or false"),
        ("nearest=11", "nearest is 11; give 0 to 10"),
        ("nearest=-1", "nearest is -1; give 0 to 10"),
    ],
)
def test_a_bad_value_is_refused_with_the_possible_ones(query, words, server):
    refused = server.client.post(f"/predict?{query}", content=GOOD, headers=PNG)
    assert refused.status_code == 422
    assert words in refused.json()["detail"]


def test_the_nearest_reference_images_are_listed_and_served(discs):
    found = answered(discs.client.post("/predict?nearest=3", content=GOOD, headers=PNG))["nearest"]
    assert [entry["distance"] for entry in found] == sorted(entry["distance"] for entry in found)
    assert found[0]["label"] == "green"
    assert found[0]["name"].startswith("train/green/")
    shown = discs.client.get(found[0]["picture"])
    assert shown.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(shown.content)).size == (32, 32)
    assert "/reference/{row}" in discs.client.get("/openapi.json").json()["paths"]
    missing = discs.client.get("/reference/99999")
    assert missing.status_code == 404
    assert "there is no reference image 99999" in missing.json()["detail"]


def test_without_their_folder_reference_images_are_only_listed(server):
    found = answered(server.client.post("/predict?nearest=2", content=GOOD, headers=PNG))["nearest"]
    assert [set(entry) for entry in found] == [{"index", "label", "name", "distance"}] * 2
    assert server.client.get("/reference/0").status_code == 404
