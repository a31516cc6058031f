"""A folder of images becomes one table, whatever happens to the process."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from service.bulk import run as bulk_run
from service.errors import BulkError, InvalidParameter
from service.explain import ask, explain
from support.images import COLOURS, draw, encode
from support.servers import ROOT, environment

MANY = 2_000
BAD = b"\xff\xd8 no more than the beginning of a JPEG"
MAX_PIXELS = 10_000


@pytest.fixture
def images(tmp_path):
    """21 images in two folders, a damaged one, one that is too large, and a file that is none."""
    folder = tmp_path / "images"
    for seed, colour in enumerate(list(COLOURS) * 7):
        path = folder / ("a-b" if seed % 2 else "a") / f"{seed:02}.{'PNG' if seed % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw(colour, 32 + seed, seed), "PNG" if seed % 3 else "JPEG"))
    (folder / "a" / "bad.jpeg").write_bytes(BAD)
    (folder / "large.png").write_bytes(encode(draw(size=101)))
    (folder / "notes.txt").write_text("no image")
    return folder


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
    kept = environment(home, device="cpu")
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def work(engine, folder, out, **asked):
    """The rows of the table, made in this process."""
    begun = bulk_run.Run(engine, bulk_run.Job(folder, out, **asked), MAX_PIXELS, workers=2)
    assert sum(begun.work()) == begun.total
    begun.finish()
    return pq.read_table(out).to_pylist()


def test_its_rows_are_what_single_predictions_say(tmp_path, engine, images):
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


def test_its_rows_are_in_the_order_of_names_and_a_bad_image_is_one_of_them(
    tmp_path, engine, images
):
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


def test_shards_part_the_files(tmp_path, engine, images):
    whole = work(engine, images, tmp_path / "whole.parquet")
    shares = [
        work(engine, images, tmp_path / f"{n}.parquet", shard=bulk_run.Shard(n, 4))
        for n in range(1, 5)
    ]
    for number, share in enumerate(shares):
        assert [row["path"] for row in share] == [row["path"] for row in whole[number::4]]


def test_a_shard_may_be_empty(tmp_path, engine, images):
    assert work(engine, images, tmp_path / "out.parquet", shard=bulk_run.Shard(99, 99)) == []


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", "-1/2", "1/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InvalidParameter, match="from 1/8 to 8/8"):
        bulk_run.Shard.parse(text)


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
    fitted = bulk_run.fit_image(
        (images / first["path"]).read_bytes(), engine.manifest.input, MAX_PIXELS, keep=False
    ).fitted
    single = explain(engine, fitted, question, np.asarray(first["logits"], np.float32))
    assert dict(first["quality"]) == pytest.approx(dict(single.quality), abs=1e-4)
    np.testing.assert_allclose(
        np.load(tmp_path / "maps" / f"{first['path']}.npy"), single.map, atol=1e-4
    )


def test_the_command_explains(tmp_path, images):
    out = tmp_path / "out.parquet"
    asked = (
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
    done = run(tmp_path, images, *asked)
    assert done.returncode == 0, done.stderr
    assert {row["target"] for row in pq.read_table(out).to_pylist() if row["label"]} == {"cat,dog"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_goes_on_after_it_was_stopped(tmp_path, engine, many, whole, number):
    out = tmp_path / "out.parquet"
    kept = environment(tmp_path, device="cpu")
    process = subprocess.Popen(
        command(many, "--out", out),
        cwd=ROOT,
        env=kept,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(
        tmp_path.glob("out.parquet.parts/part-00001.parquet")
    ):
        time.sleep(0.005)
    process.send_signal(number)
    told = process.communicate(timeout=30)[1].decode()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "goes on from there" in told
    assert not out.exists()

    begun = bulk_run.Run(engine, bulk_run.Job(many, out), 50_000_000, workers=2)
    assert bulk_run.FILES_A_PART * 2 <= begun.done < begun.total == MANY
    left = MANY - begun.done
    assert sum(begun.work()) == left
    begun.finish()
    assert not list(tmp_path.glob("out.parquet.parts"))
    table = pq.read_table(out)
    assert table["path"].to_pylist() == [f"{number:05}.png" for number in range(MANY)]
    assert table.drop_columns(["logits", "probability", "top_probabilities"]).equals(
        whole.drop_columns(["logits", "probability", "top_probabilities"])
    )
    logits, expected = (np.asarray(found["logits"].to_pylist()) for found in (table, whole))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"shard": bulk_run.Shard(2, 8)}, 'with shard "1/1", and this run has "2/8"'),
        ({"top_k": 5}, "with top_k 3, and this run has 5"),
    ],
)
def test_it_does_not_go_on_with_other_settings(tmp_path, engine, images, other, told):
    out = tmp_path / "out.parquet"
    bulk_run.Run(engine, bulk_run.Job(images, out), MAX_PIXELS, workers=2)
    with pytest.raises(BulkError, match=told):
        bulk_run.Run(engine, bulk_run.Job(images, out, **other), MAX_PIXELS, workers=2)


def test_it_does_not_go_on_with_other_files(tmp_path, engine, images):
    out = tmp_path / "out.parquet"
    bulk_run.Run(engine, bulk_run.Job(images, out), MAX_PIXELS, workers=2)
    (images / "large.png").rename(images / "larger.png")
    with pytest.raises(BulkError, match="sha256 of their names"):
        bulk_run.Run(engine, bulk_run.Job(images, out), MAX_PIXELS, workers=2)


def test_it_does_not_go_on_with_another_folder_of_the_same_names(tmp_path, engine, images):
    out, other = tmp_path / "out.parquet", tmp_path / "other"
    shutil.copytree(images, other)
    bulk_run.Run(engine, bulk_run.Job(images, out), MAX_PIXELS, workers=2)
    with pytest.raises(BulkError, match="folder"):
        bulk_run.Run(engine, bulk_run.Job(other, out), MAX_PIXELS, workers=2)


def test_a_link_that_leads_nowhere_is_a_row_that_says_so(tmp_path, engine, images):
    (images / "loop.png").symlink_to("loop.png")
    (images / "broken.png").symlink_to("nothing.png")
    rows = {row["path"]: row for row in work(engine, images, tmp_path / "out.parquet")}
    assert {rows[name]["error_code"] for name in ("loop.png", "broken.png")} == {
        bulk_run.UNREADABLE
    }


def test_two_runs_do_not_work_on_one_table(tmp_path, engine, images):
    out = tmp_path / "out.parquet"
    first = bulk_run.Run(engine, bulk_run.Job(images, out), MAX_PIXELS, workers=2)
    with pytest.raises(BulkError, match="another run is at work"):
        bulk_run.Run(engine, bulk_run.Job(images, out), MAX_PIXELS, workers=2)
    del first
    assert work(engine, images, out)


def test_a_file_that_is_too_large_is_a_row_that_says_so(tmp_path, engine, images):
    with (images / "huge.png").open("wb") as file:
        file.truncate(bulk_run.MOST_BYTES + 1)
    rows = {row["path"]: row for row in work(engine, images, tmp_path / "out.parquet")}
    assert rows["huge.png"]["error_code"] == "body_too_large"


def test_a_damaged_part_is_named(tmp_path, engine, images):
    begun = bulk_run.Run(
        engine, bulk_run.Job(images, tmp_path / "out.parquet"), MAX_PIXELS, workers=2
    )
    assert sum(begun.work()) == begun.total
    part = tmp_path / "out.parquet.parts" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(BulkError, match=r"part-00000\.parquet is damaged"):
        begun.finish()


def test_a_folder_without_images_is_refused(tmp_path, engine):
    with pytest.raises(BulkError, match="holds no file that ends in"):
        bulk_run.Run(
            engine, bulk_run.Job(tmp_path, tmp_path / "out.parquet"), MAX_PIXELS, workers=2
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{folder}"], "name the table to write with --out"),
        (["{folder}", "--out", "{folder}/notes.txt"], "give --overwrite to replace it"),
        (["{folder}", "--out", "{folder}/out", "--target", "cat"], "give --explain METHOD, too"),
        (["{folder}/a/00.jpg", "--explain", "grad_cam"], "is a file: leave it out"),
    ],
)
def test_a_mistake_ends_with_a_sentence(tmp_path, images, arguments, told):
    done = run(tmp_path, *[argument.format(folder=images) for argument in arguments])
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
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
