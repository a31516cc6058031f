"""A bulk run: the work of a job, on the engine that also serves.

A pool of one thread a core, and one more, reads, decodes and predicts batches of the engine's size.
Memory holds a few of them and the names of one folder's files, however long the folder is.
`service.bulk.parquet` describes the rows.
"""

import io
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from service.bulk import parquet, places
from service.bulk.job import Job, Parts, pieces
from service.bulk.places import Place
from service.bulk.rows import Map, Record, Rows
from service.errors import Stopped
from service.image import budget
from service.image.budget import Budget
from service.runtime.engine import Engine
from service.workers.signals import stop_event

BATCHES_A_WORKER = 4  # a large image should not leave the other threads without work


class FileBatch(NamedTuple):
    """Files that are predicted together; after the `last` batch of a part, `path` is written."""

    names: list[str]
    path: Place
    last: bool


class Run:
    """A job at work: exhaust `work`, then call `finish`. `total` is its number of files."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        max_pixels: int,
        workers: int,
        decode_bytes: int = 0,
    ) -> None:
        """Prepares `workers` threads; images of more than `max_pixels` will be errors.

        `decode_bytes`: the memory that decoded images may take; 0 is a share of what is left.

        Raises:
            BulkError: there are no images, another run is at work in OUT.parts, or it was started
                with other settings or other files.
        """
        images = Budget(budget.IMAGES, budget.images_bytes(decode_bytes, workers=1))
        self._rows = Rows(engine, job.question, job.top_k, max_pixels, images)
        self._job, self._workers = job, workers
        settings = job.document(engine.manifest)
        metadata = parquet.metadata(engine.manifest) | {"candor.job": json.dumps(settings)}
        self._columns = parquet.schema(metadata, explained=job.question is not None)
        self._unwritten: list[Record] = []
        self._parts = Parts(
            job, settings | {"max_pixels": max_pixels, "files_a_part": job.part_files}
        )
        self.total = self._parts.total

    @property
    def done(self) -> int:
        """The number of files in the parts that are written."""
        return self._parts.done

    def work(self) -> Iterator[int]:
        """Makes the parts that are missing; yields the number of files of each batch.

        Raises:
            Stopped: SIGTERM or SIGINT came; running batches were finished, whole parts are kept.
        """
        waiting: deque[tuple[FileBatch, Future[list[Record]]]] = deque()
        # One thread more than there are cores: it reads or writes while the others compute.
        with stop_event() as stop, ThreadPoolExecutor(self._workers + 1) as pool:
            for batch in self._batches():
                if stop.is_set():
                    break
                waiting.append((batch, pool.submit(self._records, batch.names)))
                if len(waiting) > BATCHES_A_WORKER * self._workers:
                    yield self._collect(*waiting.popleft())
            while waiting and not (stop.is_set() and waiting[0][1].cancel()):
                yield self._collect(*waiting.popleft())
            pool.shutdown(cancel_futures=True)
        if stop.is_set():
            kept = (
                f"{self.done:,} of {self.total:,} files are done and kept in {self._parts.folder}"
            )
            raise Stopped(f"stopped: {kept}; the same command continues from there")

    def finish(self) -> int:
        """Joins the parts to the table and removes them; returns the number of rows with errors."""
        parts = [path.name for path in self._parts.paths()]
        errors = parquet.join(self._parts.folder, parts, self._job.out, self._columns)
        self._parts.remove()
        return errors

    def _batches(self) -> Iterator[FileBatch]:
        for path, names in self._parts.missing():
            batches = list(pieces(names, self._rows.most))
            for number, batch in enumerate(batches, start=1):
                yield FileBatch(batch, path, last=number == len(batches))

    def _collect(self, batch: FileBatch, records: "Future[list[Record]]") -> int:
        """Waits for the records of `batch`, and writes the part that they complete."""
        self._unwritten += records.result()
        if batch.last:
            parquet.write(self._unwritten, batch.path, self._columns)
            self._unwritten = []
        return len(batch.names)

    def _records(self, names: list[str]) -> list[Record]:
        """The rows of the files `names`, computed in a thread of the pool."""
        maps = self._job.maps

        def keep(number: int, found: Map) -> None:
            if maps is not None:
                file = io.BytesIO()
                np.save(file, found.astype("<f4"), allow_pickle=False)
                places.write(maps / f"{names[number]}.npy", file.getvalue())

        return self._rows.of(places.images(self._job.folder, names), keep)
