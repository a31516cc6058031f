"""A map as an image: drawn over what was sent, in its coordinates, so that the image stays recognisable.

The image becomes a pale grey print, and the map an ink upon it (`service.explain.colours`): each pixel of the print is multiplied with the
colour of the map there, so that light and shade of the image show through the strongest colour, and nothing is drawn where the map
is zero. No JET: its bright bands invent edges that are not there (Borland and Taylor 2007).
"""

import io

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from service.explain.colours import Scale, ink
from service.image.resize import Box, Pixels

DARKEST = 0.5  # of the print, 0…1: black would swallow the ink
PERCENTILE = 99.5  # a single pixel does not set the scale
MAX_PIXELS = 4_000_000  # a larger image is drawn smaller: the overlay is looked at, not measured
LEAST_SIDE = 256  # a smaller image is magnified for a person

Map = Float32[np.ndarray, "size size"]
Ground = UInt8[np.ndarray, "ground_height ground_width 3"]


def ground(pixels: Pixels, least_width: int = 1) -> Ground:
    """`pixels` as an overlay is drawn on them: scaled down so that 4 MP hold them, on a canvas of at least `least_width`."""
    height, width = pixels.shape[:2]
    factor = min((MAX_PIXELS / (width * height)) ** 0.5, MAX_PIXELS / (least_width * height))
    if factor >= 1:
        return pixels
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def magnified(pixels: Pixels) -> Ground:
    """`pixels`, each repeated so often that the longer side has up to 256 pixels."""
    times = max(1, LEAST_SIDE // max(pixels.shape[:2]))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def overlay(pixels: Pixels, values: Map, box: Box, scale: Scale) -> Pixels:
    """`values`, a map of the part `box` of `pixels`, drawn over it; uint8 (H, W, 3) as large as `pixels`."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)[:, :, None]
    print_ = 255 * DARKEST + grey * np.float32(1 - DARKEST)
    height, width = pixels.shape[:2]
    strength = _placed(_relative(values, scale), (width, height), box)
    return np.asarray(np.rint(print_ * ink(strength, scale)), np.uint8)


def limit(values: Map, scale: Scale) -> float:
    """The value that the strongest colour stands for: the 99.5th percentile of what is shown; 0 where all of it is zero."""
    shown = np.abs(_shown(values, scale))
    return float(np.percentile(shown, PERCENTILE)) or float(shown.max())


def exceeds(values: Map, scale: Scale) -> tuple[bool, bool]:
    """Whether values lie below and above those that the scale ends with."""
    shown, most = _shown(values, scale), limit(values, scale)
    return bool(shown.min() < -most), bool(shown.max() > most)


def png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """`pixels` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _shown(values: Map, scale: Scale) -> Map:
    """A sequential scale shows the positive part."""
    return values if scale == "diverging" else np.maximum(values, 0)


def _relative(values: Map, scale: Scale) -> Map:
    """`values` in −1…1 (0…1 where the scale is sequential); all zeros stay zeros."""
    shown, most = _shown(values, scale), limit(values, scale)
    return np.clip(shown / np.float32(most), -1, 1) if most > 0 else np.zeros_like(shown)


def _placed(
    values: Float32[np.ndarray, "size size"], size: tuple[int, int], box: Box
) -> Float[np.ndarray, "height width"]:
    """`values` scaled to `box` on a canvas of `size` (width, height), zero outside."""
    width, height = (
        max(1, round(box.right) - round(box.left)),
        max(1, round(box.bottom) - round(box.top)),
    )
    patch = Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)
    canvas = Image.new("F", size, 0.0)
    canvas.paste(patch, (round(box.left), round(box.top)))
    return np.asarray(canvas)
