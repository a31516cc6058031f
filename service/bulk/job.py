"""A bulk job: the folder and settings of a run, and the parts of it that are done.

Files are in the order of their names, folder by folder; shard 3 of 8 is every eighth of them, from
the third on. Until the table OUT is complete, the folder OUT.parts lies beside it:

    job.json              the settings and the digest of the files' names
    names                 the files' names, a JSON string a line
    part-00000.parquet …  the rows of a fixed number of files each
    lock                  held while a run is at work

A part that exists is not made again, so the same command continues where it was stopped or killed.

At an address there is no lock, for none would end with its process, and `names` is in a temporary
folder of this machine. Two runs of one job there do work twice; the rows of a part are the same.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from service.bulk import places
from service.bulk.places import Place
from service.bundle.manifest import Manifest
from service.errors import BulkError, InvalidParameter, short
from service.explain import Question, Target
from service.image.kinds import SUFFIXES
from service.predictions import TOP_K

FILES_A_PART = 256
# A map costs as much as hundreds of predictions, and a run that is killed loses an unfinished part.
EXPLAINED_A_PART = 32
JOB, NAMES, LOCK = "job.json", "names", "lock"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`-th, from 1, of `count` equal shares of the files."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads a shard, for example "3/8".

        Raises:
            InvalidParameter: `text` is no shard.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0)
        if not 1 <= shard.number <= shard.count:
            raise InvalidParameter(f"shard is {short(text)}; give for example 3/8, from 1/8 to 8/8")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Job:
    """The images of `folder`, to be written as the table `out`.

    With a `question`, every prediction is explained; with `maps` as well, each map becomes a .npy
    file in that folder.
    """

    folder: Place
    out: Place
    question: Question | None = None
    maps: Place | None = None
    shard: Shard = Shard()
    top_k: int = TOP_K

    @property
    def part_files(self) -> int:
        """The number of files of a part."""
        return EXPLAINED_A_PART if self.question else FILES_A_PART

    def document(self, manifest: Manifest) -> dict[str, Any]:
        """The settings that the rows depend on, as JSON values."""
        question = self.question
        return {
            "folder": places.identity(self.folder),
            "model": f"{manifest.name} {manifest.version}",
            "method": question and question.method.name,
            "target": question and question.target and target_text(question.target, manifest),
            "parameters": question and dict(question.parameters),
            "quality": question and question.quality,
            "maps": self.maps and str(self.maps),
            "top_k": self.top_k,
            "shard": str(self.shard),
        }


class Parts:
    """The folder OUT.parts of a job, locked until `remove` or the end of the process.

    `total`: the number of files of the job.
    """

    def __init__(self, job: Job, settings: dict[str, Any]) -> None:
        """Lists the files of `job`; starts it, or continues it if `settings` and files agree.

        Raises:
            BulkError: there are no images, another run is at work in OUT.parts, or it was started
                with other settings or other files.
        """
        self.folder = job.out.with_name(f"{job.out.name}.parts")
        self._part_files = job.part_files
        self._unlock = _locked(self.folder, self)
        self._names = _notes(self.folder, self) / NAMES
        self.total = self._start(job, settings)

    @property
    def done(self) -> int:
        """The number of files in the parts that are written."""
        written = places.names(self.folder)
        starts = range(0, self.total, self._part_files)
        return sum(
            min(self._part_files, self.total - start)
            for path, start in zip(self.paths(), starts, strict=True)
            if path.name in written
        )

    def paths(self) -> Iterator[Place]:
        """The places of all parts, in order."""
        for number in range(-(-self.total // self._part_files)):
            yield self.folder / f"part-{number:05}.parquet"

    def missing(self) -> Iterator[tuple[Place, list[str]]]:
        """The parts that are not written: place and names of the files."""
        written = places.names(self.folder)
        # The names are read from the file, part by part: a folder may hold more than memory.
        with self._names.open("rb") as file:
            for path, lines in zip(self.paths(), pieces(file, self._part_files), strict=True):
                if path.name not in written:
                    yield path, [json.loads(line) for line in lines]

    def remove(self) -> None:
        """Removes the folder, and ends the lock."""
        places.remove_folder(self.folder)
        self._unlock()

    def _start(self, job: Job, settings: dict[str, Any]) -> int:
        if next(_files(job.folder), None) is None:
            raise BulkError(
                f"{job.folder} holds no file that ends in {', '.join(SUFFIXES)}: "
                "name a folder of images"
            )
        digest, total = hashlib.sha256(), 0
        with places.replacing(self._names) as file:
            for name in islice(_files(job.folder), job.shard.number - 1, None, job.shard.count):
                line = json.dumps(name).encode() + b"\n"
                file.write(line)
                digest.update(line)
                total += 1
            # Before NAMES gets its name: other files must not replace the list of those before.
            self._check(settings | {"files": total, "sha256 of their names": digest.hexdigest()})
        return total

    def _check(self, settings: dict[str, Any]) -> None:
        """Checks that the job in the folder has these `settings`; writes them if there is none."""
        try:
            (text,) = places.contents(self.folder, [JOB])
        except FileNotFoundError:
            # Parts without settings: a run was killed while it removed the folder.
            for name in places.names(self.folder):
                if name.startswith("part-"):
                    places.remove(self.folder / name)
            with places.replacing(self.folder / JOB) as file:
                file.write(json.dumps(settings, indent=2).encode())
            return
        written = json.loads(text)
        for key, value in settings.items():
            if written.get(key) != value:
                raise BulkError(
                    f"{self.folder} was started with {key} {json.dumps(written.get(key))}, "
                    f"and this run has {json.dumps(value)}: repeat the first command, "
                    "remove that folder to start again, or give another --out"
                )


def pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` in lists of `size`; the last one may be shorter."""
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


def target_text(target: Target, manifest: Manifest) -> str:
    """The target as `--target` accepts it: labels, or the index where a label would mislead."""
    names = [manifest.name_of(index) for index in target.rows.tolist()]
    plain = [manifest.labels[index] for index in target.rows.tolist()] == names
    cut = len(names) > 1 and any("," in name or name.strip() != name for name in names)
    return ",".join(names if plain and not cut else map(str, target.rows.tolist()))


def _locked(folder: Place, parts: Parts) -> Callable[[], object]:
    """Makes `folder`, and locks it until the returned function is called or `parts` are gone.

    Raises:
        BulkError: another run is at work in it.
    """
    if not isinstance(folder, Path):
        return lambda: None
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BulkError(
            f"another run is at work in {folder}: wait for it, or give another --out"
        ) from None
    # The system ends the lock with the process, however that ends; a lock file would stay.
    return weakref.finalize(parts, os.close, descriptor)


def _notes(folder: Place, parts: Parts) -> Path:
    """A folder of this machine: `folder`, or a new one that goes with `parts`."""
    if isinstance(folder, Path):
        return folder
    scratch = Path(tempfile.mkdtemp())
    weakref.finalize(parts, shutil.rmtree, scratch, ignore_errors=True)
    return scratch


def _files(folder: Place, inside: str = "") -> Iterator[str]:
    """The names of the images below `folder`, relative, folders sorted among the files.

    Links to folders are not followed: they may lead in a circle.
    """
    for name, is_folder, is_file in places.entries(folder / inside if inside else folder):
        if is_folder:
            yield from _files(folder, f"{inside}{name}/")
        elif is_file and name.lower().endswith(SUFFIXES):
            yield inside + name
