"""The pointing game: how often the strongest cell of a map is the patch that decides.

Small transformers are trained on planted patches (support.transformer) and bundled, and the methods
of the service explain them.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np

from service.bundle.manifest import Manifest
from service.explain import METHODS as REGISTRY
from service.explain import ask, explain
from service.runtime.engine import Engine
from support.transformer import GRID, PATCH, SPEC, exported, planted, trained
from training.export.foreign_bundle import make_foreign_bundle

METHODS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("attn_lrp", {}),
    ("input_x_gradient", {}),
    ("integrated_gradients", {}),
    ("grad_cam", {}),
    ("layer_cam", {}),
    ("occlusion", {"window": 1 / GRID, "stride": 1 / GRID}),
    ("rise", {}),
)
UNSEEN = 10_000  # seed


@click.command()
@click.option("--images", default=40, show_default=True, type=click.IntRange(1, 1000))
def main(images: int) -> None:
    """Prints the share of images in which each method points at the patch."""
    click.echo(
        "| method | forward passes | mean of tokens | class token |\n| --- | --- | --- | --- |"
    )
    hits = [_hits(images, class_token=class_token) for class_token in (False, True)]
    for name, given in METHODS:
        method = REGISTRY[name]
        passes = method.passes({**{p.name: p.default for p in method.parameters}, **given})
        click.echo(f"| `{name}` | {passes} | {hits[0][name]:.2f} | {hits[1][name]:.2f} |")


def _hits(images: int, *, class_token: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        core = exported(trained(class_token=class_token), Path(scratch))
        manifest = Manifest("patches", ("red", "green", "blue"), SPEC)
        engine = Engine(make_foreign_bundle(core, manifest, Path(scratch) / "bundle"), "cpu", 1)
    pixels, _, places = planted(images, UNSEEN)
    logits = engine.predict(pixels).logits
    return {
        name: float(
            np.mean(
                [
                    np.array_equal(_strongest(engine, image, row, name, given), place)
                    for image, row, place in zip(pixels, logits, places, strict=True)
                ]
            )
        )
        for name, given in METHODS
    }


def _strongest(
    engine: Engine, image: np.ndarray, logits: np.ndarray, name: str, given: Mapping[str, float]
) -> np.ndarray:
    """The row and column of the cell with the largest sum of the map."""
    values = explain(engine, image, ask(engine.manifest, name, None, given), logits).map
    cells = values.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
    return np.array(np.unravel_index(cells.argmax(), cells.shape))


if __name__ == "__main__":
    main()
