"""What sampled methods say of themselves, `agreement` and `surrogate_r2`, beside measurements.

The agreement is compared with the cosine of the maps of two seeds, and LIME's R² with that of its
linear model on fresh coalitions, which the fit never saw.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from jaxtyping import Float64, UInt8
from scipy.stats import spearmanr

from service.bundle import folder as bundle_folder
from service.explain import METHODS, Target, ask, explain
from service.explain.maps.perturbation import LIME_SHOWN, coalition_scores, proximity
from service.explain.maps.sampling import cosine
from service.explain.maps.segments import count, grid
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE
from training.data.images import in_threads
from training.data.read import read

SAMPLED = ("smooth_grad", "gradient_shap", "lime", "kernel_shap", "rise")
FRESH = 400  # coalitions
SAMPLES = (64, 128, 512)

Image = UInt8[np.ndarray, "height width 3"]


@click.command()
@click.argument("data")
@click.option("--images", default=60, show_default=True, help="Test images, drawn with seed 0.")
@click.option(
    "--bundle",
    "folder",
    type=click.Path(path_type=Path),
    default=EMBEDDED_BUNDLE,
    help="The bundle; the embedded one if not given.",
)
@click.option("--only", multiple=True, help="Methods of the first table; all if not given.")
@click.option("--doubled", is_flag=True, help="Let the samples grow, as they do by default.")
def main(data: str, images: int, folder: Path, only: tuple[str, ...], *, doubled: bool) -> None:
    """Prints both tables for the test images of DATA: a folder, a tar of one, or cifar10."""
    engine = Engine(bundle_folder.load(folder), "cpu").on_one_core()
    test = read(data, engine.manifest.input).test
    pixels = test.rows(np.random.default_rng(0).permutation(len(test))[:images])
    click.echo("| method | samples | agreement | two seeds | too good | rank correlation |")
    click.echo("| --- | --- | --- | --- | --- | --- |")
    for method in only or SAMPLED:
        usual = {p.name: p.default for p in METHODS[method].parameters}
        given = {} if doubled else {"samples": usual["samples"]}  # those named are not doubled
        pairs = in_threads(partial(pair, engine, method, given), list(pixels))
        samples, told, true = np.array(list(pairs)).T
        row = f"{np.median(samples):.0f} | {np.median(told):.3f} | {np.median(true):.3f}"
        ranks = spearmanr(told, true).statistic
        click.echo(f"| {method} | {row} | {np.median(told - true):+.3f} | {ranks:.2f} |")
    if only:
        return
    click.echo("\n| samples of LIME | `surrogate_r2` | on fresh coalitions | difference |")
    click.echo("| --- | --- | --- | --- |")
    for samples in SAMPLES:
        both = np.array(list(in_threads(partial(r2, engine, samples), list(pixels))))
        told, true = np.median(both, 0)
        click.echo(
            f"| {samples} | {told:.3f} | {true:.3f} | {np.median(both[:, 0] - both[:, 1]):+.3f} |"
        )


def pair(
    engine: Engine, method: str, given: Mapping[str, Any], image: Image
) -> tuple[float, float, float]:
    """The samples, the agreement of seed 0, and the cosine of its map with that of seed 1."""
    logits = engine.predict(image[None]).logits[0]
    first, second = (
        explain(engine, image, ask(engine.manifest, method, None, {"seed": seed, **given}), logits)
        for seed in (0, 1)
    )
    told = first.quality
    return told["samples"], told["agreement"], cosine(first.map, second.map)


def r2(engine: Engine, samples: int, image: Image) -> tuple[float, float]:
    """LIME's R² as it is told, and on fresh coalitions with the mean that they have."""
    logits = engine.predict(image[None]).logits[0]
    question = ask(engine.manifest, "lime", None, {"samples": samples})
    answer = explain(engine, image, question, logits)
    cut = grid(image.shape[:2], question.parameters["segments"])
    coefficients = np.array([answer.map[cut == segment][0] for segment in range(count(cut))])
    shown = np.random.default_rng(99).random((FRESH, count(cut))) < LIME_SHOWN
    targets = [Target(answer.target.index)]
    scores = coalition_scores(engine, image, targets, cut, shown, "mean")[:, 0]
    return answer.quality["surrogate_r2"], explained(shown @ coefficients, scores, proximity(shown))


def explained(
    fitted: Float64[np.ndarray, " rows"],
    scores: Float64[np.ndarray, " rows"],
    weights: Float64[np.ndarray, " rows"],
) -> float:
    """The weighted R² of `fitted` plus a constant."""
    fitted, scores = (values - np.average(values, weights=weights) for values in (fitted, scores))
    return float(1 - weights @ (scores - fitted) ** 2 / (weights @ scores**2))


if __name__ == "__main__":
    main()
