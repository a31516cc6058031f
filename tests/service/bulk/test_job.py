"""A job continues with the same settings and files alone, one run at a time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.bulk.job import FILES_A_PART, Job, Parts, Shard, target_text
from service.errors import BulkError, InvalidParameter
from service.explain.maps.target import Target, find_target


@pytest.fixture
def start(embedded):
    """Starts a job, or continues it."""

    def parts(*arguments, **settings):
        job = Job(*arguments, **settings)
        return Parts(job, job.document(embedded.manifest))

    return parts


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", "-1/2", "1/0"])
def test_a_bad_shard_is_rejected_with_an_example(text):
    with pytest.raises(InvalidParameter, match="from 1/8 to 8/8"):
        Shard.parse(text)


def test_a_shard_is_read_as_it_is_written():
    assert Shard.parse("3/8") == Shard(3, 8)
    assert str(Shard(3, 8)) == "3/8"


def test_files_are_listed_in_order_folder_by_folder(tmp_path, images, start):
    ((_, names),) = start(images, tmp_path / "out.parquet").missing()
    paths = [
        path.relative_to(images)
        for path in images.rglob("*")
        if path.suffix != ".txt" and path.is_file()
    ]
    assert names == [path.as_posix() for path in sorted(paths)]


def test_a_link_to_a_folder_is_not_followed(tmp_path, images, start):
    (images / "again").symlink_to(images, target_is_directory=True)
    ((_, names),) = start(images, tmp_path / "out.parquet").missing()
    assert not [name for name in names if "again" in name]


def test_shards_share_the_files_out(tmp_path, images, start):
    ((_, names),) = start(images, tmp_path / "whole").missing()
    for number in range(1, 5):
        ((_, share),) = start(images, tmp_path / str(number), shard=Shard(number, 4)).missing()
        assert share == names[number - 1 :: 4]


def test_parts_have_a_fixed_number_of_files_and_written_ones_are_done(tmp_path, start):
    folder, out = tmp_path / "many", tmp_path / "out.parquet"
    folder.mkdir()
    for number in range(2 * FILES_A_PART + 1):
        (folder / f"{number:04}.png").touch()
    parts = start(folder, out)
    assert [len(names) for _, names in parts.missing()] == [FILES_A_PART, FILES_A_PART, 1]
    first, _, last = parts.paths()
    last.touch()
    assert parts.done == 1
    first.touch()
    assert parts.done == FILES_A_PART + 1
    del parts
    assert [len(names) for _, names in start(folder, out).missing()] == [FILES_A_PART]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"shard": Shard(2, 8)}, 'with shard "1/1", and this run has "2/8"'),
        ({"top_k": 5}, "with top_k 3, and this run has 5"),
    ],
)
def test_a_job_does_not_continue_with_other_settings(tmp_path, images, start, other, message):
    out = tmp_path / "out.parquet"
    start(images, out)
    with pytest.raises(BulkError, match=message):
        start(images, out, **other)


def test_a_job_does_not_continue_with_other_files(tmp_path, images, start):
    out = tmp_path / "out.parquet"
    start(images, out)
    (images / "large.png").rename(images / "larger.png")
    with pytest.raises(BulkError, match="sha256 of their names"):
        start(images, out)
    names = (Path(f"{out}.parts") / "names").read_text().split()
    assert '"large.png"' in names, "the list of the job that was started is lost"


def test_a_job_does_not_continue_with_another_folder_of_the_same_names(tmp_path, images, start):
    out, other = tmp_path / "out.parquet", tmp_path / "other"
    shutil.copytree(images, other)
    start(images, out)
    with pytest.raises(BulkError, match="folder"):
        start(other, out)


def test_two_runs_do_not_share_a_table(tmp_path, images, start):
    out = tmp_path / "out.parquet"
    first = start(images, out)
    with pytest.raises(BulkError, match="another run is at work"):
        start(images, out)
    del first
    assert start(images, out).total


def test_parts_without_settings_are_not_trusted(tmp_path, images, start):
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    (folder / "part-00000.parquet").write_bytes(b"of a run that was killed at its end")
    assert start(images, tmp_path / "out.parquet").done == 0
    assert json.loads((folder / "job.json").read_text())["files"] == 23


def test_a_folder_without_images_is_rejected(tmp_path, start):
    with pytest.raises(BulkError, match=r"holds no file that ends in \.jpg, "):
        start(tmp_path, tmp_path / "out.parquet")


def test_a_target_is_written_as_it_is_read(embedded):
    labels = ("crane", "crane", "shark, white", *embedded.manifest.labels[3:])
    manifest = replace(embedded.manifest, labels=labels)
    for target, text in (
        (Target(1), "1"),
        (Target(2), "shark, white"),
        (Target(2, 3), "2,3"),
        (Target(4, 3), "deer,cat"),
    ):
        assert target_text(target, manifest) == text
        assert find_target(text, manifest) == target
