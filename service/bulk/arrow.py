"""Arrow batches of image files → Arrow batches of rows, for engines that spread work over machines.

    from service.bulk.arrow import Predictor

    predictor = Predictor("s3://models/mine", explain="grad_cam")
    rows = predictor(batch)    # a RecordBatch for a RecordBatch, a Table for a Table

A batch has a column of file bytes (binary) and one of paths or ids (string); its rows are those of
a bulk run, in the order of the batch: `service.bulk.parquet` lists the columns. A predictor holds
settings alone, so that it pickles in a few hundred bytes. Each process opens the bundle at its
first batch, once for all predictors that are equal; their threads share it.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pyarrow as pa

from service.bulk import parquet
from service.bulk.job import pieces
from service.bulk.places import File
from service.bulk.rows import Record, Rows
from service.bundle.delivery import deliver
from service.bundle.folder import load
from service.bundle.source import BUNDLE, DIGEST
from service.errors import BulkError
from service.explain import ask
from service.image import budget
from service.image.budget import MAX_PIXELS, Budget
from service.predictions import TOP_K, check_top_k
from service.runtime.engine import Engine
from service.settings import EMBEDDED, Device
from service.workers import host

Columns = TypeVar("Columns", pa.RecordBatch, pa.Table)


@dataclass(frozen=True)
class Predictor:
    """Predicts, and explains if `explain` names a method, the images of Arrow batches.

    An image that cannot be read is a row with an error. Calls raise where there can be no rows:

    BundleError: the bundle cannot be used.
    InvalidParameter, MethodUnavailable: the bundle has no such method, target or parameter.
    BulkError: a batch lacks a column, or a column has another type.
    Unavailable: the device fails.
    """

    # A folder, an archive or an address that every machine can read; or an embedded one's name.
    bundle: str | Path = "cifar10"
    digest: str | None = None  # of the bundle's manifest: another one is rejected
    explain: str | None = None
    target: str | None = None  # a label or an index, or two; by default the predicted class
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of the method: {"steps": 64}
    quality: Literal["basic", "full"] = "basic"
    top_k: int = TOP_K
    device: Device = "cpu"
    threads: int = 1  # that share a batch: as many as the cores that an engine gives to a process
    max_pixels: int = MAX_PIXELS  # larger images are errors
    content: str = "bytes"  # the column of file bytes
    path: str = "path"  # the column of paths or ids
    root: str = ""  # what is cut from the front of each path, so that it is as in a bulk run

    @property
    def schema(self) -> pa.Schema:
        """The columns of the answers; known without a bundle."""
        return parquet.schema({}, explained=self.explain is not None)

    def __call__(self, batch: Columns) -> Columns:
        """The rows of a batch, in its order."""
        opened = _opened(self)
        records = opened.records(self._files(batch))
        columns = self.schema.with_metadata(opened.metadata)
        answer: Columns = type(batch).from_pylist(records, schema=columns)
        return answer

    def map(self, batches: Iterable[Columns]) -> Iterator[Columns]:
        """The rows of each batch."""
        return map(self, batches)

    def _files(self, batch: Columns) -> Iterator[File]:
        """The files of a batch; bytes that are null are empty, which is an error of their row."""
        paths = self._column(batch, self.path, pa.string())
        if paths.null_count:
            raise BulkError(f"the column {self.path!r} has nulls: give every image a path or an id")
        contents = self._column(batch, self.content, pa.large_binary())
        for path, content in zip(paths, contents, strict=True):
            name = str(path).removeprefix(self.root)
            yield File(name.removeprefix("/") if self.root else name, partial(_bytes, content))

    def _column(self, batch: Columns, name: str, kind: pa.DataType) -> Any:
        """A column, as one of the type `kind`."""
        if name not in batch.schema.names:
            raise BulkError(
                f"the batch has no column {name!r}, it has {', '.join(batch.schema.names)}: "
                "name the columns with Predictor(content=…, path=…)"
            )
        try:
            return batch.column(name).cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            found = batch.schema.field(name).type
            raise BulkError(
                f"the column {name!r} is of type {found}, which is no {kind}: file bytes are "
                "binary, and paths or ids are text or whole numbers"
            ) from None


class _Opened(NamedTuple):
    rows: Rows
    pool: ThreadPoolExecutor | None
    metadata: dict[str, str]

    def records(self, files: Iterable[File]) -> list[Record]:
        """The rows of `files`, made by the threads of the pool if there is one."""
        parts = pieces(files, self.rows.most)
        run = map if self.pool is None else self.pool.map
        return list(chain.from_iterable(run(self.rows.of, parts)))


_lock = threading.Lock()
_bundles: dict[str, _Opened] = {}


def _opened(predictor: Predictor) -> _Opened:
    """The rows of `predictor`, whose bundle this process opens once."""
    # The fields, for an engine may make a class of its own of this one (Ray Data does).
    key = json.dumps([getattr(predictor, each.name) for each in fields(Predictor)], default=str)
    with _lock:  # or two threads would open it
        if key not in _bundles:
            _bundles[key] = _open(predictor)
        return _bundles[key]


def _open(predictor: Predictor) -> _Opened:
    name = str(predictor.bundle)
    environment = {BUNDLE: str(EMBEDDED.get(name, name))}
    if predictor.digest is not None:
        environment[DIGEST] = predictor.digest
    deliver(environment)
    bundle = load(Path(environment[BUNDLE]), predictor.digest)
    manifest, question = bundle.manifest, None
    top_k = check_top_k(predictor.top_k, manifest)
    if predictor.explain is not None:
        asked = predictor.target, predictor.parameters, predictor.quality
        question = ask(manifest, predictor.explain, *asked)
    # As beside other workers, which an engine starts on a machine: one a core, as a rule.
    engine = Engine(bundle, predictor.device, 1, alone=False)
    images = Budget(budget.IMAGES, budget.images_bytes(0, workers=host.cores()))
    rows = Rows(engine, question, top_k, predictor.max_pixels, images)
    pool = ThreadPoolExecutor(predictor.threads) if predictor.threads > 1 else None
    return _Opened(rows, pool, parquet.metadata(manifest))


def _bytes(content: Any) -> bytes:
    """The bytes of a value of Arrow; none of a null."""
    return content.as_py() or b""
