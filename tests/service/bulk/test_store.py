"""Images and tables in a real API of S3 are as those in folders, though a process is killed."""

import signal
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from service.__main__ import main
from service.bulk import places
from service.bulk.job import EXPLAINED_A_PART, Job, Parts
from service.bulk.places import place_of
from service.bulk.rows import UNREADABLE
from service.bulk.run import Run
from service.errors import BulkError
from service.explain import ask
from service.settings import EMBEDDED_BUNDLE
from support import stores
from support.images import COLOURS, draw, encode
from support.servers import ROOT, environment
from support.tables import agree

MANY = 3 * EXPLAINED_A_PART + 1  # four parts
MAX_PIXELS = 10_000
BUCKET = "s3://bulk"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A client of an API of S3 with the bucket `bulk`, and the environment that finds it."""
    with stores.s3(tmp_path_factory.mktemp("moto") / "log", "bulk") as found:
        yield found


@pytest.fixture(autouse=True)
def found(store, monkeypatch):
    """This process finds the store."""
    for name, value in store[1].items():
        monkeypatch.setenv(name, value)


def put(client, key, content):
    assert client.put(f"/bulk/{key}", content=content).status_code == httpx.codes.OK


def upload(client, folder, prefix):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(client, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def work(engine, folder, out, **settings):
    started = Run(engine, Job(folder, out, **settings), MAX_PIXELS, workers=2)
    assert sum(started.work()) == started.total
    started.finish()
    return pq.read_table(places.source(out))


def test_the_table_in_a_bucket_is_that_of_a_folder(tmp_path, engine, images, store):
    upload(store[0], images, "same")
    question = ask(engine.manifest, "grad_cam", None, {})
    here = work(engine, images, tmp_path / "out.parquet", question=question, maps=tmp_path / "maps")
    out, maps = place_of(f"{BUCKET}/one/same.parquet"), place_of(f"{BUCKET}/maps")
    there = work(engine, place_of(f"{BUCKET}/same/"), out, question=question, maps=maps)
    agree(there, here)
    assert there["error_code"].null_count == len(there) - 2
    assert places.names(out.with_name("")) == {"same.parquet"}, "its parts are left"
    name = f"{there['path'][0]}.npy"
    assert (maps / name).read() == (tmp_path / "maps" / name).read_bytes()


def test_a_killed_command_goes_on_in_a_bucket(tmp_path, engine, store):
    client, variables = store
    drawn = [encode(draw(colour, seed=seed)) for seed, colour in enumerate(list(COLOURS) * 3)]
    for number in range(MANY):
        put(client, f"many/{number:05}.png", drawn[number % len(drawn)])
    out = place_of(f"{BUCKET}/out/many.parquet")
    options = ["--explain", "grad_cam", "--out", str(out)]
    command = [sys.executable, "-m", "service", "predict", f"{BUCKET}/many", *options]
    settings = {"device": "cpu", "threads": 1}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path, **settings) | variables, stderr=subprocess.PIPE
    )
    parts = out.with_name("many.parquet.parts")
    while process.poll() is None and "part-00000.parquet" not in places.names(parts):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL, process.stderr.read()
    process.stderr.close()
    assert not out.exists()

    kept = (parts / "part-00000.parquet").read()
    question = ask(engine.manifest, "grad_cam", None, {})
    started = Run(engine, Job(place_of(f"{BUCKET}/many"), out, question), 50_000_000, workers=1)
    assert EXPLAINED_A_PART <= started.done < started.total == MANY
    assert sum(started.work()) == MANY - started.done or started.done == MANY
    assert (parts / "part-00000.parquet").read() == kept, "a part was made twice"
    started.finish()
    table = pq.read_table(out.source())
    assert table["path"].to_pylist() == [f"{number:05}.png" for number in range(MANY)]
    assert table["error_code"].null_count == MANY
    assert not parts.exists()


def test_the_command_draws_the_mistakes_of_a_bucket(store):
    for name in ("airplane", "automobile"):
        put(store[0], f"truth/frog/{name}.webp", (EMBEDDED_BUNDLE / f"{name}.webp").read_bytes())
    out = f"{BUCKET}/drawn/out.parquet"
    for _ in range(2):
        done = CliRunner().invoke(main, ["predict", f"{BUCKET}/truth", "--out", out, "--overwrite"])
        assert done.exit_code == 0, done.output
        assert "accuracy 0.0%" in done.stdout
        assert f"a map of the wrong class in {out}.mistakes" in done.stdout
        drawn = places.names(place_of(f"{out}.mistakes"))
        assert {name[3:] for name in drawn} == {
            "frog-as-airplane.png",
            "frog-as-automobile.png",
        }


def test_a_table_that_fails_half_way_leaves_the_one_before(store):
    out = place_of(f"{BUCKET}/half/out.parquet")
    places.write(out, b"before")
    with suppress(ZeroDivisionError), places.replacing(out) as stream:
        stream.write(b"PAR1")
        raise ZeroDivisionError
    assert out.read() == b"before"
    assert places.names(out.with_name("")) == {"out.parquet"}


def test_a_table_that_a_store_cannot_rename_is_a_sentence(store, monkeypatch):
    monkeypatch.setattr("service.bulk.store.MOST_BYTES", 3)
    out = place_of(f"{BUCKET}/long/out.parquet")
    with pytest.raises(BulkError, match=r"has 4 bytes; a store renames 3 at most: .* --shard$"):
        places.write(out, b"PAR1")
    assert places.names(out.with_name("")) == set()


def test_an_object_that_is_gone_is_a_row_and_a_silent_store_is_none(engine, store, monkeypatch):
    for name in ("1.png", "2.png"):
        put(store[0], f"gone/{name}", encode(draw()))
    folder, out = place_of(f"{BUCKET}/gone"), place_of(f"{BUCKET}/gone.parquet")
    started = Run(engine, Job(folder, out), MAX_PIXELS, 1)
    (folder / "2.png").remove()
    assert sum(started.work()) == 2
    assert started.finish() == 1
    rows = pq.read_table(out.source()).to_pylist()
    assert [row["error_code"] for row in rows] == [None, UNREADABLE]

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (file,) = places.images(place_of(f"{BUCKET}/gone"), ["1.png"])
    with pytest.raises(BulkError, match=r"^s3://bulk/gone/1.png cannot be used \("):
        started._rows.of([file])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/folder", r"^ftp://host/folder begins with ftp://; images and tables are at a"),
        ("https://user:secret@host/f", r"^https://host/f begins with https://"),
        ("s3://bulk", r"^s3://bulk names a bucket alone: name a folder in it, s3://bulk/pictures$"),
        ("s3://nowhere/f", r"^s3://nowhere/f holds no file that ends in "),
    ],
)
def test_an_address_that_cannot_be_used_is_a_sentence(address, message, store):
    with pytest.raises(BulkError, match=message):
        Parts(Job(place_of(address), place_of(f"{BUCKET}/none.parquet")), {})


def test_the_command_says_that_a_table_exists_and_that_a_store_is_silent(tmp_path, store):
    put(store[0], "there.parquet", b"PAR1")
    variables = environment(tmp_path) | store[1]
    for endpoint, out, status, message in (
        (store[1]["AWS_ENDPOINT_URL"], "there.parquet", 2, "s3://bulk/there.parquet exists: give"),
        ("http://127.0.0.1:9", "other.parquet", 1, "s3://bulk/other.parquet cannot be used ("),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "service", "predict", f"{BUCKET}/x", "--out", f"{BUCKET}/{out}"],
            cwd=ROOT,
            env=variables | {"AWS_ENDPOINT_URL": endpoint},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
