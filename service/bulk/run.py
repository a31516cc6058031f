"""A folder of images → one table, by the engine that also serves, without a server.

Files are taken in the order of their names, folder by folder; shard 3 of 8 is every eighth of them, from the third on. A thread a core, and
one more, read, decode and predict as many images at a time as the engine takes, on the sessions of one thread. However long the folder, only
a few such batches and the names of one folder's files are in memory: the list of all names is a file.

Beside the table OUT lies, until it is complete, the folder OUT.parts: `job.json` says what was asked of which files, `names` holds their
names, and `part-00000.parquet` and so on the rows of a fixed number of files each. A part that is there is not made again, so that the
same command goes on where it was stopped, or killed. What the rows hold is in `service.bulk.run.parquet`.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from service.bulk import parquet
from service.bundle.manifest import Manifest
from service.errors import BodyTooLarge, BulkError, InvalidParameter, RequestError, Stopped, short
from service.explain import Question, Target, explain
from service.predictions import TOP_K, Calibrated, PredictionOptions, calibrate, prediction_of
from service.runtime.engine import Engine
from service.schedule.pipeline import fit_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FILES_A_PART = 256
EXPLAINED_A_PART = (
    32  # a map costs as much as hundreds of predictions, and an unfinished part is lost
)
BATCHES_A_WORKER = 4  # a large image should not leave the other threads without work
MOST_BYTES = 2**28  # of one file: all threads hold a batch of them
JOB, NAMES, LOCK = "job.json", "names", "lock"
UNREADABLE = "unreadable_file"

Fitted = UInt8[np.ndarray, "size size 3"]
Record = dict[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`-th, from 1, of `count` equal shares of the files."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that for example "3/8" names.

        Raises:
            InvalidParameter: it names none.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        shard = cls(int(found[1]), int(found[2])) if found else cls(0)
        if not 1 <= shard.number <= shard.count:
            raise InvalidParameter(f"shard is {short(text)}; give for example 3/8, from 1/8 to 8/8")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Job:
    """What is asked: the images of `folder` as the table `out`; the maps that answer `question` as .npy files in `maps`, if given."""

    folder: Path
    out: Path
    question: Question | None = None
    maps: Path | None = None
    shard: Shard = Shard()
    top_k: int = TOP_K

    def document(self, manifest: Manifest) -> dict[str, Any]:
        """What the rows depend on, as JSON values."""
        asked = self.question
        return {
            "folder": str(self.folder.resolve()),
            "model": f"{manifest.name} {manifest.version}",
            "method": asked and asked.method.name,
            "target": asked and asked.target and _named(asked.target, manifest),
            "parameters": asked and dict(asked.parameters),
            "quality": asked and asked.quality,
            "maps": self.maps and str(self.maps),
            "top_k": self.top_k,
            "shard": str(self.shard),
        }


class Batch(NamedTuple):
    """Files that are predicted together; with the `last` one of a part, the part is written to `path`."""

    names: list[str]
    path: Path
    last: bool


class Run:
    """One job: exhaust `work`, then `finish`. `total` files belong to it; `done` counts those in parts that are written."""

    def __init__(self, engine: Engine, job: Job, max_pixels: int, workers: int) -> None:
        """Lists the files; `workers` threads will work, and images of more than `max_pixels` become errors.

        Raises:
            BulkError: there are no images, another run is at work in OUT.parts, or it was begun with other settings or other files.
        """
        self._engine, self._job = engine.on_one_core(), job
        self._max_pixels, self._workers = max_pixels, workers
        self._parts = job.out.with_name(f"{job.out.name}.parts")
        self._part_files = EXPLAINED_A_PART if job.question else FILES_A_PART
        asked = job.document(engine.manifest)
        about = {
            "candor.name": engine.manifest.name,
            "candor.version": engine.manifest.version,
            "candor.job": json.dumps(asked),
        }
        self._columns = parquet.schema(about, explained=job.question is not None)
        self._unwritten: list[Record] = []
        self._unlock = weakref.finalize(self, os.close, _locked(self._parts))
        self.total = self._begin(
            asked | {"max_pixels": max_pixels, "files_a_part": self._part_files}
        )

    @property
    def done(self) -> int:
        """The files in parts that are written."""
        sizes = (
            min(self._part_files, self.total - start)
            for start in range(0, self.total, self._part_files)
        )
        return sum(
            size for path, size in zip(self._part_paths(), sizes, strict=True) if path.exists()
        )

    def work(self) -> Iterator[int]:
        """Makes the parts that are not there; yields the number of files of each batch.

        Raises:
            Stopped: SIGTERM or SIGINT came; batches that ran were finished, and whole parts are kept.
        """
        waiting: deque[tuple[Batch, Future[Any]]] = deque()
        with (
            _told_to_stop() as told,
            ThreadPoolExecutor(self._workers + 1) as pool,
        ):  # one reads or tells while the others compute
            for batch in self._batches():
                if told.is_set():
                    break
                waiting.append((batch, pool.submit(self._answer, batch.names)))
                if len(waiting) > BATCHES_A_WORKER * self._workers:
                    yield self._take(*waiting.popleft())
            while waiting and not (told.is_set() and waiting[0][1].cancel()):
                yield self._take(*waiting.popleft())
            pool.shutdown(cancel_futures=True)
        if told.is_set():
            kept = f"{self.done:,} of {self.total:,} files are done and kept in {self._parts}"
            raise Stopped(f"stopped: {kept}; the same command goes on from there")

    def finish(self) -> int:
        """Joins the parts to the table and removes them; the number of rows with an error."""
        errors = parquet.join(list(self._part_paths()), self._job.out, self._columns)
        shutil.rmtree(self._parts)
        self._unlock()
        return errors

    def _begin(self, asked: dict[str, Any]) -> int:
        """Lists the files, and begins or agrees with what was begun; the number of files."""
        if next(_files(self._job.folder), None) is None:
            raise BulkError(
                f"{self._job.folder} holds no file that ends in {', '.join(SUFFIXES)}: name a folder of images"
            )
        digest, total = hashlib.sha256(), 0
        with parquet.replacing(self._parts / NAMES) as file:
            for name in islice(
                _files(self._job.folder), self._job.shard.number - 1, None, self._job.shard.count
            ):
                line = json.dumps(name).encode() + b"\n"
                file.write(line)
                digest.update(line)
                total += 1
            self._agree(asked | {"files": total, "sha256 of their names": digest.hexdigest()})
        return total

    def _agree(self, asked: dict[str, Any]) -> None:
        try:
            begun = json.loads((self._parts / JOB).read_bytes())
        except FileNotFoundError:
            for part in self._parts.glob("part-*.parquet"):
                part.unlink()  # the end of a run was cut off while it tidied up
            with parquet.replacing(self._parts / JOB) as file:
                file.write(json.dumps(asked, indent=2).encode())
            return
        for key, value in asked.items():
            if begun.get(key) != value:
                raise BulkError(
                    f"{self._parts} was begun with {key} {json.dumps(begun.get(key))}, and this run has {json.dumps(value)}: "
                    "repeat what was begun, remove that folder to begin anew, or give another --out"
                )

    def _part_paths(self) -> Iterator[Path]:
        for number in range(-(-self.total // self._part_files)):
            yield self._parts / f"part-{number:05}.parquet"

    def _batches(self) -> Iterator[Batch]:
        """What is not done yet."""
        with (self._parts / NAMES).open("rb") as file:
            for path, lines in zip(
                self._part_paths(), _pieces(file, self._part_files), strict=True
            ):
                if path.exists():
                    continue
                pieces = list(_pieces(map(json.loads, lines), self._engine.most_rows))
                for piece in pieces:
                    yield Batch(piece, path, piece is pieces[-1])

    def _take(self, batch: Batch, answer: "Future[list[Record]]") -> int:
        self._unwritten += answer.result()
        if batch.last:
            parquet.write(self._unwritten, batch.path, self._columns)
            self._unwritten = []
        return len(batch.names)

    def _answer(self, names: list[str]) -> list[Record]:
        """The rows of the files `names`."""
        rows: list[Record] = [{"path": _text(name)} for name in names]
        read = [self._read(name, row) for name, row in zip(names, rows, strict=True)]
        good = [
            (name, row, fitted)
            for name, row, fitted in zip(names, rows, read, strict=True)
            if fitted is not None
        ]
        if good:
            every = self._engine.predict(np.stack([fitted for _, _, fitted in good]))
            calibrated = calibrate(every.rows(), every.logits, self._engine.manifest)
            for (name, row, fitted), said in zip(good, calibrated, strict=True):
                row.update(self._predicted(said))
                if self._job.question is not None:
                    row.update(self._explained(name, fitted, self._job.question, said.row.logits))
        return rows

    def _read(self, name: str, row: Record) -> Fitted | None:
        """The fitted image, its size and format noted in `row`; None, and the reason in `row`, if it cannot be taken."""
        try:
            sent = fit_image(
                _body(f"{self._job.folder}/{name}"),
                self._engine.manifest.input,
                self._max_pixels,
                keep=False,
            )
        except OSError as error:
            row |= {
                "error_code": UNREADABLE,
                "error_detail": f"the file cannot be read ({error.strerror}): see to it and run again",
            }
            return None
        except RequestError as error:
            row |= {"error_code": error.code, "error_detail": error.detail}
            return None
        row |= {"width": sent.width, "height": sent.height, "format": sent.format}
        return sent.fitted

    def _predicted(self, said: Calibrated) -> Record:
        found = prediction_of(said, self._engine.manifest, PredictionOptions(self._job.top_k))
        return {
            "label": found.best.label,
            "index": found.best.index,
            "probability": found.best.probability,
            "top_labels": [entry.label for entry in found.top],
            "top_probabilities": [entry.probability for entry in found.top],
            "logits": found.logits,
            "prediction_set": found.prediction_set and found.prediction_set.labels,
            "familiarity": found.familiarity and found.familiarity.score,
            "familiar": found.familiarity and found.familiarity.familiar,
        }

    def _explained(
        self, name: str, fitted: Fitted, question: Question, logits: Float32[np.ndarray, " classes"]
    ) -> Record:
        found = explain(self._engine, fitted, question, logits)
        if self._job.maps is not None:
            path = self._job.maps / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, found.map.astype("<f4"), allow_pickle=False)
        target = _named(found.target, self._engine.manifest)
        return {
            "method": question.method.name,
            "target": target,
            "quality": list(found.quality.items()),
        }


def _locked(parts: Path) -> int:
    """Makes the folder `parts` this process's own until the file descriptor that is returned is closed.

    Raises:
        BulkError: another run is at it.
    """
    parts.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(parts / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BulkError(
            f"another run is at work in {parts}: wait for it, or give another --out"
        ) from None
    return descriptor


def _body(path: str) -> bytes:
    """What the file holds.

    Raises:
        BodyTooLarge: more than MOST_BYTES.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a Path takes as long to make as the file to open
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise BodyTooLarge(
                f"the file has more than {MOST_BYTES:,} bytes, which is the limit: make the image smaller"
            )
        return file.readall()


