"""Drift is the textbook's index over the latest predictions of all workers.

It rises when the images change, and is NaN before there are enough of them.
"""

import base64
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest

from service.bundle import folder as contract
from service.bundle.manifest import Bins, Distribution, Manifest
from service.image.resize import Input
from service.telemetry.drift import (
    LEAST,
    MAPS,
    PREDICTIONS,
    WINDOW,
    Window,
    counts,
    drift,
    stability_index,
)
from service.telemetry.metrics import Metrics
from support.images import COLOURS, draw, encode
from support.servers import ROOT, Server

WORK = """
import sys
from pathlib import Path
from service.telemetry.drift import Window
window = Window(Path(sys.argv[1]))
for line in sys.stdin:
    for _ in range(int(line)):
        window.add(0.5, float("nan"), float(sys.argv[2]))
    print("done", flush=True)
"""
EVEN = Bins((0.25, 0.5, 0.75), (0.25,) * 4)
HELD_OUT = Distribution(1_000_000, EVEN, EVEN, Bins((0.5,), (0.5, 0.5)))


def records(confidence, familiarity, classes):
    return np.stack([np.ones(len(confidence)), confidence, familiarity, classes], axis=1)


def test_the_index_is_that_of_the_textbook():
    p, q = np.array([10, 20, 30, 40]) / 100, np.array([0.4, 0.3, 0.2, 0.1])
    found = stability_index(
        np.array([10, 20, 30, 40]) * 1000, Bins((1.0, 2.0, 3.0), tuple(q)), 10**6
    )
    assert found == pytest.approx(sum((p - q) * np.log(p / q)), rel=1e-3)


def test_an_empty_bin_makes_it_large_and_not_infinite():
    assert 5 < stability_index(np.array([1000, 0]), Bins((0.5,), (0.0, 1.0)), 1000) < 20


def test_chance_alone_makes_it_as_large_as_theory_says():
    """PSI of n and m images of one distribution: (bins − 1) (1 / n + 1 / m) on average.

    Source: Yurdakul, 2018.
    """
    rng, images = np.random.default_rng(0), 4000
    found = []
    for _ in range(2000):
        held_out = np.bincount(rng.integers(0, 10, images), minlength=10)
        shares = Bins(tuple(np.arange(9.0)), tuple(held_out / images))
        found.append(
            stability_index(np.bincount(rng.integers(0, 10, WINDOW), minlength=10), shares, images)
        )
    assert np.mean(found) == pytest.approx(9 * (1 / WINDOW + 1 / images), rel=0.05)


def test_values_are_counted_in_the_bin_that_begins_with_them():
    assert counts(np.array([0.0, 0.25, 0.3, 0.75, 1.0]), EVEN.edges).tolist() == [1, 2, 0, 2]
    assert counts(np.array([3.0]), ()).tolist() == [1]


def test_each_aspect_is_compared_with_its_own_bins():
    rng = np.random.default_rng(0)
    same, low, classes = rng.uniform(size=WINDOW), rng.uniform(0, 0.25, WINDOW), np.zeros(WINDOW)
    found = drift(records(same, low, classes), HELD_OUT)
    assert found["confidence"] < 0.05
    assert found["familiarity"] > 1
    assert found["classes"] > 1


def test_the_index_is_nan_with_few_predictions_or_without_held_out_images():
    values = np.random.default_rng(0).uniform(size=LEAST)
    seen = records(values, values, np.round(values))
    assert all(np.isnan(index) for index in drift(seen[1:], HELD_OUT).values())
    assert all(np.isfinite(index) for index in drift(seen, HELD_OUT).values())
    assert all(np.isnan(index) for index in drift(seen, None).values())


def test_a_window_forgets_older_predictions():
    window = Window()
    assert len(window.latest()) == 0
    for number in range(WINDOW + 10):
        window.add(0.5, math.nan, float(number))
    assert sorted(window.latest()[:, 3]) == list(range(10, WINDOW + 10))
    assert np.isnan(window.latest()[:, 2]).all()


def test_the_window_holds_the_latest_predictions_of_all_processes(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, tmp_path, str(index)],
            cwd=ROOT,
            env=os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for index, count in ((0, 900), (1, 300), (0, 50), (1, 200)):
            print(count, file=processes[index].stdin, flush=True)
            assert processes[index].stdout.readline() == "done\n"
            processes[index].poll()
        both = Window(tmp_path).latest()[:, 3]
        processes[1].communicate("")
        after = Window(tmp_path).latest()[:, 3]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for found in (both, after):
        assert np.bincount(found.astype(int)).tolist() == [500, 500], (
            "450 of the first 900 are older than the latest 1,000"
        )


