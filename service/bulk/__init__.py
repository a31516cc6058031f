"""A folder of images → one Parquet table, resumable, without a server."""
