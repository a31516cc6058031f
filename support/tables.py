"""Tables of bulk runs, beside each other."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Other batches round otherwise.
FLOATS = ("logits", "probability", "top_probabilities", "familiarity", "quality")


def agree(found: pa.Table, expected: pa.Table) -> None:
    """Fails unless both tables have the same rows in the same order, floats to 1e-4."""
    assert found.schema.names == expected.schema.names
    for name in found.schema.names:
        ours, theirs = found[name].to_pylist(), expected[name].to_pylist()
        if name in FLOATS:
            assert [one is None for one in ours] == [one is None for one in theirs], name
            for one, other in zip(ours, theirs, strict=True):
                if one is not None:
                    np.testing.assert_allclose(_numbers(one), _numbers(other), atol=1e-4)
        else:
            assert ours == theirs, name


def by_path(place: Path) -> pa.Table:
    """The table in a file, or in the files of a folder, in the order of paths."""
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    tables = [pq.read_table(file) for file in files]
    return pa.concat_tables(tables, promote_options="permissive").sort_by("path")


def _numbers(value: object) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return np.array([number for _, number in value], float)
    return np.atleast_1d(np.asarray(value, float))
