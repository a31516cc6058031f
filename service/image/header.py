"""The parts of an image file before it is decoded: markers of JPEG, chunks of PNG and WebP, blocks
of GIF, tags of TIFF, boxes of HEIC.

Pillow walks through them in Python, about 1 µs each: a file of 10 MB can hold millions, and hold
the event loop for seconds. Here a walk counts them and gives up early.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Literal

from service.errors import UndecodableImage
from service.image import boxes, kinds

Kind = Literal["other", "packed", "pixels"]

LARGE_BYTES = 64 * 1024  # a larger body is read on a thread
QUICK_PARTS = 24  # Pillow reads so many within 0.1 ms
QUICK_BYTES = 1_024  # before the scan of a JPEG without EXIF; a turn of Pillow takes one at least
MOST: dict[Kind, int] = {
    "other": 1_000,
    "packed": 16,  # text and profiles that Pillow unpacks, up to 1 MB each
    "pixels": 10_000,  # a PNG of 10 MB has about 1,300 of the usual 8 kB
}
NAMES: dict[Kind, str] = {
    "other": "markers, chunks, blocks, boxes or tags",
    "packed": "chunks of packed text",
    "pixels": "chunks of pixels",
}
MOST_SCANS = 100  # of a progressive JPEG; encoders write about 10, and each costs a whole pass

_JPEG, _PNG, _RIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"
_GIF = b"GIF8"
_TIFFS: dict[bytes, Literal["big", "little"]] = {b"II*\0": "little", b"MM\0*": "big"}
_EXTENSION = 0x21  # begins a block of a GIF that is no image
_TAG_BYTES = 12  # of a TIFF
# Bytes of a value by the type of a tag (TIFF 6.0, section 2).
_VALUE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_SCAN = b"\xff\xda"
_START_OF_SCAN, _STUFFED, _FILL = 0xDA, 0x00, 0xFF
_WITHOUT_LENGTH = range(0xD0, 0xDA)  # restarts, start and end of an image
_PIXELS = (b"IDAT", b"fdAT", b"fcTL", b"ANMF")
_PACKED = (b"zTXt", b"iTXt", b"iCCP")


def is_quick(body: bytes) -> bool:
    """True if the header of `body` is read in less time than it takes to hand it to a thread."""
    if len(body) > LARGE_BYTES or kinds.is_heic(body):
        return False
    if body.startswith(_JPEG) and 0 < body.find(_SCAN) < QUICK_BYTES:
        return True
    first = list(islice(parts(body), QUICK_PARTS + 1))
    return len(first) <= QUICK_PARTS and "packed" not in first


def check(body: bytes) -> None:
    """Checks that the image in `body` has no more parts than MOST.

    Raises:
        UndecodableImage: it has more.
    """
    counts: Counter[Kind] = Counter()
    for kind in parts(body):
        counts[kind] += 1
        if counts[kind] > MOST[kind]:
            raise _too_many(NAMES[kind], MOST[kind])
    if body[:4] in _TIFFS and (named := _value_bytes(body, _TIFFS[body[:4]])) > len(body):
        raise UndecodableImage(
            f"the tags of the TIFF name {named:,} bytes, and it has {len(body):,}: save it anew"
        )
    # A scan's own bytes never hold its marker: 0xFF is followed by 0 there.
    if body.startswith(_JPEG) and body.count(_SCAN) > MOST_SCANS:
        raise _too_many("scans", MOST_SCANS)


def parts(body: bytes) -> Iterator[Kind]:
    """The parts of `body` that a decoder walks through; none for other formats."""
    if body.startswith((_PNG, _RIFF)):
        return _chunks(body, 8, "big") if body.startswith(_PNG) else _chunks(body, 12, "little")
    if body.startswith(_JPEG):
        return _markers(body)
    if body.startswith(_GIF):
        return _blocks(body)
    if body[:4] in _TIFFS:
        return _tags(body, _TIFFS[body[:4]])
    return _boxes(body) if kinds.is_heic(body) else iter(())


def _boxes(body: bytes) -> Iterator[Kind]:
    """The boxes of an HEIC."""
    for _ in boxes.walk(body):
        yield "other"


def _markers(body: bytes) -> Iterator[Kind]:
    """The turns of Pillow's loop over the markers of a JPEG, up to its first scan."""
    place = 2
    while place + 4 <= len(body):
        first, code = body[place], body[place + 1]
        if first == _FILL and code == _START_OF_SCAN:
            return
        yield "other"
        if first != _FILL or code == _FILL:  # Pillow skips such bytes one by one
            place += 1
        elif code == _STUFFED or code in _WITHOUT_LENGTH:
            place += 2
        else:
            place += 2 + max(2, int.from_bytes(body[place + 2 : place + 4]))


def _chunks(body: bytes, place: int, order: Literal["big", "little"]) -> Iterator[Kind]:
    """The chunks of a PNG (big-endian, with a checksum) or of a WebP (little-endian, padded)."""
    while place + 8 <= len(body):
        if order == "big":
            name, length = body[place + 4 : place + 8], body[place : place + 4]
            place += 12 + int.from_bytes(length)
        else:
            name, length = body[place : place + 4], body[place + 4 : place + 8]
            size = int.from_bytes(length, "little")
            place += 8 + size + size % 2
        yield "pixels" if name in _PIXELS else "packed" if name in _PACKED else "other"


def _blocks(body: bytes) -> Iterator[Kind]:
    """The blocks of a GIF's extensions up to its first image: Pillow joins those of a comment."""
    if len(body) <= 13:  # noqa: PLR2004 - the header and the screen
        return
    place = 13 + (3 << (body[10] & 7) + 1 if body[10] & 0x80 else 0)
    while place + 2 < len(body) and body[place] == _EXTENSION:
        place += 2
        while place < len(body) and body[place]:
            yield "other"
            place += 1 + body[place]
        place += 1


def _tags(body: bytes, order: Literal["big", "little"]) -> Iterator[Kind]:
    """The tags of the first directory of a TIFF."""
    for _ in _directory(body, order):
        yield "other"


def _value_bytes(body: bytes, order: Literal["big", "little"]) -> int:
    """The bytes of the values of a TIFF's first directory: Pillow has a copy of each."""
    return sum(
        _VALUE_BYTES.get(int.from_bytes(tag[2:4], order), 1) * int.from_bytes(tag[4:8], order)
        for tag in _directory(body, order)
    )


def _directory(body: bytes, order: Literal["big", "little"]) -> Iterator[bytes]:
    place = int.from_bytes(body[4:8], order)
    count = int.from_bytes(body[place : place + 2], order)
    for start in range(place + 2, place + 2 + count * _TAG_BYTES, _TAG_BYTES):
        tag = body[start : start + _TAG_BYTES]
        if len(tag) < _TAG_BYTES:
            return
        yield tag


def _too_many(parts_name: str, limit: int) -> UndecodableImage:
    return UndecodableImage(
        f"the image has more than {limit:,} {parts_name}: save it again without metadata"
    )
