"""A folder of images becomes one table, whatever happens to the process."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from service.bulk.job import FILES_A_PART, Job, Shard
from service.bulk.places import MOST_BYTES
from service.bulk.rows import UNREADABLE
from service.bulk.run import Run
from service.errors import BulkError
from service.explain import ask, explain
from service.schedule.sent import fit_image
from support.images import COLOURS, draw, encode
from support.servers import ROOT, environment

MANY = 1_300  # five parts
MAX_PIXELS = 10_000


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder that takes long enough to be stopped half-way."""
    folder = tmp_path_factory.mktemp("many")
    drawn = [encode(draw(colour, seed=seed)) for seed, colour in enumerate(list(COLOURS) * 10)]
    for number in range(MANY):
        (folder / f"{number:05}.png").write_bytes(drawn[number % len(drawn)])
    return folder


@pytest.fixture(scope="module")
def whole(many, engine, tmp_path_factory):
    """The table of `many`, made without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out.parquet"
    work(engine, many, out)
    return pq.read_table(out)


def command(*arguments):
    return [sys.executable, "-m", "service", "predict", *map(str, arguments)]


def run(home, *arguments):
    variables = environment(home, device="cpu")
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def work(engine, folder, out, **settings):
    """The rows of the table, made in this process."""
    started = Run(engine, Job(folder, out, **settings), MAX_PIXELS, workers=2)
    assert sum(started.work()) == started.total
    started.finish()
    return pq.read_table(out).to_pylist()


def test_rows_agree_with_single_predictions(tmp_path, engine, images):
    rows = work(engine, images, tmp_path / "out.parquet")
    for row in (rows[0], rows[-2]):
        single = json.loads(run(tmp_path, images / row["path"]).stdout)
        assert {key: row[key] for key in ("label", "index")} == {
            key: single[key] for key in ("label", "index")
        }
        assert {key: row[key] for key in ("width", "height", "format")} == single["image"]
        assert row["top_labels"] == [entry["label"] for entry in single["top"]]
        assert row["top_probabilities"] == pytest.approx(
            [entry["probability"] for entry in single["top"]], abs=1e-5
        )


def test_rows_are_in_the_order_of_names_and_a_bad_image_is_one_of_them(tmp_path, engine, images):
    rows = work(engine, images, tmp_path / "out.parquet")
    paths = [
        path.relative_to(images)
        for path in images.rglob("*")
        if path.suffix != ".txt" and path.is_file()
    ]
    assert [row["path"] for row in rows] == [path.as_posix() for path in sorted(paths)]
    bad = {row["path"]: row for row in rows if row["error_code"]}
    assert {path: row["error_code"] for path, row in bad.items()} == {
        "a/bad.jpeg": "undecodable_picture",
        "large.png": "picture_too_large",
    }
    for row in bad.values():
        assert row["error_detail"]
        assert row["label"] is row["logits"] is row["width"] is None


def test_the_table_names_the_model(tmp_path, engine, images):
    work(engine, images, tmp_path / "out.parquet")
    metadata = pq.read_schema(tmp_path / "out.parquet").metadata
    assert metadata[b"candor.name"].decode() == engine.manifest.name
    assert metadata[b"candor.version"].decode() == engine.manifest.version


def test_the_tables_of_shards_share_the_rows_out(tmp_path, engine, images):
    whole = work(engine, images, tmp_path / "whole.parquet")
    shares = [
        work(engine, images, tmp_path / f"{n}.parquet", shard=Shard(n, 4)) for n in range(1, 5)
    ]
    for number, share in enumerate(shares):
        assert [row["path"] for row in share] == [row["path"] for row in whole[number::4]]


def test_a_shard_may_be_empty(tmp_path, engine, images):
    assert work(engine, images, tmp_path / "out.parquet", shard=Shard(99, 99)) == []


def test_explanations_have_their_columns_and_maps_their_files(tmp_path, engine, images):
    question = ask(engine.manifest, "grad_cam", "ship", {})
    rows = work(engine, images, tmp_path / "out.parquet", question=question, maps=tmp_path / "maps")
    for row in rows:
        path = tmp_path / "maps" / f"{row['path']}.npy"
        assert path.exists() == (row["error_code"] is None)
        if path.exists():
            assert (row["method"], row["target"]) == ("grad_cam", "ship")
            assert np.load(path, allow_pickle=False).dtype == np.float32
    first = rows[0]
    fitted = fit_image(
        (images / first["path"]).read_bytes(), engine.manifest.input, MAX_PIXELS, keep=False
    ).fitted
    single = explain(engine, fitted, question, np.asarray(first["logits"], np.float32))
    assert dict(first["quality"]) == pytest.approx(dict(single.quality), abs=1e-4)
    np.testing.assert_allclose(
        np.load(tmp_path / "maps" / f"{first['path']}.npy"), single.map, atol=1e-4
    )


def test_the_command_explains(tmp_path, images):
    out = tmp_path / "out.parquet"
    arguments = (
        "--explain",
        "integrated_gradients",
        "--set",
        "steps=4",
        "--target",
        "cat,dog",
        "--shard",
        "1/8",
        "--out",
        out,
    )
    done = run(tmp_path, images, *arguments)
    assert done.returncode == 0, done.stderr
    assert {row["target"] for row in pq.read_table(out).to_pylist() if row["label"]} == {"cat,dog"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_continues(tmp_path, engine, many, whole, number):
    out = tmp_path / "out.parquet"
    variables = environment(tmp_path, device="cpu")
    process = subprocess.Popen(
        command(many, "--out", out),
        cwd=ROOT,
        env=variables,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(
        tmp_path.glob("out.parquet.parts/part-00001.parquet")
    ):
        time.sleep(0.005)
    process.send_signal(number)
    message = process.communicate(timeout=30)[1].decode()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "continues from there" in message
    assert not out.exists()

    started = Run(engine, Job(many, out), 50_000_000, workers=2)
    assert FILES_A_PART * 2 <= started.done < started.total == MANY
    remaining = MANY - started.done
    assert sum(started.work()) == remaining
    started.finish()
    assert not list(tmp_path.glob("out.parquet.parts"))
    table = pq.read_table(out)
    assert table["path"].to_pylist() == [f"{number:05}.png" for number in range(MANY)]
    assert table.drop_columns(["logits", "probability", "top_probabilities"]).equals(
        whole.drop_columns(["logits", "probability", "top_probabilities"])
    )
    logits, expected = (np.asarray(rows["logits"].to_pylist()) for rows in (table, whole))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_broken_link_is_a_row_with_an_error(tmp_path, engine, images):
    (images / "loop.png").symlink_to("loop.png")
    (images / "broken.png").symlink_to("nothing.png")
    rows = {row["path"]: row for row in work(engine, images, tmp_path / "out.parquet")}
    assert {rows[name]["error_code"] for name in ("loop.png", "broken.png")} == {UNREADABLE}


def test_a_file_that_is_too_large_is_a_row_with_an_error(tmp_path, engine, images):
    with (images / "huge.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    rows = {row["path"]: row for row in work(engine, images, tmp_path / "out.parquet")}
    assert rows["huge.png"]["error_code"] == "body_too_large"


def test_a_damaged_part_is_named(tmp_path, engine, images):
    started = Run(engine, Job(images, tmp_path / "out.parquet"), MAX_PIXELS, workers=2)
    assert sum(started.work()) == started.total
    part = tmp_path / "out.parquet.parts" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(BulkError, match=r"part-00000\.parquet is damaged"):
        started.finish()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}"], "name the table to write with --out"),
        (["{folder}", "--out", "{folder}/notes.txt"], "give --overwrite to replace it"),
        (["{folder}", "--out", "{folder}/out", "--target", "cat"], "give --explain METHOD, too"),
        (["{folder}/a/00.jpg", "--explain", "grad_cam"], "--explain is for a folder, and"),
    ],
)
def test_a_mistake_ends_with_a_sentence(tmp_path, images, arguments, message):
    done = run(tmp_path, *[argument.format(folder=images) for argument in arguments])
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_without_pyarrow_the_remedy_is_named(tmp_path, images):
    script = "import sys; sys.modules['pyarrow'] = None; from service.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", images, "--out", tmp_path / "out.parquet"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "install the extra `bulk`" in done.stderr


def test_large_images_wait_for_memory_and_one_that_never_fits_is_an_error(tmp_path, engine):
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode(draw(size=300, seed=number)))
    (folder / "never.png").write_bytes(encode(draw(size=400)))
    out = tmp_path / "out.parquet"
    started = Run(engine, Job(folder, out), 10**6, workers=2, decode_bytes=1_000_000)
    assert sum(started.work()) == 7
    started.finish()
    errors = [row["error_detail"] for row in pq.read_table(out).to_pylist()]
    assert errors[:6] == [None] * 6
    assert "400×400 px and takes 1.251 MB of memory; the limit is 0.75 MB" in errors[6]
