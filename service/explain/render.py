"""A map as a picture: drawn over what was sent, in its coordinates, so that the picture stays recognisable.

Signed maps take a diverging, colour-blind-safe scale: orange speaks for the target, blue against it. Others take a sequential one, the
stronger the darker violet. The picture is pale grey below; where the map is zero nothing is drawn. No JET: its bright bands invent
edges that are not there (Borland and Taylor 2007).
"""

import io

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from service.explain.methods import Scale
from service.images import Box, Pixels

FOR, AGAINST = (230, 97, 1), (44, 103, 178)
STRONG = (101, 31, 135)
PALE = 0.55  # how far the picture is taken towards white
STRONGEST = 0.9  # opacity of the strongest attribution
PERCENTILE = 99.5  # a single pixel does not set the scale
MAX_PIXELS = 4_000_000  # a larger picture is drawn smaller: the overlay is looked at, not measured

Ground = UInt8[np.ndarray, "ground_height ground_width 3"]


def ground(pixels: Pixels) -> Ground:
    """`pixels` as an overlay is drawn on them: scaled down to 4 MP if they are more."""
    height, width = pixels.shape[:2]
    factor = (MAX_PIXELS / (width * height)) ** 0.5
    if factor >= 1:
        return pixels
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def overlay(pixels: Pixels, values: Float32[np.ndarray, "size size"], box: Box, scale: Scale) -> Pixels:
    """`values`, a map of the part `box` of `pixels`, drawn over it; uint8 (H, W, 3) as large as `pixels`."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)[:, :, None]
    pale = 255 - (255 - grey) * (1 - PALE)
    height, width = pixels.shape[:2]
    strength = _placed(_relative(values, scale), (width, height), box)[:, :, None]
    colour = np.where(strength >= 0, *(np.array(c, np.float32) for c in _colours(scale)))
    opacity = STRONGEST * np.abs(strength)
    return np.asarray(np.rint(pale * (1 - opacity) + colour * opacity), np.uint8)


def png(pixels: Pixels) -> bytes:
    """`pixels` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _colours(scale: Scale) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (FOR, AGAINST) if scale == "diverging" else (STRONG, STRONG)


def _relative(values: Float32[np.ndarray, "size size"], scale: Scale) -> Float32[np.ndarray, "size size"]:
    """`values` in −1…1 (0…1 where the scale is sequential); all zeros stay zeros."""
    shown = values if scale == "diverging" else np.maximum(values, 0)
    most = float(np.percentile(np.abs(shown), PERCENTILE)) or float(np.abs(shown).max())
    return np.clip(shown / most, -1, 1) if most > 0 else np.zeros_like(shown)


def _placed(values: Float32[np.ndarray, "size size"], size: tuple[int, int], box: Box) -> Float[np.ndarray, "height width"]:
    """`values` scaled to `box` on a canvas of `size` (width, height), zero outside."""
    width, height = max(1, round(box.right) - round(box.left)), max(1, round(box.bottom) - round(box.top))
    patch = Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)
    canvas = Image.new("F", size, 0.0)
    canvas.paste(patch, (round(box.left), round(box.top)))
    return np.asarray(canvas)
