"""Large bodies: parsed on a thread, and only if their JSON holds a bounded number of values.

orjson holds Python's lock while it parses, so a thread alone would not free the event loop: 10 MB
of text take 10 ms, 10 MB of empty lists take a second.
"""

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

from service.errors import InvalidParameter
from service.image.header import LARGE_BYTES

MAX_VALUES = 10_000  # in a JSON body of images as text, with their parameters
# In one of numbers in JSON: 640 × 480 images of 3 channels have 921,600 values.
MAX_PIXEL_VALUES, MAX_PIXEL_LISTS = 1_000_000, 200_000
# What shows that a body has numbers: a tensor's datatype, or a list of them.
NUMBERS_TYPE = re.compile(rb'"(U?INT|FP)(8|16|32|64)"')
LISTED_NUMBERS = re.compile(rb"\[\s{0,9}-?[0-9]")
PIECE_BYTES = 128 * 1024  # of a form, parsed in one turn of the event loop

Result = TypeVar("Result")


async def parse(body: bytes, work: Callable[[], Result]) -> Result:
    """`work()`, which parses `body`: on a thread if that is large."""
    if len(body) <= LARGE_BYTES:
        return work()
    return await asyncio.to_thread(work)


def check_values(json: bytes, *, numbers: re.Pattern[bytes] | None = None) -> None:
    """Checks the number of values in `json` without parsing it; more are allowed where `numbers`
    are in it.

    Raises:
        InvalidParameter: more than MAX_VALUES, or than MAX_PIXEL_VALUES and MAX_PIXEL_LISTS.
    """
    if len(json) <= LARGE_BYTES:
        return
    pixels = numbers is not None and numbers.search(json) is not None
    most_values = MAX_PIXEL_VALUES if pixels else MAX_VALUES
    most_lists = MAX_PIXEL_LISTS if pixels else MAX_VALUES
    # Counts one more for each comma in a text; images as base64 have none.
    _check(json.count(b","), most_values, "values")
    _check(json.count(b"[") + json.count(b"{"), most_lists, "lists and objects")


def _check(count: int, limit: int, name: str) -> None:
    if count > limit:
        raise InvalidParameter(
            f"the JSON body has {count:,} {name} or more; the limit is {limit:,}: "
            "send images as files in base64, pixels as binary data or in a flat list"
        )
