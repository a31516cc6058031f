"""Colour profiles (ICC): the colours of a file as sRGB, which cameras and networks mean by RGB.

A manifest says whether a network was trained on such images (`input.colour`: "srgb") or on the
samples as they are stored ("as-sent"). A profile that cannot be used is ignored, as browsers do.
"""

import io
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

Colour = Literal["srgb", "as-sent"]

MOST_BYTES = 2**21  # of a profile that is read; those of printing have up to 2 MB
MODES = ("RGB", "RGBA", "L", "LA", "CMYK")
SAME = 1  # of 255, by which the colours of a profile may differ from sRGB's and count as the same

_ICC = b"ICC_PROFILE\0"
_APP2, _HEAD = b"\xff\xe2", 14  # a segment of a JPEG with a part of a profile, and what precedes it
_MOST_PARTS = 255
_LATTICE = (51 * np.indices((6, 6, 6), np.uint8)).reshape(3, 1, -1).transpose(1, 2, 0).copy()


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image` in sRGB; itself where its profile is sRGB, unusable or missing."""
    alpha = image.mode in ("RGBA", "LA")
    transform = _transform(profile, image.mode.removesuffix("A")) if profile else None
    if transform is None:
        return image
    if not alpha:
        return _applied(transform, image)
    *samples, opacity = image.split()
    plain = Image.merge(image.mode.removesuffix("A"), samples)
    turned = _applied(transform, plain)
    turned.putalpha(opacity)
    return turned


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    if image.mode != "L":
        return transform.apply(image)
    # Of 256 levels each is computed exactly, and looked up.
    levels = np.asarray(transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))
    return image.convert("RGB").point(levels[0].T.ravel().tolist())


def differs(profile: bytes, mode: str) -> bool:
    """True if an image with `profile` has other colours than in sRGB."""
    return _transform(profile, mode) is not None


def profile_of_jpeg(body: bytes) -> bytes | None:
    """The profile in a JPEG's application segments; None if there is none."""
    parts: dict[int, bytes] = {}
    place = body.find(_ICC)
    while place >= 0 and len(parts) < _MOST_PARTS:
        start = place - 4
        if body[start : start + 2] == _APP2:
            length = int.from_bytes(body[start + 2 : start + 4])
            parts[body[place + len(_ICC)]] = body[place + _HEAD : start + 2 + length]
        place = body.find(_ICC, place + len(_ICC))
    return b"".join(parts[number] for number in sorted(parts)) or None


# Requests with the same profile share what it becomes; its tables take some 100 kB.
@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if len(profile) > MOST_BYTES or mode not in MODES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # The intent of browsers; that in the profile's header leaves the black of SWOP grey.
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
            ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return None if mode == "RGB" and _is_identity(transform) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    turned = np.asarray(transform.apply(Image.fromarray(_LATTICE)))
    return bool(np.abs(turned.astype(int) - _LATTICE).max() <= SAME)
