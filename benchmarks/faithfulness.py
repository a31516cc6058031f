"""Faithfulness of maps: deletion and insertion areas on test images, beside those of references.

The references are random orders of blocks, a centred blob and the edges of the image: no network
made them. They are measured once an image, for all methods. An image takes a core: as many images
run at once as there are cores.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float64, UInt8

from service.bundle import folder as bundle_folder
from service.explain import METHODS, Question, Target, ask, faithfulness
from service.explain.faithfulness import NAMES, Trial
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE
from training.data.images import in_threads
from training.data.read import read
from training.figures.intervals import bootstrap, wilson

Pixels = UInt8[np.ndarray, "height width 3"]
Values = Float64[np.ndarray, " images"]
Areas = Mapping[str, tuple[Values, Values]]  # deletion and insertion, by name of the map

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
    "--max-steps",
    default=128,
    show_default=True,
    help="Most steps of Integrated Gradients.",
)
@click.option(
    "--bundle",
    "folder",
    type=click.Path(path_type=Path),
    default=EMBEDDED_BUNDLE,
    help="The bundle; the embedded one if not given.",
)
def main(data: str, images: int, methods: tuple[str, ...], max_steps: int, folder: Path) -> None:
    """Prints the tables for the test images of DATA: a folder, a tar of one, or cifar10."""
    engine = Engine(bundle_folder.load(folder), "cpu")
    test = read(data, engine.manifest.input).test
    chosen = np.random.default_rng(0).permutation(len(test))[:images]
    given = {"integrated_gradients": {"steps": max_steps}}
    questions = [ask(engine.manifest, name, None, given.get(name, {})) for name in methods]
    areas = areas_of(engine, test.rows(chosen), questions)
    click.echo(f"{engine.manifest.name} {engine.manifest.version}, {len(chosen)} test images\n")
    click.echo("| map | deletion | insertion |\n| --- | --- | --- |")
    for name, values in areas.items():
        click.echo(f"| {name} | {' | '.join(map(mean, values))} |")
    click.echo("\n| map | beside | deletion lower by | on | insertion higher by | on |")
    click.echo("| --- | --- | --- | --- | --- | --- |")
    for line in comparisons(areas, methods):
        click.echo(line)


def areas_of(
    engine: Engine, images: UInt8[np.ndarray, "images height width 3"], questions: list[Question]
) -> Areas:
    """The areas of every image: of random orders, of a blob, of edges, and of each method's map."""
    alone = engine.on_one_core()

    def of_image(pixels: Pixels) -> list[faithfulness.Areas]:
        target = Target(int(alone.predict(pixels[None]).logits[0].argmax()))
        trial = Trial(alone, pixels, target, "probability")
        maps = [
            each.method.compute(alone, pixels, target, None, **each.parameters).map
            for each in questions
        ]
        opponents = trial.opponents()
        return [
            *(opponents.random, opponents.blob, opponents.edges),
            *(trial.areas(values) for values in maps),
        ]

    rows = np.array(list(in_threads(of_image, list(images))))
    names = [*NAMES.values(), *(each.method.name for each in questions)]
    return {name: (rows[:, place, 0], rows[:, place, 1]) for place, name in enumerate(names)}


def mean(values: Values) -> str:
    """The mean with its 95 % interval, a bootstrap's by image."""
    low, high = bootstrap(lambda drawn: float(values[drawn].mean()), len(values), 0)
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def comparisons(areas: Areas, methods: Sequence[str]) -> Iterator[str]:
    """A row for each method and reference: mean differences by image, and the images it wins."""
    for name in methods:
        for reference in areas:
            if reference not in methods:
                (deleted, inserted), (less, more) = areas[name], areas[reference]
                lower, higher = less - deleted, inserted - more
                cells = (mean(lower), won(lower), mean(higher), won(higher))
                yield f"| {name} | {reference} | {' | '.join(cells)} |"


def won(differences: Values) -> str:
    """The share of images with a difference above 0, with its 95 % interval (Wilson)."""
    wins = int((differences > 0).sum())
    low, high = wilson(wins, len(differences))
    return f"{wins / len(differences):.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
