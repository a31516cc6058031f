"""The samples of the page: the gallery's images, and a ball, which no class of the model fits."""

from pathlib import Path

import numpy as np
from PIL import Image

from drawings.shapes import DRAWINGS

ROOT = Path(__file__).parent.parent
INTO = ROOT / "service" / "web" / "samples"
SIDE, QUALITY = 224, 72


def ball() -> np.ndarray:
    """The middle of README's red ball."""
    with Image.open(ROOT / "docs" / "images" / "red-ball.jpg") as image:
        margin = (image.width - image.height) // 2
        return np.asarray(image.crop((margin, 0, margin + image.height, image.height)))


def main() -> None:
    """Writes one small file for each sample."""
    INTO.mkdir(parents=True, exist_ok=True)
    for name, pixels in {
        **{name: draw().pixels for name, draw in DRAWINGS.items()},
        "ball": ball(),
    }.items():
        path = INTO / f"{name}.webp"
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(
            path, quality=QUALITY, method=6
        )
        print(f"{path.relative_to(ROOT)} {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
