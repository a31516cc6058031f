"""Images that the tests draw. They need no download and have no licence but ours.

Pixels are uint8 (H, W, 3), RGB, where nothing else is written.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (50, 190, 60), "red": (220, 50, 40)}


def draw(
    colour: str = "red", size: int = 32, seed: int = 0, width: int | None = None
) -> np.ndarray:
    """A disc of one colour somewhere on a noisy grey ground: (size, width, 3)."""
    rng = np.random.default_rng(seed)
    width = width or size
    image = rng.integers(90, 160, (size, width, 1)).repeat(3, axis=2)
    y, x = np.mgrid[:size, :width]
    top, left = rng.uniform(0.3, 0.7, 2) * (size, width)
    disc = (y - top) ** 2 + (x - left) ** 2 < (min(size, width) / 4) ** 2
    image[disc] = np.array(COLOURS[colour]) + rng.integers(-20, 21, (disc.sum(), 3))
    return image.astype(np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """`pixels`, uint8 (H, W), (H, W, 3) or (H, W, 4), as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def folder(root: Path, each: int = 40, size: int = 32) -> None:
    """Writes ROOT/{train,test}/{blue,green,red}/*.png.

    A class has `each` training images, and a quarter as many for testing.
    """
    for split, count, offset in (("train", each, 0), ("test", max(each // 4, 2), 10_000)):
        for colour in COLOURS:
            target = root / split / colour
            target.mkdir(parents=True)
            for number in range(count):
                (target / f"{number:04}.png").write_bytes(
                    encode(draw(colour, size, seed=offset + number))
                )


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A Pillow image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def header_of(width: int, height: int) -> bytes:
    """The beginning of a PNG that declares `width` × `height` RGB pixels and holds none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
