"""The boxes of an HEIC (ISO/IEC 23008-12, in boxes of 14496-12): their number, and what the file
says of its first image.

Only the metadata are walked; the pixels are decoded elsewhere (service.image.heic).
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from service.errors import UndecodableImage

# Containers, and the bytes of each before its boxes: the version, the flags, a count.
_INSIDE = {b"meta": 4, b"iinf": 6, b"iprp": 0, b"ipco": 0, b"iref": 4, b"dinf": 0, b"grpl": 0}
_DEEPEST = 4
_LONG, _TO_THE_END = 1, 0  # lengths that stand for something else
# The byte of hvcC for the sampling of chroma, before that for the bits of a sample beyond 8; and
# the samples a pixel: of grey, and of colours at a quarter, a half or all of the pixels.
_CHROMA, _SAMPLES = 16, (1.0, 1.5, 2.0, 3.0)
_ALPHA = (b"urn:mpeg:hevc:2015:auxid:1\0", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
_WIDE = 1  # a flag of ipma: two bytes for the number of a property


class Box(NamedTuple):
    """One box: its type, and where its content starts and ends in the file."""

    name: bytes
    start: int
    end: int


def walk(body: bytes) -> Iterator[Box]:
    """The boxes of a file in their order, with those inside the containers of its metadata."""
    return _walk(body, 0, len(body), 0)


def _walk(body: bytes, place: int, end: int, depth: int) -> Iterator[Box]:
    while place + 8 <= end:
        box, place = _box(body, place, end)
        yield box
        if box.name in _INSIDE and depth < _DEEPEST:
            yield from _walk(body, box.start + _inside(body, box), box.end, depth + 1)


def _box(body: bytes, place: int, end: int) -> tuple[Box, int]:
    """The box at `place`, and the place of the next one."""
    length, start = _number(body, place, 4), place + 8
    if length == _LONG:
        length, start = _number(body, start, 8), start + 8
    after = end if length == _TO_THE_END else min(end, max(place + length, start))
    return Box(body[place + 4 : place + 8], start, after), after


def _inside(body: bytes, box: Box) -> int:
    # Version 1 of iinf has a count of 4 bytes.
    return (
        8 if box.name == b"iinf" and body[box.start : box.start + 1] != b"\0" else _INSIDE[box.name]
    )


class FirstImage(NamedTuple):
    """The first image as the file names it, before it is turned or cut: `width` × `height` pixels,
    whose planes take `plane_bytes` a pixel, and one more if there is `alpha`.
    """

    width: int
    height: int
    plane_bytes: float
    alpha: bool

    @property
    def pixels(self) -> int:
        """Their number."""
        return self.width * self.height


def first_image(body: bytes) -> FirstImage:
    """What the metadata of a file say of its first image.

    Raises:
        UndecodableImage: they name no size, or boxes of the file are cut off.
    """
    if not _is_whole(body):
        raise UndecodableImage(f"the HEIC of {len(body):,} bytes is cut off: send it whole")
    found: dict[bytes, Box] = {}
    properties: list[Box] = []  # as ipco holds them, which stands before the first
    for box in walk(body):
        found.setdefault(box.name, box)
        outer = found.get(b"ipco")
        if outer and outer.start <= box.start and box.end <= outer.end:
            properties.append(box)
    with suppress(KeyError, IndexError):
        numbers = _associated(body, found[b"ipma"], _primary(body, found[b"pitm"]))
        own = {properties[number].name: properties[number].start for number in reversed(numbers)}
        extent = own[b"ispe"] + 4
        sides = _number(body, extent, 4), _number(body, extent + 4, 4)
        planes = [_plane_bytes(body, each) for each in properties if each.name == b"hvcC"]
        if 0 in sides:
            raise KeyError(b"ispe")
        alpha = any(_is_alpha(body, each) for each in properties if each.name == b"auxC")
        return FirstImage(*sides, max(planes, default=_SAMPLES[-1]), alpha)
    raise UndecodableImage(
        f"the HEIC of {len(body):,} bytes names no size of its first image: send it whole"
    )


def _plane_bytes(body: bytes, hvcc: Box) -> float:
    """The bytes a pixel of the planes of a stream, by its configuration (14496-15, 8.3.3)."""
    samples = _SAMPLES[body[hvcc.start + _CHROMA] & 3]
    return 2 * samples if body[hvcc.start + _CHROMA + 1] & 7 else samples


def _is_alpha(body: bytes, auxc: Box) -> bool:
    return body[auxc.start + 4 : auxc.end].startswith(_ALPHA)


def _is_whole(body: bytes) -> bool:
    """True if no outer box is longer than the rest of the file."""
    place = 0
    while 0 <= place <= len(body) - 8:
        length = _number(body, place, 4)
        if length == _LONG and place + 16 <= len(body):
            length = _number(body, place + 8, 8)
        if length == _TO_THE_END:
            return True
        place += max(length, 8)
    return place == len(body)


def _primary(body: bytes, pitm: Box) -> int:
    """The number of the first image."""
    return _number(body, pitm.start + 4, 4 if body[pitm.start] else 2)


def _associated(body: bytes, ipma: Box, item: int) -> list[int]:
    """The numbers of the properties of `item`, where 0 stands for none, as ipco lists them."""
    wide = 2 if body[ipma.start + 3] & _WIDE else 1
    of_item = 4 if body[ipma.start] else 2
    place = ipma.start + 8
    while place < ipma.end:
        count = body[place + of_item]
        first = place + of_item + 1
        if _number(body, place, of_item) == item:
            mask = (1 << 8 * wide - 1) - 1  # without the bit that says that it is essential
            return [_number(body, first + i * wide, wide) & mask for i in range(count)]
        place = first + count * wide
    raise KeyError(item)


def _number(body: bytes, place: int, length: int) -> int:
    if place + length > len(body):
        raise IndexError(place)
    return int.from_bytes(body[place : place + length])
