"""A new version beside the served one: compared by labels and by maps, promoted or rolled back."""

import json
import math
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest

from service.bundle.manifest import MANIFEST, Manifest
from service.repository.rollout import Report, correlation
from service.schedule.pipeline import Compared
from service.telemetry.intervals import mean_interval, wilson
from service.telemetry.metrics import Metrics
from service.telemetry.versions import DISTANCES
from support.images import COLOURS, draw, encode
from support.servers import Server
from support.versions import point

IMAGES = [encode(draw(list(COLOURS)[n % 3], seed=n)) for n in range(30)]
SECONDS = 60  # within which a broken version must have been rolled back


@pytest.fixture(scope="module")
def discs(bundle, drawn, dataset, recipe, tmp_path_factory):
    """A model of three versions: the served one, one trained anew, and one on wrong labels."""
    from training.export.bundle import make_bundle
    from training.fit.loop import train

    folder = tmp_path_factory.mktemp("discs")
    (folder / "served").symlink_to(bundle.folder)
    wrong = replace(dataset.training, labels=(dataset.training.labels + 1) % 3)
    for number, (name, taught) in enumerate(
        {"retrained": dataset, "broken": replace(dataset, training=wrong)}.items(), start=1
    ):
        seeded = replace(recipe, seed=recipe.seed + number)
        found = train(taught, str(drawn), seeded, folder / f".{name}", accelerator="cpu")
        make_bundle(found, dataset, folder / name, "discs")
    point(folder, "served")
    versions = {
        name: Manifest.parse((folder / name / MANIFEST).read_bytes()).version
        for name in ("served", "retrained", "broken")
    }
    return folder, versions


@pytest.fixture(scope="module")
def served(discs, tmp_path_factory):
    folder, _ = discs
    home = tmp_path_factory.mktemp("rollout")
    with Server(home, ready_seconds=60, bundle=folder, workers=2) as server:
        server.wait_for_processes(2)
        yield server


def ask(server, count=1, path="/predict"):
    """The versions that answer, over a connection each, so that both workers do."""
    found = []
    for number in range(count):
        answer = httpx.post(server.url + path, content=IMAGES[number % len(IMAGES)], timeout=60)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["model"]["version"])
    return found


def begin(server, **fields):
    answer = server.client.post("/models/discs/rollout", json=fields)
    assert answer.status_code == 200, answer.text


def comparison(server, version=""):
    query = f"?version={version}" if version else ""
    return server.client.get(f"/models/discs/comparison{query}").json()


def ask_until(server, holds):
    """Asks until `holds()` is true; returns what it is, and the seconds that it took."""
    started = time.monotonic()
    while not (found := holds()):
        assert time.monotonic() - started < SECONDS, str(comparison(server))
        ask(server, 10)
    return found, time.monotonic() - started


def test_a_shadow_tells_a_retrained_version_from_a_broken_one(served, discs):
    _, versions = discs
    good = {"version": "retrained", "mode": "shadow", "share": 1.0, "least_images": 40}
    begin(served, **good)
    found, _ = ask_until(served, lambda: (report := comparison(served))["images"] >= 40 and report)
    assert found["rollout"]["mode"] == "shadow"
    assert set(ask(served, 5)) == {versions["served"]}, "a shadow answers nothing"
    assert found["label_agreement"]["low"] > 0.8
    assert found["map_correlation"]["value"] > 0.5
    begin(served, **good | {"version": versions["broken"], "least_maps": -1.0})
    ended, seconds = ask_until(served, lambda: comparison(served, versions["broken"])["ended"])
    assert "labels agree" in ended
    assert seconds < SECONDS
    broken = comparison(served, versions["broken"])
    assert broken["label_agreement"]["high"] < 0.8
    assert broken["map_correlation"]["value"] < found["map_correlation"]["value"] - 0.2
    assert set(ask(served, 5)) == {versions["served"]}
    assert (
        'candor_rollouts_ended_total{by="guard",model="discs"} '
        in httpx.get(f"{served.url}/metrics").text
    )


