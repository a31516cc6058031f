"""Grad-CAM of photographs by the imagenet bundle, on one sheet, and the photographs themselves.

scikit-image, scikit-learn and matplotlib bring the photographs. scikit-image states its licences in
`skimage/data/_fetchers.py`, scikit-learn in `sklearn/datasets/images/README.txt`. The samples of
the bundle are among them.
"""

import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from PIL import Image

from drawings.gallery import QUALITY, tiled
from service import predictions
from service.bundle import folder as bundle_folder
from service.explain import ask, explain, legend, render
from service.explain.legend import Legend
from service.image import resize
from service.image.resize import Box, Pixels
from service.runtime.engine import Engine
from service.settings import EMBEDDED

ROOT = Path(__file__).parent.parent
INSTALLED = Path(sysconfig.get_path("purelib"))
SHORT_SIDE = 256


@dataclass(frozen=True)
class Photograph:
    """The `file` of a package with its `attribution`; a sample has a `title` by language."""

    name: str
    file: str
    attribution: str
    title: Mapping[str, str] = field(default_factory=dict)


PHOTOGRAPHS = (
    Photograph(
        "cat",
        "skimage/data/chelsea.png",
        "Chelsea, photograph by Stéfan van der Walt, CC0 1.0, from scikit-image",
        {"en": "Cat", "zh": "猫"},
    ),
    Photograph(
        "coffee",
        "skimage/data/coffee.png",
        "Pikolo Espresso Bar, photograph by Rachel Michetti, CC0 1.0, from scikit-image",
        {"en": "Coffee", "zh": "咖啡"},
    ),
    Photograph(
        "rocket",
        "skimage/data/rocket.jpg",
        "Falcon 9 with DSCOVR, photograph by SpaceX, public domain, from scikit-image",
        {"en": "Rocket", "zh": "火箭"},
    ),
    Photograph(
        "camera",
        "skimage/data/camera.png",
        "Photograph by Lav Varshney, CC0 1.0, from scikit-image",
        {"en": "Camera", "zh": "相机"},
    ),
    Photograph(
        "astronaut",
        "skimage/data/astronaut.png",
        "Eileen Collins, photograph by NASA, public domain, from scikit-image",
    ),
    Photograph(
        "clock",
        "skimage/data/clock_motion.png",
        "Photograph by Stéfan van der Walt, public domain, from scikit-image",
    ),
    Photograph(
        "deep field",
        "skimage/data/hubble_deep_field.jpg",
        "Hubble eXtreme Deep Field, NASA, public domain, from scikit-image",
    ),
    Photograph(
        "pavilion",
        "sklearn/datasets/images/china.jpg",
        "Photograph by danielbuechele (flickr), CC BY 2.0, scaled down, from scikit-learn",
    ),
    Photograph(
        "dahlia",
        "sklearn/datasets/images/flower.jpg",
        "Photograph by vultilion (flickr), CC BY 2.0, scaled down, from scikit-learn",
    ),
    Photograph(
        "officer",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "Grace Hopper, photograph by the US Navy, public domain, from matplotlib",
    ),
)


@click.command()
@click.option(
    "--unpacked",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="The folder of an unpacked scikit-image, which is not installed here.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "images" / "photographs.webp",
    help="The file of the sheet.",
)
def main(unpacked: Path, into: Path) -> None:
    """Writes the sheet, and prints what each photograph was taken for."""
    engine = Engine(bundle_folder.load(EMBEDDED["imagenet"]), "cpu")
    cells = [
        _cell(engine, photograph, scaled(photograph, unpacked, SHORT_SIDE))
        for photograph in PHOTOGRAPHS
    ]
    Image.fromarray(tiled(cells)).save(into, quality=QUALITY, method=6)
    click.echo(f"{into} {into.stat().st_size:,} bytes")


def scaled(photograph: Photograph, unpacked: Path, short_side: int) -> Pixels:
    """The pixels of `photograph` with a shorter side of `short_side`."""
    path = unpacked / photograph.file
    with Image.open(path if path.exists() else INSTALLED / photograph.file) as image:
        factor = short_side / min(image.size)
        width, height = (round(side * factor) for side in image.size)
        return np.asarray(
            image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), np.uint8
        )


def _cell(engine: Engine, photograph: Photograph, pixels: Pixels) -> Pixels:
    """What the network sees, above its Grad-CAM and what it was taken for."""
    fitted = resize.to_input(pixels, engine.manifest.input)
    (row,) = engine.predict(fitted[None]).rows()
    top = predictions.predict(row, engine.manifest).top
    names = ", ".join(f"{entry.label} {entry.probability:.2f}" for entry in top)
    click.echo(f"{photograph.name}: {names}")
    question = ask(engine.manifest, "grad_cam", None, {})
    found = explain(engine, fitted, question, row.logits)
    height, width = fitted.shape[:2]
    whole = Box(0, 0, width, height)
    overlay = render.overlay(fitted, found.shown, whole, question.method.scale, found.limit)
    heading = f"{top[0].label} ({top[0].probability:.0%})"
    caption = Legend(heading, "", question.method.scale, 0, "", below=False, above=False)
    return legend.below(np.concatenate([fitted, overlay]), caption)


if __name__ == "__main__":
    main()
