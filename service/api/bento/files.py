"""Image files as callers in Python give them."""

import base64
import binascii
import io
from pathlib import Path
from typing import Any


def file_bytes(value: Any) -> bytes:
    """The bytes of an image file: given as bytes, a Path, an image of Pillow (as PNG), or base64
    text.

    Raises:
        ValueError: `value` is something else, or text that is not base64.
        OSError: the Path cannot be read.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Path):
        return value.read_bytes()
    # Text is never a path: it may come from another machine, and would read a file of this one.
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(
                f"the text of {len(value):,} characters is not base64 ({error}): give bytes or a "
                "pathlib.Path"
            ) from None
    if hasattr(value, "save"):
        buffer = io.BytesIO()
        value.save(buffer, "PNG")
        return buffer.getvalue()
    raise ValueError(
        f"the image is a {type(value).__name__}: give bytes, a pathlib.Path or an image of Pillow"
    )
