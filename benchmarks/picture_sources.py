"""Test images of image libraries: source distributions of PyPI, fetched by pip, unpacked once.

They are no part of this repository: each has the licence of its project. A digest pins each file.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif"),
    *(".jfif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"),
)


class Source(NamedTuple):
    """A package on PyPI, one version of it, and the SHA-256 of its source distribution."""

    name: str
    version: str
    sha256: str


SOURCES = (
    Source("pillow", "13.0.0", "cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510"),
    Source(
        "pillow-heif", "1.8.1", "521ebffb8a181d56c3904e5a61f20903edee0d9d3275967b8fb345f866215c06"
    ),
    Source("thumbor", "7.8.0", "3211d7b3210864fae09a67a822e69851aa54ac6137d8a35c1a4047881e3c6dfc"),
)


def images(sources: Sequence[Source], cache: Path) -> Iterator[Path]:
    """The files of `sources` that are called like images, sorted; `cache` keeps them."""
    for source in sources:
        folder = _unpacked(source, cache)
        yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def cache_folder() -> Path:
    """candor/pictures in XDG_CACHE_HOME, by default ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "candor" / "pictures"


def _unpacked(source: Source, cache: Path) -> Path:
    place = cache / f"{source.name}-{source.version}"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = _downloaded(source, Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            with tarfile.open(archive) as content:
                content.extractall(unpacked, filter="data")
            shutil.move(unpacked, place)
    return place


def _downloaded(source: Source, folder: Path) -> Path:
    print(f"downloads the source of {source.name} {source.version}", file=sys.stderr)
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{source.name}=={source.version} --hash=sha256:{source.sha256}\n")
    options = ["--quiet", "--no-deps", "--no-binary=:all:", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    subprocess.run([*command, "-r", str(pinned)], check=True)
    return next(folder.glob("*.tar.gz"))
