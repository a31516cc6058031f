"""The audit's attack beside a stronger one, on the same test images.

The stronger one goes on where the audit's attack gives up: so many restarts, each with a start of
its own for the largest other logit and for every other class.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from service.bundle import folder as bundle_folder
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE
from training.audit.measures.apgd import STARTS, Start
from training.audit.measures.attacks import RADII, WORST, robustness
from training.data.read import read
from training.figures.intervals import wilson


@click.command()
@click.argument("data")
@click.option("--images", default=100, show_default=True, help="Of those that an audit attacks.")
@click.option(
    "--radius",
    "radii",
    multiple=True,
    type=click.IntRange(1, 255),
    default=RADII,
    show_default=True,
    help="In grey levels of 255; may be repeated.",
)
@click.option("--restarts", default=10, show_default=True)
@click.option("--cores", default=1, show_default=True, help="Cores of one run; 0 takes all.")
@click.option(
    "--bundle",
    "folder",
    type=click.Path(path_type=Path),
    default=EMBEDDED_BUNDLE,
    help="The bundle; the embedded one if not given.",
)
def main(
    data: str, images: int, radii: Sequence[int], restarts: int, cores: int, folder: Path
) -> None:
    """Prints the table for the test images of DATA: a folder, a tar of one, or cifar10."""
    engine = Engine(bundle_folder.load(folder), "cpu", cores)
    manifest = engine.manifest
    test = read(data, manifest.input).test
    chosen = test.take(np.random.default_rng(0).permutation(len(test))[:images])
    again = (Start(), *(Start(rival) for rival in range(len(manifest.labels) - 1)))
    found = [
        robustness(engine, chosen.pixels, chosen.labels, 0, radii, starts)
        for starts in (STARTS, (*STARTS, *again * restarts))
    ]
    click.echo(
        f"{manifest.name} {manifest.version}, {images} test images, "
        f"accuracy {found[0]['clean']:.3f} before\n"
    )
    click.echo(f"| radius | the audit's {len(STARTS)} starts | and {restarts} restarts |")
    click.echo("| --- | --- | --- |")
    for radius in map(str, found[0]["radius_levels"]):
        cells = [_cell(section["accuracy"][WORST][radius], images) for section in found]
        click.echo(f"| {radius} | {' | '.join(cells)} |")


def _cell(share: float, images: int) -> str:
    low, high = wilson(round(share * images), images)
    return f"{share:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
