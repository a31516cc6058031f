"""Overlays: a map drawn over the sent image, in the image's own coordinates.

The image becomes a pale grey print and the map an ink upon it (`service.explain.colours`): each
pixel of the print is multiplied by the colour of the map there. So the image stays recognisable
below the strongest colour, and a zero draws nothing. Images are uint8 (height, width, 3); maps
float32 (H, W).
"""

import io

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from service.explain.colours import Scale, ink
from service.image.resize import Box, Pixels

DARKEST = 0.5  # grey of the print where the image is black, 0…1: on black no ink would show
PERCENTILE = 99.5  # so that a single pixel does not set the scale
MAX_PIXELS = 4_000_000  # a larger image is drawn smaller: an overlay is for the eye
STRIP_PIXELS = 2**16  # that are drawn at once
LEAST_SIDE = 256  # a smaller image is magnified for a person

Map = Float32[np.ndarray, "H W"]
Ground = UInt8[np.ndarray, "ground_height ground_width 3"]


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


def overlay(pixels: Pixels, values: Map, box: Box, scale: Scale) -> Pixels:
    """Draws `values`, a map of the part `box` of `pixels`, over `pixels`."""
    height, width = pixels.shape[:2]
    canvas = _placed(_relative(values, scale), (width, height), box)
    drawn, rows = np.empty_like(pixels), max(1, STRIP_PIXELS // width)
    # Drawn whole, the steps would hold 50 bytes a pixel.
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        strength = np.asarray(canvas.crop((0, top, width, min(top + rows, height))))
        drawn[strip] = _inked(pixels[strip], strength, scale)
    return drawn


def _inked(
    pixels: Pixels, strength: Float[np.ndarray, "height width"], scale: Scale
) -> Float32[np.ndarray, "height width 3"]:
    """The print of `pixels` under the ink of `strength`; whole numbers, 0…255."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)[:, :, None]
    pale = 255 * DARKEST + grey * np.float32(1 - DARKEST)
    return np.asarray(np.rint(pale * ink(strength, scale)))


def limit(values: Map, scale: Scale) -> float:
    """The value of the strongest colour: the 99.5th percentile of the shown absolute values.

    It is 0 if all of them are.
    """
    shown = np.abs(_shown(values, scale))
    # A map with few values above zero has 0 as its percentile: then the largest sets the scale.
    return float(np.percentile(shown, PERCENTILE)) or float(shown.max())


def exceeds(values: Map, scale: Scale) -> tuple[bool, bool]:
    """(Below, above): whether values lie beyond the lower and the upper end of the scale."""
    shown, most = _shown(values, scale), limit(values, scale)
    return bool(shown.min() < -most), bool(shown.max() > most)


def png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """`pixels` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _shown(values: Map, scale: Scale) -> Map:
    # A sequential scale shows the positive part alone.
    return values if scale == "diverging" else np.maximum(values, 0)


def _relative(values: Map, scale: Scale) -> Map:
    """`values` as strengths, −1…1 (0…1 on a sequential scale); all zeros stay zeros."""
    shown, most = _shown(values, scale), limit(values, scale)
    return np.clip(shown / np.float32(most), -1, 1) if most > 0 else np.zeros_like(shown)


def _placed(values: Float32[np.ndarray, "H W"], size: tuple[int, int], box: Box) -> Image.Image:
    """`values` scaled to `box` on a canvas of `size` (width, height), zero outside."""
    left, top = round(box.left), round(box.top)
    width, height = max(1, round(box.right) - left), max(1, round(box.bottom) - top)
    # Of a box that reaches far beyond the canvas only the part inside is made.
    x, y = max(0, -left), max(0, -top)
    across, down = min(width, size[0] - left) - x, min(height, size[1] - top) - y
    columns, rows = values.shape[1] / width, values.shape[0] / height
    part = (x * columns, y * rows, (x + across) * columns, (y + down) * rows)
    patch = Image.fromarray(values).resize((across, down), Image.Resampling.BILINEAR, box=part)
    canvas = Image.new("F", size, 0.0)
    canvas.paste(patch, (left + x, top + y))
    return canvas
