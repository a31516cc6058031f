"""The examples of docs/bulk.md on each engine: a row an image, though a worker dies."""

import os
import subprocess

import pytest

from service.bulk.job import Job
from service.bulk.run import Run
from support import killed
from support.environments import python_of
from support.images import COLOURS, draw, encode
from support.servers import ROOT, TELEMETRY_OFF
from support.tables import agree, by_path

MANY = 300  # two batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in two folders, one of which kills a worker, and one that is damaged."""
    folder = tmp_path_factory.mktemp("spread") / "images"
    drawn = [encode(draw(colour, seed=seed)) for seed, colour in enumerate(list(COLOURS) * 5)]
    for number in range(MANY):
        path = folder / ("a" if number % 2 else "b c") / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn[number % len(drawn)])
    (folder / "a" / killed.DEADLY).write_bytes(drawn[0])
    (folder / "a" / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def whole(folder, engine):
    """The table of a bulk run."""
    out = folder.with_name("whole.parquet")
    started = Run(engine, Job(folder, out), 50_000_000, workers=1)
    assert sum(started.work()) == started.total == MANY + 2
    started.finish()
    return by_path(out)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dask", ["--killed"]),
        ("pyspark", ["--nodes", "1", "--killed"]),
        ("ray", ["--nodes", "1"]),  # the death of a worker, and its successor, take 10 s of a core
        pytest.param("pyspark", ["--killed"], marks=pytest.mark.benchmark),
        pytest.param("ray", ["--killed"], marks=pytest.mark.benchmark),
    ],
)
def test_every_image_has_one_row_though_a_worker_dies(name, options, folder, whole, tmp_path):
    mark, out = folder / "a" / killed.MARK, tmp_path / "results"
    mark.unlink(missing_ok=True)
    done = subprocess.run(
        [python_of(name), "-m", "support.spread", name, folder, out, *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | TELEMETRY_OFF,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert mark.exists() == ("--killed" in options)
    agree(by_path(out), whole)
