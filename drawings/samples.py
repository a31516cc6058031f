"""The samples of the embedded bundles: drawn images for cifar10, photographs for imagenet.

A ball, which no class of cifar10 fits, is among the drawn ones.
"""

import json
import tempfile
from pathlib import Path

import click
import numpy as np
from PIL import Image

from drawings.photographs import PHOTOGRAPHS, scaled
from drawings.shapes import DRAWINGS
from service.bundle import folder as contract
from service.settings import EMBEDDED
from training.export.page import PAGE, present

ROOT = Path(__file__).parent.parent
SIDE, QUALITY = 224, 72
SHORT_SIDE, PHOTOGRAPH_QUALITY = 384, 80
DRAWN = "drawn for Candor, Apache-2.0"
TITLES = {
    "ship": {"en": "Ship", "zh": "轮船"},
    "airplane": {"en": "Airplane", "zh": "飞机"},
    "automobile": {"en": "Car", "zh": "汽车"},
    "ball": {"en": "Ball", "zh": "球"},
}
TEXTS = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))


@click.command()
@click.argument("name", type=click.Choice(list(TEXTS)))
@click.option(
    "--unpacked",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="For imagenet: the folder of an unpacked scikit-image.",
)
@click.option(
    "--bundle",
    "source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of a bundle without them. Default: the embedded one.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the bundle with them. Default: the embedded one.",
)
def main(name: str, folder: Path | None, source: Path | None, out: Path | None) -> None:
    """Puts texts and samples into the embedded bundle NAME."""
    embedded = EMBEDDED[name]
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch)
        if name == "cifar10":
            samples = drawn(page)
        elif folder is None:
            raise click.UsageError("imagenet needs --unpacked: scripts/imagenet gives it")
        else:
            samples = photographed(folder, page)
        document = TEXTS[name] | {"samples": samples}
        (page / PAGE).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        bundle = present(contract.load(source or embedded), page, out or embedded)
    for sample in bundle.manifest.samples:
        click.echo(f"{sample.file} {bundle.manifest.files[sample.file].length:,} bytes")
    click.echo(f"{bundle.folder}: {name} {bundle.manifest.version}")


def ball() -> np.ndarray:
    """The middle of README's red ball."""
    with Image.open(ROOT / "docs" / "images" / "red-ball.jpg") as image:
        margin = (image.width - image.height) // 2
        return np.asarray(image.crop((margin, 0, margin + image.height, image.height)))


def drawn(page: Path) -> list[dict[str, object]]:
    """Writes the drawn samples into `page`; their entries of page.json."""
    images = {**{name: draw().pixels for name, draw in DRAWINGS.items()}, "ball": ball()}
    for name in TITLES:
        Image.fromarray(images[name]).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(
            page / f"{name}.webp", quality=QUALITY, method=6
        )
    return [
        {"file": f"{name}.webp", "title": title, "attribution": DRAWN}
        for name, title in TITLES.items()
    ]


def photographed(folder: Path, page: Path) -> list[dict[str, object]]:
    """Writes the photographs for the page into `page`, scaled down; their entries of page.json."""
    samples = [photograph for photograph in PHOTOGRAPHS if photograph.title]
    for photograph in samples:
        Image.fromarray(scaled(photograph, folder, SHORT_SIDE)).save(
            page / f"{photograph.name}.webp", quality=PHOTOGRAPH_QUALITY, method=6
        )
    return [
        {
            "file": f"{photograph.name}.webp",
            "title": photograph.title,
            "attribution": photograph.attribution,
        }
        for photograph in samples
    ]


if __name__ == "__main__":
    main()
