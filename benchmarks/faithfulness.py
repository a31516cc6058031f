"""Faithfulness of maps: deletion and insertion areas on test images, beside random orders."""

from pathlib import Path

import click
import numpy as np

from service.bundle import folder as bundle_folder
from service.explain import METHODS, ask, explain, quality
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE
from training.data.read import read

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
    for name in methods:
        question = ask(engine.manifest, name, None, {})
        maps = (
            explain(engine, pixels, question, row)
            for pixels, row in zip(test.pixels[chosen], logits, strict=True)
        )
        areas = [
            quality.faithfulness(engine, pixels, a.map, a.target.index)
            for pixels, a in zip(test.pixels[chosen], maps, strict=True)
        ]
        click.echo(line(name, areas))


def line(name: str, areas: list[dict[str, float]]) -> str:
    """The row of one method: means over images, and shares of images where the map beats chance."""
    deletion, by_chance, insertion, at_random = (
        np.array([entry[key] for entry in areas])
        for key in ("deletion", "deletion_random", "insertion", "insertion_random")
    )
    fewer, more = f"{(deletion < by_chance).mean():.0%}", f"{(insertion > at_random).mean():.0%}"
    deletions = f"| {name} | {deletion.mean():.3f} | {by_chance.mean():.3f} | {fewer}"
    return f"{deletions} | {insertion.mean():.3f} | {at_random.mean():.3f} | {more} |"


if __name__ == "__main__":
    main()
