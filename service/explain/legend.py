"""The legend of an overlay: a strip below it with method, target, colour bar, values and unit.

The overlay keeps its place at the upper left, pixel for pixel; an overlay too narrow for the words
stands on a wider canvas. Images are uint8 (H, W, 3), lengths are pixels.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from service.bundle.manifest import Manifest
from service.explain import render
from service.explain.attribution import Attribution
from service.explain.colours import Scale
from service.image.resize import Pixels

LEAST_WIDTH = 256  # pixels
# The height of the text: a share of the width, from SMALLEST to LARGEST.
SMALLEST, LARGEST, SHARE = 13, 40, 1 / 32
MOST_LINES = 3
PAPER, TEXT, FRAME = (255, 255, 255), (45, 45, 45), (150, 150, 150)
NO_GLYPH = "\uffff"  # the Unicode standard promises that this is no character
PLAIN = str.maketrans({"×": "x", "−": "-", "–": "-", "—": "-"})

Font = ImageFont.FreeTypeFont
Sheet = UInt8[np.ndarray, "sheet_height sheet_width 3"]
Line = tuple[str, str, str]  # the words at the left, in the middle and at the right


@dataclass(frozen=True)
class Legend:
    """The contents of a legend: a `heading`, a `note` or "", and a bar of the colours of `scale`.

    The bar ends at `limit`, in `unit`; a `limit` of zero has no bar. `below` and `above` are true
    if values lie beyond its ends.
    """

    heading: str
    note: str
    scale: Scale
    limit: float
    unit: str
    below: bool
    above: bool


def legend_of(
    attribution: Attribution, manifest: Manifest, logits: Float32[np.ndarray, " classes"]
) -> Legend:
    """The legend of the attribution of an image with `logits` float32 (K,)."""
    method, target, values = attribution.question.method, attribution.target, attribution.shown
    probabilities = manifest.calibration.probabilities(logits)

    def name_of(index: int) -> str:
        label = _label(manifest.name_of(index), index)
        return f"{label} ({_percent(float(probabilities[index]))})"

    rival = "" if target.against is None else f" rather than {name_of(target.against)}"
    hidden = method.scale == "sequential" and bool(values.min() < 0)
    limit = attribution.limit
    notes = [_replaced(attribution)]
    if attribution.nothing:
        notes.append("there is nothing to explain")
    elif hidden:
        notes.append("what speaks against it is not shown" if limit else "nothing speaks for it")
    if limit and attribution.cell > 1:
        notes.append(f"means of cells of {attribution.cell} pixels of the network's input")
    heading = f"{_plain(attribution.question.title)} for {name_of(target.index)}{rival}"
    return Legend(
        heading,
        "; ".join(note for note in notes if note),
        method.scale,
        limit,
        method.unit,
        *render.exceeds(values, method.scale, limit),
    )


def of_replacement(attribution: Attribution) -> Legend | None:
    """The line of an overlay without a legend if another method was asked for; else None."""
    words = _replaced(attribution)
    if not words:
        return None
    title = _plain(attribution.question.method.title)
    scale = attribution.question.method.scale
    return Legend(f"{title}, {words}", "", scale, 0.0, "", below=False, above=False)


def _replaced(attribution: Attribution) -> str:
    asked = attribution.degraded_from
    if asked is None or asked.method is attribution.question.method:
        return ""
    return f"not {_plain(asked.method.title)} as asked: there was no time"


def below(pixels: Pixels, legend: Legend) -> Sheet:
    """Puts `legend` below `pixels`; uint8 (H + strip, max(W, 256), 3)."""
    height, width = pixels.shape[:2]
    strip = _strip(legend, max(width, LEAST_WIDTH))
    canvas = np.full((height + len(strip), strip.shape[1], 3), PAPER, np.uint8)
    canvas[:height, :width] = pixels
    canvas[height:] = strip
    return canvas


def _strip(legend: Legend, width: int) -> Sheet:
    font = _font(min(LARGEST, max(SMALLEST, round(SHARE * width))))
    line, edge = round(1.35 * font.size), round(0.7 * font.size)
    heading, caption = _lines(legend, font, width - 2 * edge)
    bar = line if legend.limit > 0 else 0
    strip = Image.new("RGB", (width, line * (len(heading) + len(caption)) + bar + 2 * edge), PAPER)
    _write(strip, heading, font, edge)
    if legend.limit > 0:
        top = edge + line * len(heading) + line // 8
        _bar(strip, legend, (edge, top), (width - edge, top + round(0.7 * line)))
    _write(strip, caption, font, edge + line * len(heading) + bar)
    return np.asarray(strip)


def _lines(legend: Legend, font: Font, width: int) -> tuple[list[Line], list[Line]]:
    """The lines above and below the bar."""
    heading, note = (
        [(text, "", "") for text in _wrapped(words, font, width)]
        for words in (legend.heading, legend.note)
    )
    most = f"{legend.limit:.3g}"
    if legend.limit == 0:
        return heading, note
    if legend.scale == "diverging":
        return heading, [(f"-{most}", "0", f"+{most}"), ("against", legend.unit, "for"), *note]
    return heading, [
        ("0", "", most),
        *((text, "", "") for text in _wrapped(legend.unit, font, width)),
        *note,
    ]


def _write(strip: Image.Image, lines: list[Line], font: Font, y: int) -> None:
    draw, height, edge = ImageDraw.Draw(strip), round(1.35 * font.size), round(0.7 * font.size)
    for left, middle, right in lines:
        draw.text((edge, y), left, TEXT, font)
        draw.text((strip.width // 2, y), middle, TEXT, font, anchor="ma")
        draw.text((strip.width - edge, y), right, TEXT, font, anchor="ra")
        y += height


def _bar(strip: Image.Image, legend: Legend, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Draws the colours from the least to the most; an end is pointed if values lie beyond it."""
    (left, top), (right, bottom) = start, end
    strengths = np.linspace(-1 if legend.scale == "diverging" else 0, 1, right - left)
    white = np.full((bottom - top, right - left, 3), 255, np.uint8)
    # The drawing of a white image. The bar has lines as an overlay of its width does.
    marks = render.marks_of(right - left)
    border = (marks.outline,) * 2
    bordered = np.pad(np.tile(strengths, (bottom - top, 1)), (border, border), mode="edge")
    colours = render.inked(white, bordered, legend.scale, marks)
    strip.paste(Image.fromarray(colours), (left, top))
    draw, middle, point = ImageDraw.Draw(strip), (top + bottom) // 2, (bottom - top) // 2
    for beyond, tip, inner in (
        (legend.below, left, left + point),
        (legend.above, right, right - point),
    ):
        if beyond:
            draw.polygon([(tip, top), (inner, top), (tip, middle)], PAPER)
            draw.polygon([(tip, bottom), (inner, bottom), (tip, middle)], PAPER)
    first, last = left + point * legend.below, right - point * legend.above
    draw.polygon(
        [
            (first, top),
            (last, top),
            (right, middle),
            (last, bottom),
            (first, bottom),
            (left, middle),
        ],
        outline=FRAME,
    )


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Wraps `text` into at most three lines of `width` pixels; dots replace the rest of it."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    kept, rest = lines[: MOST_LINES - 1], lines[MOST_LINES - 1 :]
    return [_shortened(line, font, width) for line in kept + ([" ".join(rest)] if rest else [])]