def test_the_guard_sees_maps_too(served, discs):
    _, versions = discs
    begin(served, version="broken", share=1.0, least_images=20, least_labels=0.0, least_maps=0.9)
    ended, _ = ask_until(served, lambda: comparison(served, versions["broken"])["ended"])
    assert "maps correlate" in ended


def test_a_canary_answers_its_share_and_is_promoted(served, discs):
    folder, versions = discs
    begin(served, version="retrained", mode="canary", share=0.5, least_images=10_000)
    ask_until(served, lambda: versions["retrained"] in ask(served, 5))
    answered = ask(served, 100)
    assert 25 <= answered.count(versions["retrained"]) <= 75
    path = f"/models/discs/versions/{versions['served']}/predict"
    assert set(ask(served, 5, path)) == {versions["served"]}
    answer = served.client.post("/models/discs/promote")
    assert answer.json() == {"model": "discs", "version": versions["retrained"]}
    assert set(ask(served, 10)) == {versions["retrained"]}
    assert (folder / "current").read_text().strip() == "retrained"
    point(folder, "served")
    assert served.client.post("/v2/repository/models/discs/load").status_code == 200
    assert set(ask(served, 10)) == {versions["served"]}


def test_a_rollout_is_rolled_back_when_asked(served, discs):
    _, versions = discs
    begin(served, version="retrained", mode="canary", share=1.0)
    ask_until(served, lambda: versions["retrained"] in ask(served, 5))
    assert served.client.post("/models/discs/rollback").status_code == 200
    time.sleep(1)
    assert set(ask(served, 10)) == {versions["served"]}
    assert served.client.post("/models/discs/rollback").status_code == 409


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"version": "none"}, 404, "give one beside the served"),
        ({"version": "served"}, 409, "which is served"),
        ({"version": "retrained", "mode": "loud"}, 422, "canary or shadow"),
        ({"version": "retrained", "share": 2}, 422, "a number from 0 to 1"),
        ({"version": "retrained", "share": True}, 422, "a number from 0 to 1"),
        ([], 422, "no JSON object"),
    ],
)
def test_a_bad_rollout_says_why(served, fields, status, words):
    answer = served.client.post("/models/discs/rollout", content=json.dumps(fields))
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_an_unknown_field_is_ignored_with_a_warning(served):
    fields = {"version": "retrained", "part": 1}
    answer = served.client.post("/models/discs/rollout", json=fields)
    assert answer.status_code == 200
    assert "'part'" in answer.json()["warnings"][0]
    assert served.client.post("/models/discs/rollback").status_code == 200


def test_maps_correlate_as_numpy_says():
    draws = np.random.default_rng(0)
    first, other = draws.normal(size=(2, 5, 7))
    expected = np.corrcoef(first.ravel(), other.ravel())[0, 1]
    assert correlation(Compared(None, first), Compared(None, other)) == pytest.approx(expected)
    assert correlation(Compared(None, first), Compared(None, 2 * first + 1)) == pytest.approx(1)
    assert correlation(Compared(None, first), Compared(None, np.ones((5, 7)))) is None
    assert correlation(Compared(None, first), Compared(None, None)) is None


def test_the_report_is_what_was_counted(monkeypatch):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    metrics, values = Metrics(), np.random.default_rng(0).uniform(0.2, 1.0, 200)
    for number, value in enumerate(values):
        metrics.comparisons.count(
            "cats",
            "new",
            label=number % 4 > 0,
            same_set=number % 2 > 0,
            confidences=(0.9, 0.7),
            correlation=float(value),
        )
    report = Report.of(metrics.text(), "cats", "new")
    assert report.images == 200
    assert report.labels == (0.75, *wilson(150, 200))
    assert report.sets == (0.5, *wilson(100, 200))
    assert report.confidence == pytest.approx((0.9, 0.7))
    mean, low, high = report.maps
    half = 1.96 * values.std() / math.sqrt(200)
    assert mean == pytest.approx(values.mean())
    assert half <= high - mean <= 3 * half
    assert low == pytest.approx(2 * mean - high)
    assert Report.of(metrics.text(), "cats", "other").images == 0
    assert mean_interval(1.0, DISTANCES, [0.0] * len(DISTANCES)) == (1.0, 1.0)
