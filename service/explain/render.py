"""Overlays: a map drawn over the sent image, in the image's own coordinates.

Where the map says nothing the image keeps its colours, below a signed map half of them. Where it is
strong, a pale grey print of the image takes their place, multiplied by the colour of the map
(`service.explain.colours`): so light and shade show through the strongest colour. For eyes and
prints without colours, what speaks against the target is hatched, and a line runs around what has
half of the strongest colour for it. What the network did not see is dark behind a white frame.
Images are uint8 (height, width, 3); maps float32 (H, W).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16
from PIL import Image

from service.explain.colours import Scale, parts, tinted
from service.image.resize import Box, Pixels

DARKEST = 0.4  # grey of the print where the image is black, 0…1: on black no ink would show
PERCENTILE = 99.5  # so that a single pixel does not set the scale
SMALL = 64 * 64  # values of maps that are put in order all together
LARGE = (0.9, 0.7, 0.4)  # shares of the largest value, from which on values are put in order
MAX_PIXELS = 4_000_000  # a larger image is drawn smaller: an overlay is for the eye
STRIP_PIXELS = 2**16  # that are drawn at once
LEAST_SIDE = 256  # a smaller image is magnified for a person
DIMMED = 0.4  # of the light of what the network did not see
FRAME = 1 / 160  # the width of the frame, as a share of the overlay's shorter side
# Of the image's colours, the share that goes: orange and blue ink have to differ from them, violet
# hardly ever is one.
MUTED: Mapping[Scale, float] = {"diverging": 0.5, "sequential": 0.0}
MARKED_SIDE = 96  # pixels of the shorter side: lines would hide a smaller image
HATCHES = 36  # lines along the shorter side
OUTLINED = 0.5  # the strength that a line runs around
OUTLINE = 1 / 300  # its width, as a share of the shorter side
LINE = 0.45  # the light that a line takes

Map = Float32[np.ndarray, "H W"]
Parts = UInt16[np.ndarray, "height width"]  # numbers in 1/256
Bordered = Float[np.ndarray, "rows columns"]  # strengths, with those of pixels around
Ground = UInt8[np.ndarray, "ground_height ground_width 3"]
Part = tuple[int, int, int, int]  # left, top, right and bottom, in whole pixels

_DARKEST, _PALE = round(255 * DARKEST), round(256 * (1 - DARKEST))
_LINE = np.uint16(round(256 * LINE))


def ground(pixels: Pixels, least_width: int = 1) -> Ground:
    """Scales `pixels` down until 4 MP hold them on a canvas at least `least_width` pixels wide."""
    height, width = pixels.shape[:2]
    factor = min((MAX_PIXELS / (width * height)) ** 0.5, MAX_PIXELS / (least_width * height))
    if factor >= 1:
        return pixels
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def magnified(pixels: Pixels) -> Ground:
    """Repeats each pixel so often that the longer side has up to 256 pixels."""
    times = max(1, LEAST_SIDE // max(pixels.shape[:2]))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def overlay(
    pixels: Pixels, values: Map, box: Box, scale: Scale, most: float | None = None
) -> Pixels:
    """Draws `values`, a map of the part `box` of `pixels`, over `pixels`.

    `most` is the value of the strongest colour, that of `limit` if not given.
    """
    height, width = pixels.shape[:2]
    seen = _whole(box)
    inside = _cut(seen, width, height)
    most = limit(values, scale) if most is None else most
    marks = marks_of(min(width, height))
    drawn = pixels.copy()
    # Outside of what the network saw, only a signed map changes colours.
    left, top, right, bottom = (0, 0, width, height) if MUTED[scale] else inside
    part = drawn[top:bottom, left:right]
    moved = seen[0] - left, seen[1] - top, seen[2] - left, seen[3] - top
    canvas = _placed(
        _relative(values, scale, most), (right - left, bottom - top), moved, marks.outline
    )
    rows = max(1, STRIP_PIXELS // (right - left))
    # Drawn whole, the steps would hold 50 bytes a pixel.
    for row in range(0, len(part), rows):
        strip = part[row : row + rows]
        bordered = canvas.crop((0, row, canvas.width, row + len(strip) + 2 * marks.outline))
        strip[:] = inked(strip, np.asarray(bordered), scale, marks, row)
    _frame(drawn, inside)
    return drawn


class Marks(NamedTuple):
    """Widths in pixels: from one line of the hatching to the next, and of an outline; 0 is none."""

    period: int
    outline: int


def marks_of(shorter: int) -> Marks:
    """The marks on an overlay with so many pixels along its shorter side."""
    if shorter < MARKED_SIDE:
        return Marks(0, 0)
    return Marks(max(6, round(shorter / HATCHES)), max(1, round(OUTLINE * shorter)))


def inked(pixels: Pixels, bordered: Bordered, scale: Scale, marks: Marks, top: int = 0) -> Pixels:
    """`pixels` under the ink of strengths. `top` is their row.

    `bordered` are the strengths with those of as many pixels around as an outline is wide.
    """
    height, width = pixels.shape[:2]
    edge = marks.outline
    strength = bordered[edge : edge + height, edge : edge + width]
    inks, left = tinted(strength, scale)
    # Colour by colour: numpy takes three times as long over rows of three numbers. In whole numbers
    # of 16 bits: half as long as in float32.
    red, green, blue = colours = [pixels[:, :, each].astype(np.uint16) for each in range(3)]
    grey = _rounded(77 * red + 150 * green + 29 * blue)  # ITU-R BT.601
    pale = _rounded(grey * _PALE) + _DARKEST
    if marks.period:
        pale = _rounded(pale * (256 - _marked(bordered, strength, marks, top)))
    if muted := round(256 * MUTED[scale]):
        colours = [_rounded(each * (256 - muted) + grey * muted) for each in colours]
    mixed = (ink * pale + colour * left for ink, colour in zip(inks, colours, strict=True))
    return np.stack([_rounded(each).astype(np.uint8) for each in mixed], 2)


def _rounded(sums: Parts) -> Parts:
    """`sums` of 1/256, in whole numbers."""
    sums += 128
    sums >>= 8
    return sums


def _marked(
    bordered: Bordered, strength: Float[np.ndarray, "height width"], marks: Marks, top: int
) -> Parts:
    """The light that lines take of each pixel, in 1/256: hatching below zero, outlines above."""
    height, width = strength.shape
    strong, edge = bordered >= OUTLINED, marks.outline
    rows, columns = slice(edge, edge + height), slice(edge, edge + width)
    within = strong[:height, columns] & strong[2 * edge :, columns]
    within &= strong[rows, :width] & strong[rows, 2 * edge :]
    lines = (strong[rows, columns] & ~within) * _LINE
    against = strength < 0
    if against.any():
        period = np.arange(marks.period)
        off = np.abs(period - marks.period / 2)
        hatch = parts(LINE * np.clip(marks.period / 10 + 0.5 - off, 0, 1))
        # Row by row the pattern moves one pixel to the left.
        moved = hatch[np.add.outer(period, np.arange(width)) % marks.period]
        lines += moved[np.arange(top, top + height) % marks.period] * against
    return lines


def _frame(drawn: Pixels, inside: Part) -> None:
    """Darkens what is outside of `inside`, and draws a white line around it."""
    height, width = drawn.shape[:2]
    left, top, right, bottom = inside
    if (right - left, bottom - top) == (width, height):
        return
    outside = (
        np.s_[:top],
        np.s_[bottom:],
        np.s_[top:bottom, :left],
        np.s_[top:bottom, right:],
    )
    for part in outside:
        # In place: an overlay may have 4 megapixels.
        np.multiply(drawn[part], DIMMED, out=drawn[part], casting="unsafe", dtype=np.float32)
    line = max(1, round(FRAME * min(width, height)))
    first, last = max(0, top - line), bottom + line
    start, end = max(0, left - line), right + line
    drawn[first:top, start:end] = 255
    drawn[bottom:last, start:end] = 255
    drawn[first:last, start:left] = 255
    drawn[first:last, right:end] = 255


def limit(values: Map, scale: Scale) -> float:
    """The value of the strongest colour: the 99.5th percentile of the shown absolute values.

    It is 0 if all of them are.
    """
    return limits(values[None], scale)[0]


def limits(maps: Float32[np.ndarray, "maps H W"], scale: Scale) -> list[float]:
    """The `limit` of each of several maps of one size."""
    # A sequential scale shows the positive part alone.
    shown = (np.abs(maps) if scale == "diverging" else maps).reshape(len(maps), -1)
    largest = shown.max(1).tolist()
    if shown.shape[1] <= SMALL:
        found = _percentiles(shown, PERCENTILE)
    else:
        found = [_percentile(*each, PERCENTILE) for each in zip(shown, largest, strict=True)]
    # A map with few values above zero has 0 as its percentile: then the largest sets the scale.
    return [each or max(0.0, most) for each, most in zip(found, largest, strict=True)]


def _percentiles(rows: Float32[np.ndarray, "maps values"], percent: float) -> list[float]:
    """`np.percentile` of each row of few values; negative values count as 0. Faster."""
    place = (rows.shape[1] - 1) * percent / 100
    first, last = math.floor(place), math.ceil(place)
    # Quicker than numpy's partition by two places.
    ordered = np.sort(rows, axis=1)[:, first : last + 1].tolist()
    return [_between(max(0.0, each[0]), max(0.0, each[-1]), place - first) for each in ordered]


def _percentile(values: Float32[np.ndarray, " values"], largest: float, percent: float) -> float:
    """The same of many values, for a high `percent`; `largest` is the largest of them."""
    place = (values.size - 1) * percent / 100
    first = math.floor(place)
    # Few values are large: the others need no order.
    for share in LARGE if largest > 0 else ():
        large = values[values >= np.float32(share * largest)]
        if large.size >= values.size - first:
            break
    else:
        large = values.copy()
    place -= values.size - large.size
    first, last = math.floor(place), math.ceil(place)
    large.partition((first, last))
    below, above = (max(0.0, float(large[each])) for each in (first, last))
    return _between(below, above, place - first)


def _between(below: float, above: float, share: float) -> float:
    return below + (above - below) * share


def exceeds(values: Map, scale: Scale, most: float) -> tuple[bool, bool]:
    """(Below, above): whether values lie beyond the ends of a scale from −`most` to `most`."""
    shown = _shown(values, scale)
    return bool(shown.min() < -most), bool(shown.max() > most)


def _shown(values: Map, scale: Scale) -> Map:
    # A sequential scale shows the positive part alone.
    return values if scale == "diverging" else np.maximum(values, 0)


def _relative(values: Map, scale: Scale, most: float) -> Map:
    """`values` as strengths, −1…1 (0…1 on a sequential scale); all zeros if `most` is zero."""
    least = -1 if scale == "diverging" else 0
    return np.clip(values / np.float32(most), least, 1) if most > 0 else np.zeros_like(values)


def _whole(box: Box) -> Part:
    """`box` in whole pixels, at least one wide and high."""
    left, top = round(box.left), round(box.top)
    return left, top, max(left + 1, round(box.right)), max(top + 1, round(box.bottom))


def _cut(seen: Part, width: int, height: int) -> Part:
    """What of `seen` lies within an image."""
    return max(seen[0], 0), max(seen[1], 0), min(seen[2], width), min(seen[3], height)


def _placed(values: Map, size: tuple[int, int], seen: Part, border: int) -> Image.Image:
    """`values` scaled to `seen` on a canvas of `size` (width, height), zero outside.

    The canvas has `border` more pixels on every side.
    """
    left, top, right, bottom = seen
    width, height = right - left, bottom - top
    # Of a box that reaches far beyond the canvas only the part inside is made.
    x, y = max(0, -left), max(0, -top)
    across, down = min(width, size[0] - left) - x, min(height, size[1] - top) - y
    columns, rows = values.shape[1] / width, values.shape[0] / height
    part = (x * columns, y * rows, (x + across) * columns, (y + down) * rows)
    patch = Image.fromarray(values).resize((across, down), Image.Resampling.BILINEAR, box=part)
    canvas = Image.new("F", (size[0] + 2 * border, size[1] + 2 * border), 0.0)
    canvas.paste(patch, (left + x + border, top + y + border))
    return canvas
