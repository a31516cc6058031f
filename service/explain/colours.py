"""Colour scales: the strength of an attribution as an ink, and how much of the image it covers.

A strength is −1…1 (0…1 on the sequential scale); zero is white, an ink that changes nothing.
Diverging: white to orange for the target, white to blue against it. Sequential: white to violet.
A colour is float32 (…, 3), sRGB in 0…1.

The stops are our own, in Oklab (Björn Ottosson, "A perceptual color space for image processing",
2020, https://bottosson.github.io/posts/oklab/), with straight lines between them.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt16

Scale = Literal["diverging", "sequential"]
STEPS = 256  # colours from white to either end
# The strength from which on no colour of the image itself is left. A map of one sign has hardly any
# zeros, and would hide the image if its weak parts took much.
SOLID: Mapping[Scale, float] = {"diverging": 0.5, "sequential": 0.9}

# Stops are (lightness 0…1, chroma, hue in degrees). Orange and blue stay apart for every common
# kind of colour blindness, and are equally light, so that neither side looks stronger. Lightness
# falls along each side: a stronger value is always a darker one.
_WHITE = (1.0, 0.0, 0.0)
_ORANGE = (_WHITE, (0.86, 0.095, 68.0), (0.73, 0.155, 58.0), (0.61, 0.145, 50.0))
_BLUE = (_WHITE, (0.86, 0.075, 248.0), (0.73, 0.130, 252.0), (0.61, 0.160, 257.0))
_VIOLET = (_WHITE, (0.84, 0.090, 310.0), (0.68, 0.165, 307.0), (0.52, 0.200, 303.0))

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

Colours = Float64[np.ndarray, "*shape 3"]


def ink(strength: Float[np.ndarray, "*shape"], scale: Scale) -> Float32[np.ndarray, "*shape 3"]:
    """The colour of each strength −1…1."""
    return np.asarray(_TABLES[scale].take(_steps(strength), 0))


def opacity(strength: Float[np.ndarray, "*shape"], scale: Scale) -> Float32[np.ndarray, "*shape"]:
    """The share 0…1 of a pixel that the ink of each strength −1…1 takes from the image."""
    return np.asarray(np.minimum(np.abs(strength) / SOLID[scale], 1), np.float32)


def tinted(
    strength: Float[np.ndarray, "*shape"], scale: Scale
) -> tuple[UInt16[np.ndarray, "3 ..."], UInt16[np.ndarray, "*shape"]]:
    """The ink of each strength times its opacity, and what is left for the image, in 1/256."""
    steps = _steps(strength)
    return np.asarray(_TINTS[scale].take(steps, 1)), np.asarray(_LEFT[scale].take(steps))


def parts(shares: Float[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """Shares 0…1 in 1/256, so that they multiply 8-bit values within 16 bits."""
    return np.asarray(np.rint(256 * shares), np.uint16)


def _steps(strength: Float[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    # The half rounds: to cut the rest off is quicker.
    return np.asarray(strength * (STEPS - 1) + (STEPS - 0.5), np.intp)


def tables() -> dict[str, list[str]]:
    """The scales for the page: 2 · STEPS − 1 colours "#rrggbb" each, of the strengths −1 to 1."""
    return {
        str(scale): [f"#{bytes(colour).hex()}" for colour in np.rint(255 * table).astype(np.uint8)]
        for scale, table in _TABLES.items()
    }


def oklab(srgb: Colours) -> Colours:
    """Converts sRGB in 0…1 to lightness 0…1, green to red, and blue to yellow."""
    # IEC 61966-2-1, as below.
    low, high = srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4
    linear = np.where(srgb <= 0.04045, low, high)  # noqa: PLR2004
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T)


def _srgb(lab: Colours) -> Colours:
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3) @ np.linalg.inv(_TO_LMS).T
    root = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.asarray(np.where(linear <= 0.0031308, 12.92 * linear, root))  # noqa: PLR2004


def _side(stops: tuple[tuple[float, float, float], ...]) -> Colours:
    """STEPS colours along the straight lines between `stops`."""
    lightness, chroma, hue = np.array(stops).T
    lab = np.stack([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))])
    steps, positions = np.linspace(0, 1, STEPS), np.linspace(0, 1, len(stops))
    return _srgb(np.stack([np.interp(steps, positions, values) for values in lab], axis=1))


def _table(against: Colours, favour: Colours) -> Float32[np.ndarray, "both_sides 3"]:
    """The colours of −1…1, 2 · STEPS − 1 of them."""
    both = np.concatenate([against[:0:-1], favour])
    # Rounded because the way from Oklab leaves white at 0.9999999: it must change nothing.
    return np.asarray(np.clip(both.round(6), 0, 1), np.float32)


_TABLES: dict[Scale, Float32[np.ndarray, "both_sides 3"]] = {
    "diverging": _table(_side(_BLUE), _side(_ORANGE)),
    "sequential": _table(np.ones((STEPS, 3)), _side(_VIOLET)),
}
_OPACITIES = {scale: opacity(np.linspace(-1, 1, 2 * STEPS - 1), scale) for scale in _TABLES}
_TINTS = {
    scale: parts(table * _OPACITIES[scale][:, None]).T.copy() for scale, table in _TABLES.items()
}
_LEFT = {scale: parts(1 - shares) for scale, shares in _OPACITIES.items()}
