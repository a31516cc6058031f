"""Data for training from elsewhere: a data set, or one sentence, in bounded memory."""

import gzip
import os
import tarfile
from io import BytesIO

import pytest

from service.image.resize import Input
from support.images import draw, encode
from training.data import DataError
from training.data.read import read, read_splits

SPEC = Input(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
IMAGE = encode(draw(), "JPEG")
NAMES = [f"{label}/{number:02}.jpg" for label in "ab" for number in range(12)]


def splits(source):
    return read_splits(str(source), SPEC)[0]


def skipped(source):
    return list(read(str(source), SPEC).skipped)


def count(source):
    return sum(map(len, splits(source).values()))


def member(name, kind=tarfile.REGTYPE, size=None):
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, len(IMAGE) if size is None else size
    return entry


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as tar:
        for name in NAMES:
            tar.addfile(member(name), BytesIO(IMAGE))
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(IMAGE)
    return root


def test_a_whole_archive_is_read(archive):
    assert count(archive) == len(NAMES)


@pytest.mark.parametrize("odd", [1, 300, 512, 700, 1024])
def test_a_cut_off_archive_is_rejected_wherever_it_is_cut(archive, odd):
    content = archive.read_bytes()
    with tarfile.open(archive) as tar:
        written = tar.getmembers()[-1].offset_data + len(IMAGE)
    for end in range(2048 + odd, written, 4096):
        archive.write_bytes(content[:end])
        with pytest.raises(DataError, match="cut off"):
            splits(archive)


@pytest.mark.parametrize("lost", [100, 500])
def test_so_is_a_packed_one(archive, lost):
    packed = gzip.compress(archive.read_bytes())
    archive.write_bytes(packed[:-lost])
    with pytest.raises(DataError, match="cut off"):
        splits(archive)


def test_a_broken_gzip_is_rejected(archive):
    archive.write_bytes(b"\x1f\x8b" + bytes(range(200)))
    with pytest.raises(DataError, match="cut off"):
        splits(archive)


def test_a_member_that_unpacks_to_gigabytes_is_rejected(archive):
    with gzip.open(archive, "wb") as file:
        file.write(member("a/bomb.jpg", size=3 * 2**30).tobuf())
        file.write(bytes(2**20))
    with pytest.raises(
        DataError, match=r"a/bomb.jpg has 3,221,225,472 bytes; the limit is 100,000"
    ):
        splits(archive)


def test_so_is_a_sparse_member(archive):
    header = bytearray(member("a/s.jpg", size=0).tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"\x80" + (8 * 2**30).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive.write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DataError, match="8,589,934,592 bytes; the limit is"):
        splits(archive)


def test_links_pipes_and_devices_in_an_archive_are_left_out(archive):
    with tarfile.open(archive, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            tar.addfile(member(f"a/{kind.decode()}.jpg", kind, 0))
    assert count(archive) == len(NAMES)


def test_a_pipe_in_a_folder_is_named(folder):
    os.mkfifo(folder / "a" / "x.jpg")
    assert skipped(folder) == [("a/x.jpg", "is no file, but a pipe, a device or a broken link")]


def test_a_broken_link_in_a_folder_is_named(folder):
    (folder / "a" / "x.jpg").symlink_to("missing")
    assert skipped(folder) == [("a/x.jpg", "is no file, but a pipe, a device or a broken link")]


def test_a_folder_with_the_name_of_an_image_is_no_image(folder):
    (folder / "a" / "x.jpg").mkdir()
    assert skipped(folder) == [("a/x.jpg", "is an empty folder")]
    assert count(folder) == len(NAMES)


def test_a_huge_file_in_a_folder_is_named(folder):
    with (folder / "a" / "x.jpg").open("wb") as file:
        file.truncate(10**9)
    assert skipped(folder) == [("a/x.jpg", "has 1,000,000,000 bytes; the limit is 100,000,000")]