def _files(folder: Path, inside: str = "") -> Iterator[str]:
    """The images of `folder` by name, relative, folders in their place among the files; links to folders are not followed."""
    with os.scandir(folder / inside) as entries:
        listed = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False), _is_file(entry)) for entry in entries
        )
    for name, is_folder, is_file in listed:
        if is_folder:
            yield from _files(folder, f"{inside}{name}/")
        elif is_file and name.lower().endswith(SUFFIXES):
            yield inside + name


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether it is to be read: a link that leads nowhere is, too, and becomes a row that says so."""
    try:
        return entry.is_file() or not Path(entry.path).exists()
    except OSError:  # a link to itself
        return True


def _pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` by `size`, the last piece with what is left."""
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece


def _named(target: Target, manifest: Manifest) -> str:
    """The target as `--target` takes it."""
    return ",".join(manifest.labels[index] for index in target.rows)


def _text(name: str) -> str:
    """A file's name as text that any reader takes: bytes of it that are no UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


@contextmanager
def _told_to_stop() -> Iterator[Event]:
    """An event that SIGTERM and SIGINT set; the second one does what the first would have done before."""
    told = Event()

    def prediction_of(number: int, _frame: FrameType | None) -> None:
        told.set()
        signal.signal(number, before[number])

    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }
    for number in before:
        signal.signal(number, prediction_of)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
