"""The table of a bulk run: Apache Parquet, one row a file, written in parts and joined at the end.

    path string                       relative to the folder, with slashes
    width, height int32               of the image as it was sent, and
    format string                     the format of its file
    label string, index int32         the predicted class
    probability double                its calibrated probability, 0…1
    top_labels list<string>           the most probable classes, and
    top_probabilities list<double>    their probabilities
    logits list<float>                of all classes
    likely list<string>               of a multi-label model, the classes from 0.5 on; else null
    prediction_set list<string>       of coverage 0.95; null if the bundle has no thresholds
    familiarity double, familiar bool null if the bundle has none
    error_code, error_detail string   null in a row with a prediction; in a row with an error, all
                                      the columns above but `path` are null
    method, target string             of explanations only; `target` is "cat", or "cat,dog"
    quality map<string, double>       the measures of the map

The metadata of the schema name the model (`candor.name`, `candor.version`) and the settings of the
job (`candor.job`, JSON).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.bulk import places
from service.bulk.places import Place
from service.bundle.manifest import Manifest
from service.errors import BulkError

GROUP_ROWS = 4096  # of a row group: with small groups a long table has a large footer
COMPRESSION = "zstd"

PREDICTED = (
    pa.field("path", pa.string(), nullable=False),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("format", pa.string()),
    pa.field("label", pa.string()),
    pa.field("index", pa.int32()),
    pa.field("probability", pa.float64()),
    pa.field("top_labels", pa.list_(pa.string())),
    pa.field("top_probabilities", pa.list_(pa.float64())),
    pa.field("logits", pa.list_(pa.float32())),
    pa.field("likely", pa.list_(pa.string())),
    pa.field("prediction_set", pa.list_(pa.string())),
    pa.field("familiarity", pa.float64()),
    pa.field("familiar", pa.bool_()),
    pa.field("error_code", pa.string()),
    pa.field("error_detail", pa.string()),
)
EXPLAINED = (
    pa.field("method", pa.string()),
    pa.field("target", pa.string()),
    pa.field("quality", pa.map_(pa.string(), pa.float64())),
    pa.field("warnings", pa.list_(pa.string())),
)


def metadata(manifest: Manifest) -> dict[str, str]:
    """What names the model in the metadata of a schema."""
    return {"candor.name": manifest.name, "candor.version": manifest.version}


def schema(metadata: Mapping[str, str], *, explained: bool) -> pa.Schema:
    """The columns; those of explanations among them if `explained`."""
    return pa.schema(PREDICTED + EXPLAINED * explained, metadata=dict(metadata))


def write(rows: Sequence[Mapping[str, Any]], path: Place, columns: pa.Schema) -> None:
    """Writes a part; a column that a row does not have is null."""
    with places.replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=columns), file, compression=COMPRESSION)


def join(folder: Place, parts: Sequence[str], out: Place, columns: pa.Schema) -> int:
    """Writes the rows of all `parts` of `folder`, in order, to `out`; counts rows with errors.

    Memory holds a row group at a time.

    Raises:
        BulkError: a part is damaged.
    """
    errors = 0
    with (
        places.replacing(out) as file,
        pq.ParquetWriter(file, columns, compression=COMPRESSION) as writer,
    ):
        for group in _groups(folder, parts):
            errors += len(group) - group["error_code"].null_count
            writer.write_table(group.combine_chunks())
    return errors


def _groups(folder: Place, parts: Sequence[str]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    contents = places.contents(folder, parts)
    for part in parts:
        held.append(_read(folder / part, contents))
        if sum(map(len, held)) >= GROUP_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _read(part: Place, contents: Iterator[bytes]) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(next(contents)))
    except (pa.ArrowInvalid, OSError) as error:
        raise BulkError(
            f"{part} is damaged ({error}): remove it, and the same command makes it again"
        ) from None
