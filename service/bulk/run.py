"""A bulk run: the work of a job, on the engine that also serves.

A pool of one thread a core, and one more, reads, decodes and predicts batches of the engine's size.
Memory holds a few of them and the names of one folder's files, however long the folder is.
`service.bulk.parquet` describes the rows.
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from service.bulk import parquet
from service.bulk.job import Job, Parts, pieces, target_text
from service.errors import BodyTooLarge, RequestError, Stopped
from service.explain import Question, explain
from service.image import budget
from service.image.budget import Budget
from service.image.resize import InputPixels
from service.predictions import Calibrated, PredictionOptions, calibrate, prediction_of
from service.runtime.engine import Engine
from service.schedule.pipeline import fit_image
from service.workers.signals import stop_event

BATCHES_A_WORKER = 4  # a large image should not leave the other threads without work
MOST_BYTES = 2**28  # of one file: every thread holds a batch of them
UNREADABLE = "unreadable_file"

Record = dict[str, Any]


class FileBatch(NamedTuple):
    """Files that are predicted together; after the `last` batch of a part, `path` is written."""

    names: list[str]
    path: Path
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
        # Every thread of the pool uses sessions of one thread, or the threads would share cores.
        self._engine, self._job = engine.on_one_core(), job
        self._max_pixels, self._workers = max_pixels, workers
        self._images = Budget(budget.IMAGES, budget.images_bytes(decode_bytes, workers=1))
        settings = job.document(engine.manifest)
        metadata = {
            "candor.name": engine.manifest.name,
            "candor.version": engine.manifest.version,
            "candor.job": json.dumps(settings),
        }
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
        errors = parquet.join(list(self._parts.paths()), self._job.out, self._columns)
        self._parts.remove()
        return errors

    def _batches(self) -> Iterator[FileBatch]:
        for path, names in self._parts.missing():
            batches = list(pieces(names, self._engine.most_rows))
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
        records: list[Record] = [{"path": _printable(name)} for name in names]
        inputs = [self._read(name, record) for name, record in zip(names, records, strict=True)]
        good = [
            (name, record, pixels)
            for name, record, pixels in zip(names, records, inputs, strict=True)
            if pixels is not None
        ]
        if good:
            outputs = self._engine.predict(np.stack([pixels for _, _, pixels in good]))
            results = calibrate(outputs.rows(), outputs.logits, self._engine.manifest)
            for (name, record, pixels), result in zip(good, results, strict=True):
                record.update(self._prediction(result))
                if self._job.question is not None:
                    record.update(
                        self._explanation(name, pixels, self._job.question, result.row.logits)
                    )
        return records

    def _read(self, name: str, record: Record) -> InputPixels | None:
        """The network's input; notes the image's size and format in `record`, or the error."""
        try:
            sent = fit_image(
                _content(f"{self._job.folder}/{name}"),
                self._engine.manifest.input,
                self._max_pixels,
                keep=False,
                images=self._images,
            )
        except OSError as error:
            detail = f"the file cannot be read ({error.strerror}): correct that and run again"
            record |= {"error_code": UNREADABLE, "error_detail": detail}
            return None
        except RequestError as error:
            record |= {"error_code": error.code, "error_detail": error.detail}
            return None
        record |= {"width": sent.width, "height": sent.height, "format": sent.format}
        return sent.fitted

    def _prediction(self, result: Calibrated) -> Record:
        prediction = prediction_of(
            result, self._engine.manifest, PredictionOptions(self._job.top_k)
        )
        familiarity, members = prediction.familiarity, prediction.prediction_set
        labels = self._engine.manifest.labels
        return {
            "label": prediction.best.label,
            "index": prediction.best.index,
            "probability": prediction.best.probability,
            "top_labels": [entry.label for entry in prediction.top],
            "top_probabilities": [entry.probability for entry in prediction.top],
            "logits": prediction.logits,
            "likely": prediction.likely and [entry.label for entry in prediction.likely],
            "prediction_set": members and [labels[index] for index in members.indices.tolist()],
            "familiarity": familiarity and familiarity.score,
            "familiar": familiarity and familiarity.familiar,
        }

    def _explanation(
        self,
        name: str,
        pixels: InputPixels,
        question: Question,
        logits: Float32[np.ndarray, " classes"],
    ) -> Record:
        attribution = explain(self._engine, pixels, question, logits)
        if self._job.maps is not None:
            path = self._job.maps / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, attribution.map.astype("<f4"), allow_pickle=False)
        return {
            "method": question.method.name,
            "target": target_text(attribution.target, self._engine.manifest),
            "quality": list(attribution.quality.items()),
            "warnings": list(attribution.warnings),
        }


def _content(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        BodyTooLarge: there are more than MOST_BYTES.
    """
    # A Path takes as long to make as a small file to open.
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise BodyTooLarge(
                f"the file has more than {MOST_BYTES:,} bytes, the limit: make the image smaller"
            )
        return file.readall()


def _printable(name: str) -> str:
    """A file's name as UTF-8 text; bytes that are none are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")
