"""Images for the gallery, drawn here so that anyone may redistribute them.

Each has 256 × 256 pixels and the outline of its object.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE, FINE = 256, 1024  # drawn four times as large, then scaled down: smooth edges
LIGHT = 0.16  # the gain of brightness from the middle of the image to its top
SOFT = 3  # pixels of blur at FINE
GRAIN = 5.0  # grey levels of noise

Colour = tuple[int, int, int]
Point = tuple[float, float]
# A part of an object: "polygon", "ellipse" (two corners) or "line"; points are 0…1 of the side.
Part = tuple[str, Colour, Sequence[Point]]


@dataclass(frozen=True)
class Drawing:
    """`pixels` uint8 (256, 256, 3) and `mask` uint8 (256, 256).

    The mask is 255 on the object, and 0 or 128 on the two parts of the background.
    """

    pixels: np.ndarray
    mask: np.ndarray


def ship() -> Drawing:
    """A freighter at sea."""
    hull = [(0.06, 0.56), (0.94, 0.53), (0.86, 0.70), (0.14, 0.70)]
    parts: list[Part] = [
        ("polygon", (38, 46, 66), hull),
        ("polygon", (150, 45, 40), [(0.125, 0.665), (0.875, 0.665), (0.855, 0.71), (0.15, 0.71)]),
        ("polygon", (236, 236, 230), [(0.14, 0.36), (0.36, 0.36), (0.36, 0.555), (0.14, 0.558)]),
        ("polygon", (220, 222, 220), [(0.17, 0.28), (0.31, 0.28), (0.31, 0.365), (0.17, 0.365)]),
        *(
            (
                "polygon",
                (50, 66, 88),
                [(x, 0.305), (x + 0.025, 0.305), (x + 0.025, 0.33), (x, 0.33)],
            )
            for x in (0.185, 0.225, 0.265)
        ),
        *(
            ("polygon", (70, 86, 104), [(x, 0.42), (x + 0.02, 0.42), (x + 0.02, 0.445), (x, 0.445)])
            for x in (0.16, 0.21, 0.26, 0.31)
        ),
        ("polygon", (196, 68, 44), [(0.20, 0.15), (0.27, 0.15), (0.275, 0.285), (0.195, 0.285)]),
        ("polygon", (30, 30, 34), [(0.20, 0.15), (0.27, 0.15), (0.271, 0.18), (0.199, 0.18)]),
        *(
            ("polygon", colour, [(x, y), (x + 0.125, y - 0.002), (x + 0.125, 0.545), (x, 0.55)])
            for x, y, colour in (
                (0.40, 0.46, (182, 98, 52)),
                (0.53, 0.42, (66, 112, 120)),
                (0.66, 0.46, (188, 160, 84)),
            )
        ),
        ("line", (70, 70, 76), [(0.84, 0.535), (0.84, 0.30)]),
        ("line", (70, 70, 76), [(0.84, 0.32), (0.92, 0.53)]),
    ]
    sea = _ground(
        0.60, ((150, 186, 222), (222, 230, 234)), ((84, 124, 156), (24, 62, 98)), waves=0.20, seed=1
    )
    return _drawing(sea, 0.60, parts, seed=1)


def airplane() -> Drawing:
    """An airliner in the sky."""
    body = [
        (0.05, 0.50),
        (0.10, 0.455),
        (0.22, 0.435),
        (0.74, 0.435),
        (0.95, 0.40),
        (0.95, 0.425),
        (0.78, 0.54),
        (0.20, 0.545),
        (0.09, 0.53),
    ]
    parts: list[Part] = [
        ("polygon", (150, 158, 168), [(0.46, 0.44), (0.56, 0.44), (0.72, 0.30), (0.66, 0.30)]),
        ("polygon", (232, 234, 238), body),
        ("polygon", (170, 176, 186), [(0.09, 0.52), (0.80, 0.505), (0.76, 0.545), (0.20, 0.55)]),
        ("polygon", (36, 74, 140), [(0.76, 0.437), (0.88, 0.22), (0.955, 0.22), (0.93, 0.415)]),
        ("polygon", (196, 202, 210), [(0.80, 0.43), (0.98, 0.375), (1.0, 0.39), (0.88, 0.45)]),
        *(
            ("ellipse", (60, 72, 92), [(x, 0.462), (x + 0.014, 0.482)])
            for x in np.arange(0.20, 0.74, 0.03)
        ),
        ("polygon", (48, 60, 80), [(0.085, 0.468), (0.13, 0.452), (0.135, 0.475), (0.09, 0.485)]),
        ("polygon", (186, 192, 202), [(0.36, 0.51), (0.54, 0.51), (0.80, 0.77), (0.73, 0.77)]),
        ("ellipse", (90, 98, 112), [(0.42, 0.575), (0.56, 0.645)]),
        ("ellipse", (214, 218, 224), [(0.41, 0.57), (0.53, 0.64)]),
    ]
    sky = _ground(
        0.80,
        ((96, 150, 214), (186, 212, 236)),
        ((186, 212, 236), (206, 222, 238)),
        waves=0.0,
        seed=2,
    )
    return _drawing(_clouds(sky, seed=2), 0.80, parts, seed=2)


def automobile() -> Drawing:
    """A saloon on a road."""
    body = [
        (0.04, 0.60),
        (0.07, 0.53),
        (0.24, 0.49),
        (0.36, 0.36),
        (0.64, 0.355),
        (0.78, 0.49),
        (0.93, 0.52),
        (0.965, 0.60),
        (0.96, 0.70),
        (0.05, 0.70),
    ]
    wheels = [
        ("ellipse", c, [(x - r, 0.70 - r), (x + r, 0.70 + r)])
        for x in (0.235, 0.76)
        for r, c in ((0.092, (24, 24, 28)), (0.052, (176, 180, 186)), (0.018, (80, 84, 90)))
    ]
    parts: list[Part] = [
        ("polygon", (196, 32, 36), body),
        (
            "polygon",
            (128, 20, 26),
            [(0.045, 0.635), (0.962, 0.635), (0.955, 0.705), (0.055, 0.705)],
        ),
        ("polygon", (58, 78, 98), [(0.285, 0.49), (0.38, 0.39), (0.49, 0.388), (0.49, 0.488)]),
        (
            "polygon",
            (70, 92, 112),
            [(0.515, 0.488), (0.515, 0.388), (0.625, 0.385), (0.725, 0.485)],
        ),
        ("line", (120, 18, 24), [(0.50, 0.49), (0.505, 0.66)]),
        (
            "polygon",
            (240, 232, 190),
            [(0.065, 0.545), (0.12, 0.535), (0.115, 0.58), (0.055, 0.585)],
        ),
        ("polygon", (240, 96, 70), [(0.90, 0.53), (0.945, 0.54), (0.955, 0.58), (0.91, 0.575)]),
        *wheels,
    ]
    road = _ground(
        0.62,
        ((172, 190, 204), (120, 138, 112)),
        ((132, 132, 134), (96, 96, 100)),
        waves=0.05,
        seed=3,
    )
    return _drawing(road, 0.62, parts, seed=3, shadow=(0.05, 0.74, 0.97, 0.83))


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "airplane": airplane,
    "automobile": automobile,
    "ship": ship,
}


def _ground(
    horizon: float,
    above: tuple[Colour, Colour],
    below: tuple[Colour, Colour],
    *,
    waves: float,
    seed: int,
) -> np.ndarray:
    """Two gradients that meet at the horizon: float64 (1024, 1024, 3).

    `waves` is the strength of bright streaks in the lower one.
    """
    rows = np.arange(FINE) / FINE
    sky = _gradient(above, rows / horizon)
    earth = _gradient(below, (rows - horizon) / (1 - horizon))
    image = np.where((rows < horizon)[:, None], sky, earth)[:, None].repeat(FINE, axis=1)
    streaks = _noise(seed, (FINE // 12, FINE // 48))
    return image * (1 + waves * np.where((rows < horizon)[:, None], 0, streaks))[..., None]


def _gradient(ends: tuple[Colour, Colour], places: np.ndarray) -> np.ndarray:
    start, end = np.array(ends, float)
    return np.asarray(start + np.clip(places, 0, 1)[:, None] * (end - start))


def _noise(seed: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise with so many cells, about −1…1: float64 (1024, 1024)."""
    coarse = np.random.default_rng(seed).normal(size=cells).astype(np.float32) / 2
    return np.asarray(Image.fromarray(coarse).resize((FINE, FINE), Image.Resampling.BICUBIC), float)


