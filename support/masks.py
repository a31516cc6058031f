"""Masks that the tests send, good and bad, and the image that they belong to."""

import numpy as np
from PIL import Image

from support.images import draw, encode, header_of, saved

IMAGE = encode(draw(size=64, width=96))


def stripes(height: int = 64, width: int = 96, count: int = 4) -> np.ndarray:
    """`count` upright stripes of equal width, with values far apart: uint8 (height, width)."""
    values = np.arange(width) * count // width * 50 + 3
    return np.broadcast_to(values, (height, width)).astype(np.uint8)


MASK = encode(stripes())
# name → (body, words of the message); "one value" can be decoded and has too few segments
BAD = {
    "a JPEG": (encode(stripes(), "JPEG"), "is no PNG"),
    "noise": (b"noise", "is no PNG"),
    "cut off": (MASK[: len(MASK) // 2], "damaged or cut off"),
    "only a beginning": (MASK[:20], "cut off"),
    "colours": (IMAGE, "the channels RGB; a single channel is required"),
    "transparency": (saved(Image.fromarray(stripes()).convert("LA")), "the channels LA"),
    "another size": (
        encode(stripes(63)),
        "the mask is 96×63 px and the image, as it is displayed, 96×64 px",
    ),
    "turned": (encode(stripes(96, 64)), "the mask is 64×96 px"),
    "40,000 x 40,000": (header_of(40_000, 40_000) + MASK[33:], "the mask is 40000×40000 px"),
    "one value": (
        encode(np.full((64, 96), 7, np.uint8)),
        "has 1 segments in the 32×32 px that the network sees; the limits are 2 and 1,024",
    ),
}
