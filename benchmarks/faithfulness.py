"""Faithfulness of maps: deletion and insertion areas on test images, beside random orders, and
beside two maps that no network made: a centred blob and the edges of the image.
"""

from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from service.bundle import folder as bundle_folder
from service.explain import METHODS, ask, explain, quality
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE
from training.data.read import read

Map = Float32[np.ndarray, "height width"]

BLOB = 0.25  # its standard deviation, as a share of the shorter side

DEFAULT = ("integrated_gradients", "grad_cam", "occlusion")


@click.command()
@click.argument("data")
@click.option("--images", default=200, show_default=True, help="Test images, drawn with seed 0.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(list(METHODS)),
    default=DEFAULT,
    show_default=True,
)
@click.option(
    "--bundle",
    "folder",
    type=click.Path(path_type=Path),
    default=EMBEDDED_BUNDLE,
    help="The bundle; the embedded one if not given.",
)
def main(data: str, images: int, methods: tuple[str, ...], folder: Path) -> None:
    """Prints the table for the test images of DATA: a folder, a tar of one, or cifar10."""
    engine = Engine(bundle_folder.load(folder), "cpu")
    test = read(data, engine.manifest.input).test
    chosen = np.random.default_rng(0).permutation(len(test))[:images]
    logits = engine.predict(test.pixels[chosen]).logits
    click.echo(f"{engine.manifest.name} {engine.manifest.version}, {len(chosen)} test images\n")
    click.echo(
        "| method | deletion | random | better than random"
        " | insertion | random | better than random |"
    )
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    pairs = list(zip(test.pixels[chosen], logits, strict=True))
    for name in methods:
        question = ask(engine.manifest, name, None, {})
        answers = [(pixels, explain(engine, pixels, question, row)) for pixels, row in pairs]
        maps = [(pixels, answer.map, answer.target.index) for pixels, answer in answers]
        click.echo(line(name, areas(engine, maps)))
    for name, drawn in (("a centred blob", blob), ("edges of the image", edges)):
        maps = [(pixels, drawn(pixels), int(row.argmax())) for pixels, row in pairs]
        click.echo(line(name, areas(engine, maps)))


def areas(
    engine: Engine, maps: Iterable[tuple[UInt8[np.ndarray, "height width 3"], Map, int]]
) -> list[dict[str, float]]:
    """The areas of each map, for its image and the index of its target."""
    return [
        quality.faithfulness(engine, pixels, attribution, target)
        for pixels, attribution, target in maps
    ]


def blob(pixels: UInt8[np.ndarray, "height width 3"]) -> Map:
    """A Gaussian at the centre, the same for each image of a size."""
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    squares = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2
    spread = BLOB * min(height, width)
    return np.asarray(np.exp(-squares / (2 * spread**2)), np.float32)


def edges(pixels: UInt8[np.ndarray, "height width 3"]) -> Map:
    """The length of the brightness's gradient by Sobel's filters."""
    grey = pixels.mean(axis=2)
    return np.asarray(np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)), np.float32)


def line(name: str, entries: list[dict[str, float]]) -> str:
    """The row of one method: means over images, and shares of images where the map beats chance."""
    deletion, by_chance, insertion, at_random = (
        np.array([entry[key] for entry in entries])
        for key in ("deletion", "deletion_random", "insertion", "insertion_random")
    )
    fewer, more = f"{(deletion < by_chance).mean():.0%}", f"{(insertion > at_random).mean():.0%}"
    deletions = f"| {name} | {deletion.mean():.3f} | {by_chance.mean():.3f} | {fewer}"
    return f"{deletions} | {insertion.mean():.3f} | {at_random.mean():.3f} | {more} |"


if __name__ == "__main__":
    main()