def _shortened(line: str, font: Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    # Every character is at least a pixel wide, so no more than `width` of them can fit.
    length = next(
        count
        for count in range(min(len(line), width), -1, -1)
        if font.getlength(line[:count] + "...") <= width
    )
    return line[:length] + "..."


def _label(label: str, index: int) -> str:
    """`label` without accents, or "class INDEX" if the font cannot draw it."""
    # Pillow's own font holds little more than ASCII; no other is sure to be installed.
    plain = _plain(label)
    return plain if plain and all(_drawable(character) for character in plain) else f"class {index}"


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(PLAIN))
    letters = (character for character in decomposed if not unicodedata.combining(character))
    return " ".join("".join(letters).split())


def _percent(share: float) -> str:
    # Rounded, such a share would read 0.0%.
    return "<0.1%" if share < 0.001 else f"{share:.1%}"  # noqa: PLR2004


@lru_cache(maxsize=1024)
def _drawable(character: str) -> bool:
    missing, glyph = _font(SMALLEST).getmask(NO_GLYPH), _font(SMALLEST).getmask(character)
    return (glyph.size, bytes(glyph)) != (missing.size, bytes(missing))


@lru_cache(maxsize=LARGEST)
def _font(size: int) -> Font:
    font = ImageFont.load_default(size)
    assert isinstance(font, Font), "Pillow is built without FreeType"
    return font
