"""A folder of pictures becomes one table, whatever happens to the process."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from service import bulk
from service.errors import BulkError, InvalidParameter
from service.explain import ask, explain
from tests.pictures import COLOURS, draw, encode
from tests.servers import ROOT, environment

MANY = 2_000
BAD = b"\xff\xd8 no more than the beginning of a JPEG"
MAX_PIXELS = 10_000


@pytest.fixture
def pictures(tmp_path):
    """21 pictures in two folders, a damaged one, one that is too large, and a file that is none."""
    folder = tmp_path / "pictures"
    for seed, colour in enumerate(list(COLOURS) * 7):
        path = folder / ("a-b" if seed % 2 else "a") / f"{seed:02}.{'PNG' if seed % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw(colour, 32 + seed, seed), "PNG" if seed % 3 else "JPEG"))
    (folder / "a" / "bad.jpeg").write_bytes(BAD)
    (folder / "large.png").write_bytes(encode(draw(size=101)))
    (folder / "notes.txt").write_text("no picture")
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
    return subprocess.run(command(*arguments), cwd=ROOT, env=kept, capture_output=True, text=True, timeout=120, check=False)


def work(engine, folder, out, **asked):
    """The rows of the table, made in this process."""
    begun = bulk.Run(engine, bulk.Job(folder, out, **asked), MAX_PIXELS, workers=2)
    assert sum(begun.work()) == begun.total
    begun.finish()
    return pq.read_table(out).to_pylist()


def test_its_rows_are_what_single_predictions_say(tmp_path, engine, pictures):
    rows = work(engine, pictures, tmp_path / "out.parquet")
    for row in (rows[0], rows[-2]):
        single = json.loads(run(tmp_path, pictures / row["path"]).stdout)
        assert {key: row[key] for key in ("label", "index")} == {key: single[key] for key in ("label", "index")}
        assert {key: row[key] for key in ("width", "height", "format")} == single["image"]
        assert row["top_labels"] == [entry["label"] for entry in single["top"]]
        assert row["top_probabilities"] == pytest.approx([entry["probability"] for entry in single["top"]], abs=1e-5)


def test_its_rows_are_in_the_order_of_names_and_a_bad_picture_is_one_of_them(tmp_path, engine, pictures):
    rows = work(engine, pictures, tmp_path / "out.parquet")
    paths = [path.relative_to(pictures) for path in pictures.rglob("*") if path.suffix != ".txt" and path.is_file()]
    assert [row["path"] for row in rows] == [path.as_posix() for path in sorted(paths)]
    bad = {row["path"]: row for row in rows if row["error_code"]}
    assert {path: row["error_code"] for path, row in bad.items()} == {
        "a/bad.jpeg": "undecodable_picture",
        "large.png": "picture_too_large",
    }
    for row in bad.values():
        assert row["error_detail"]
        assert row["label"] is row["logits"] is row["width"] is None


def test_the_table_names_the_model(tmp_path, engine, pictures):
    work(engine, pictures, tmp_path / "out.parquet")
    metadata = pq.read_schema(tmp_path / "out.parquet").metadata
    assert metadata[b"candor.name"].decode() == engine.manifest.name
    assert metadata[b"candor.version"].decode() == engine.manifest.version


def test_shards_part_the_files(tmp_path, engine, pictures):
    whole = work(engine, pictures, tmp_path / "whole.parquet")
    shares = [work(engine, pictures, tmp_path / f"{n}.parquet", shard=bulk.Shard(n, 4)) for n in range(1, 5)]
    for number, share in enumerate(shares):
        assert [row["path"] for row in share] == [row["path"] for row in whole[number::4]]


def test_a_shard_may_be_empty(tmp_path, engine, pictures):
    assert work(engine, pictures, tmp_path / "out.parquet", shard=bulk.Shard(99, 99)) == []


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", "-1/2", "1/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InvalidParameter, match="from 1/8 to 8/8"):
        bulk.Shard.parse(text)


def test_explanations_have_their_columns_and_maps_their_files(tmp_path, engine, pictures):
    question = ask(engine.manifest, "grad_cam", "ship", {})
    rows = work(engine, pictures, tmp_path / "out.parquet", question=question, maps=tmp_path / "maps")
    for row in rows:
        path = tmp_path / "maps" / f"{row['path']}.npy"
        assert path.exists() == (row["error_code"] is None)
        if path.exists():
            assert (row["method"], row["target"]) == ("grad_cam", "ship")
            assert np.load(path, allow_pickle=False).dtype == np.float32
    first = rows[0]
    fitted = bulk.receive((pictures / first["path"]).read_bytes(), engine.manifest.input, MAX_PIXELS, keep=False).fitted
    single = explain(engine, fitted, question, np.asarray(first["logits"], np.float32))
    assert dict(first["quality"]) == pytest.approx(dict(single.quality), abs=1e-4)
    np.testing.assert_allclose(np.load(tmp_path / "maps" / f"{first['path']}.npy"), single.map, atol=1e-4)


def test_the_command_explains(tmp_path, pictures):
    out = tmp_path / "out.parquet"
    asked = ("--explain", "integrated_gradients", "--set", "steps=4", "--target", "cat,dog", "--shard", "1/8", "--out", out)
    done = run(tmp_path, pictures, *asked)
    assert done.returncode == 0, done.stderr
    assert {row["target"] for row in pq.read_table(out).to_pylist() if row["label"]} == {"cat,dog"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_goes_on_after_it_was_stopped(tmp_path, engine, many, whole, number):
    out = tmp_path / "out.parquet"
    kept = environment(tmp_path, device="cpu")
    process = subprocess.Popen(command(many, "--out", out), cwd=ROOT, env=kept, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("out.parquet.parts/part-00001.parquet")):
        time.sleep(0.005)
    process.send_signal(number)
    told = process.communicate(timeout=30)[1].decode()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "goes on from there" in told
    assert not out.exists()

    begun = bulk.Run(engine, bulk.Job(many, out), 50_000_000, workers=2)
    assert bulk.FILES_A_PART * 2 <= begun.done < begun.total == MANY
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
        ({"shard": bulk.Shard(2, 8)}, 'with shard "1/1", and this run has "2/8"'),
        ({"top_k": 5}, "with top_k 3, and this run has 5"),
    ],
)
def test_it_does_not_go_on_with_other_settings(tmp_path, engine, pictures, other, told):
    out = tmp_path / "out.parquet"
    bulk.Run(engine, bulk.Job(pictures, out), MAX_PIXELS, workers=2)
    with pytest.raises(BulkError, match=told):
        bulk.Run(engine, bulk.Job(pictures, out, **other), MAX_PIXELS, workers=2)


def test_it_does_not_go_on_with_other_files(tmp_path, engine, pictures):
    out = tmp_path / "out.parquet"
    bulk.Run(engine, bulk.Job(pictures, out), MAX_PIXELS, workers=2)
    (pictures / "large.png").rename(pictures / "larger.png")
    with pytest.raises(BulkError, match="sha256 of their names"):
        bulk.Run(engine, bulk.Job(pictures, out), MAX_PIXELS, workers=2)


def test_it_does_not_go_on_with_another_folder_of_the_same_names(tmp_path, engine, pictures):
    out, other = tmp_path / "out.parquet", tmp_path / "other"
    shutil.copytree(pictures, other)
    bulk.Run(engine, bulk.Job(pictures, out), MAX_PIXELS, workers=2)
    with pytest.raises(BulkError, match="folder"):
        bulk.Run(engine, bulk.Job(other, out), MAX_PIXELS, workers=2)


def test_a_link_that_leads_nowhere_is_a_row_that_says_so(tmp_path, engine, pictures):
    (pictures / "loop.png").symlink_to("loop.png")
    (pictures / "broken.png").symlink_to("nothing.png")
    rows = {row["path"]: row for row in work(engine, pictures, tmp_path / "out.parquet")}
    assert {rows[name]["error_code"] for name in ("loop.png", "broken.png")} == {bulk.UNREADABLE}


def test_two_runs_do_not_work_on_one_table(tmp_path, engine, pictures):
    out = tmp_path / "out.parquet"
    first = bulk.Run(engine, bulk.Job(pictures, out), MAX_PIXELS, workers=2)
    with pytest.raises(BulkError, match="another run is at work"):
        bulk.Run(engine, bulk.Job(pictures, out), MAX_PIXELS, workers=2)
    del first
    assert work(engine, pictures, out)


def test_a_file_that_is_too_large_is_a_row_that_says_so(tmp_path, engine, pictures):
    with (pictures / "huge.png").open("wb") as file:
        file.truncate(bulk.MOST_BYTES + 1)
    rows = {row["path"]: row for row in work(engine, pictures, tmp_path / "out.parquet")}
    assert rows["huge.png"]["error_code"] == "body_too_large"


def test_a_damaged_part_is_named(tmp_path, engine, pictures):
    begun = bulk.Run(engine, bulk.Job(pictures, tmp_path / "out.parquet"), MAX_PIXELS, workers=2)
    assert sum(begun.work()) == begun.total
    part = tmp_path / "out.parquet.parts" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(BulkError, match=r"part-00000\.parquet is damaged"):
        begun.finish()


def test_a_folder_without_pictures_is_refused(tmp_path, engine):
    with pytest.raises(BulkError, match="holds no file that ends in"):
        bulk.Run(engine, bulk.Job(tmp_path, tmp_path / "out.parquet"), MAX_PIXELS, workers=2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{folder}"], "name the table to write with --out"),
        (["{folder}", "--out", "{folder}/notes.txt"], "give --overwrite to replace it"),
        (["{folder}", "--out", "{folder}/out", "--target", "cat"], "give --explain METHOD, too"),
        (["{folder}/a/00.jpg", "--explain", "grad_cam"], "is a file: leave it out"),
    ],
)
def test_a_mistake_ends_with_a_sentence(tmp_path, pictures, arguments, told):
    done = run(tmp_path, *[argument.format(folder=pictures) for argument in arguments])
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_without_pyarrow_the_remedy_is_named(tmp_path, pictures):
    script = "import sys; sys.modules['pyarrow'] = None; from service.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", pictures, "--out", tmp_path / "out.parquet"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "install the extra `bulk`" in done.stderr