def test_a_lone_process_has_the_metric_too(monkeypatch):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    metrics = Metrics()
    spec = Input(8, (0.0,) * 3, (1.0,) * 3)
    zoo = metrics.of_model(Manifest("zoo", ("cat", "dog"), spec, distribution=HELD_OUT))
    metrics.serve(zoo)
    for _ in range(LEAST):
        zoo.window.add(0.9, 0.9, 0.0)
    found = drift_of(metrics.text().decode())
    assert set(found) == {"confidence", "familiarity", "classes"}
    assert min(found.values()) > 0.25


def drift_of(text, name="candor_drift"):
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    return {line.split('"')[3]: float(line.rpartition(" ")[2]) for line in lines}


def discs(count, seed):
    """Discs of every colour in turn: uint8 (N, 32, 32, 3), and their classes."""
    colours = list(COLOURS)
    pixels = [draw(colours[number % 3], seed=seed + number) for number in range(count)]
    return np.stack(pixels), np.arange(count) % 3


@pytest.fixture(scope="module")
def watched(bundle, tmp_path_factory):
    """The bundle of discs, calibrated on more images than its run held out, with two workers."""
    from training.data.images import Images
    from training.reliability.fitting import fit_reliability

    files = {name: bundle.read(name) for name in bundle.manifest.files}
    manifest, files = fit_reliability(
        replace(bundle.manifest, files={}), files, Images(*discs(600, seed=50_000)), None
    )
    folder = tmp_path_factory.mktemp("watched")
    made = contract.write(folder / "discs", manifest, files)
    with Server(folder, bundle=str(made.folder), workers=2) as server:
        server.wait_for_processes(2)
        yield server


def texts(pixels):
    """The images as PNG files in base64."""
    return [base64.b64encode(encode(image)).decode() for image in pixels]


def predicted(server, images, **parameters):
    """Sends the images, ten a request, each request over a connection of its own."""

    def send(first):
        body = {"images": images[first : first + 10], **parameters}
        assert httpx.post(f"{server.url}/predict", json=body, timeout=60).status_code == 200

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(send, range(0, len(images), 10)))


def drift_seen(server, name="candor_drift"):
    return drift_of(httpx.get(f"{server.url}/metrics", timeout=10).text, name)


def sees_maps_change(watched):
    """Maps are compared if their images were not chosen by the answer."""
    drawn = np.random.default_rng(1).integers(0, 256, (LEAST // 2 + 5, 32, 32, 3), np.uint8)
    noise = texts(drawn) * 2
    predicted(watched, noise, when="unfamiliar", map="array")
    explained = httpx.get(f"{watched.url}/metrics", timeout=10).text
    assert explained.count('candor_explained_total{reason="unfamiliar"}') == 1
    found = drift_seen(watched, "candor_map_drift")
    assert tuple(found) == MAPS.aspects
    assert all(np.isnan(index) for index in found.values()), "nothing fair to compare"
    usual = texts(discs(LEAST // 2, seed=300_000)[0]) * 2
    predicted(watched, usual, when="always", map="array")
    assert max(drift_seen(watched, "candor_map_drift").values()) < 0.15
    predicted(watched, noise, explain="grad_cam", map="array")
    found = drift_seen(watched, "candor_map_drift")
    assert max(found.values()) > 0.25, "half of the maps are of noise"


def test_a_service_of_two_workers_sees_images_change_and_change_back_and_maps(watched):
    assert all(np.isnan(index) for index in drift_seen(watched).values())
    drawn, classes = discs(WINDOW // 2, seed=90_000)
    usual = texts(drawn) * 2
    predicted(watched, usual[: LEAST - 10])
    assert all(np.isnan(index) for index in drift_seen(watched).values()), (
        "490 predictions are too few"
    )
    predicted(watched, usual[LEAST - 10 :])
    assert max(drift_seen(watched).values()) < 0.15
    noise = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), np.uint8)
    predicted(watched, texts(noise) * 2)
    assert drift_seen(watched)["familiarity"] > 0.25
    predicted(watched, usual)
    assert max(drift_seen(watched).values()) < 0.15
    blue = texts(drawn[classes == 0])
    predicted(watched, (blue * (WINDOW // len(blue) + 1))[:WINDOW])
    assert drift_seen(watched)["classes"] > 0.25, "one class alone is another mix"
    sees_maps_change(watched)


def test_the_manifest_shows_the_held_out_distribution(watched):
    told = watched.client.get("/model").json()
    for name, kind in (("distribution", PREDICTIONS), ("map_distribution", MAPS)):
        assert told[name]["pictures"] == 600
        shares = [sum(told[name][aspect]["shares"]) for aspect in kind.aspects]
        assert shares == pytest.approx([1] * len(kind.aspects))
