"""Many images → one Parquet table, resumable, without a server."""

from importlib.util import find_spec

from service.errors import BulkError

if find_spec("pyarrow") is None:
    raise BulkError(
        "a folder needs pyarrow, which writes its Parquet table and is not installed: "
        "install the extra `bulk`, or `pip install pyarrow`"
    )