def _clouds(image: np.ndarray, seed: int) -> np.ndarray:
    cover = sum(
        _noise(seed + octave, (3 * 2**octave, 2 * 2**octave)) / 2**octave for octave in range(4)
    )
    share = np.clip(cover, 0, 1)[..., None] * 0.8
    return np.asarray(image * (1 - share) + 248 * share)


def _drawing(
    ground: np.ndarray,
    horizon: float,
    parts: Sequence[Part],
    *,
    seed: int,
    shadow: tuple[float, float, float, float] | None = None,
) -> Drawing:
    """The parts over the ground, lit from above, with soft edges and grain."""
    if shadow:
        dark = Image.new("L", (FINE, FINE), 0)
        ImageDraw.Draw(dark).ellipse([FINE * edge for edge in shadow], 150)
        ground = ground * (
            1 - np.asarray(dark.filter(ImageFilter.GaussianBlur(12)), float)[..., None] / 255
        )
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    mask = Image.new("L", (FINE, FINE), 0)
    mask.paste(128, (0, round(horizon * FINE), FINE, FINE))
    for kind, colour, points in parts:
        places = [(x * FINE, y * FINE) for x, y in points]
        for canvas, ink in ((image, colour), (mask, 255)):
            _draw(ImageDraw.Draw(canvas), kind, places, ink)
    of_object = np.asarray(mask) == 255
    light = 1 + LIGHT * np.where(of_object, 1 - 2 * np.arange(FINE)[:, None] / FINE, 0)
    lit = Image.fromarray(np.clip(np.asarray(image) * light[..., None], 0, 255).astype(np.uint8))
    small = np.asarray(
        lit.filter(ImageFilter.GaussianBlur(SOFT)).resize((SIZE, SIZE), Image.Resampling.BOX), float
    )
    grain = GRAIN * np.random.default_rng(seed).normal(size=(SIZE, SIZE, 1))
    pixels = np.clip(small + grain, 0, 255).astype(np.uint8)
    return Drawing(pixels, np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.NEAREST)))


def _draw(draw: ImageDraw.ImageDraw, kind: str, places: list[Point], ink: Colour | int) -> None:
    if kind == "polygon":
        draw.polygon(places, ink)
    elif kind == "ellipse":
        draw.ellipse(places, ink)
    else:
        draw.line(places, ink, width=FINE // 90)
