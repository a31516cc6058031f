"""Integrated Gradients that stop early beside Captum's at equal gap: gradients, cosine, maps/s.

Captum takes one number of steps for all images. It gets the fewest at which its median gap is no
more than ours, and the fewest at which as many of its maps are within the tolerance. Its points are
those of Gauss and Legendre, which our engine has, too, so the gaps of each number are measured with
the engine. Times are of both with the same images, on so many cores each, and both give the gap.
Captum differentiates the network as it was trained, as one has it in torch, and the folded one of
the bundle. The cosine is that with the map of `--converged` points.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import captum
import click
import numpy as np
import torch
from captum.attr import IntegratedGradients
from jaxtyping import Float32, Float64, UInt8

from benchmarks.torch_graph import TorchGraph, as_trained
from service.bundle import folder as bundle_folder
from service.explain import Target
from service.explain.maps.baselines import BASELINES, baseline_rows
from service.explain.maps.gradients import integrated_gradients
from service.explain.maps.paths import Path, integrate, paths_to
from service.explain.maps.sampling import cosine
from service.explain.methods import STEPS, TOLERANCE
from service.explain.quality import completeness_gap
from service.runtime.choice import Choice
from service.runtime.engine import Engine
from service.runtime.graphs import Targets
from service.settings import EMBEDDED, Precision
from support.load import table
from training.data.read import read

COUNTS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)  # steps of Captum
BATCHES = (1, 16)
# Captum runs steps times images at once: of large images so many rows take gigabytes.
LARGE_PIXELS, LARGE_ROWS = 64 * 64, 16

Images = UInt8[np.ndarray, "images H W 3"]
Work = Callable[[Images], None]
Rows = Float32[np.ndarray, "images H W"]
Numbers = Float64[np.ndarray, " images"]
HEADERS = (
    "",
    *(f"Candor's maps/s of these, batch {size}" for size in BATCHES),
    "gradients, median, p90",
    "gap, median, p90",
    "cosine, median, p5",
    *(f"maps/s, batch {size}" for size in BATCHES),
)
WAYS = 2  # to have an equal gap


@dataclass(frozen=True)
class Maps:
    """What is known of the maps of some images: gradients of each, gap, cosine."""

    steps: Numbers
    gaps: Numbers
    cosines: Numbers

    def cells(self) -> tuple[str, ...]:
        """Their figures in the table."""
        return (
            f"{np.median(self.steps):.0f}, {np.percentile(self.steps, 90):.0f}",
            f"{np.median(self.gaps):.3f}, {np.percentile(self.gaps, 90):.3f}",
            f"{np.median(self.cosines):.4f}, {np.percentile(self.cosines, 5):.4f}",
        )


@click.command()
@click.argument("data")
@click.option("--images", default=500, show_default=True, help="Test images, drawn with seed 0.")
@click.option("--timed", default=32, show_default=True, help="Images of the times.")
@click.option("--bundle", type=click.Choice(list(EMBEDDED)), default="cifar10", show_default=True)
@click.option("--baseline", type=click.Choice(BASELINES), default="mean", show_default=True)
@click.option("--tolerance", default=float(TOLERANCE.default), show_default=True)
@click.option("--steps", default=int(STEPS.default), show_default=True, help="At most.")
@click.option(
    "--converged", default=512, show_default=True, help="Points of the map compared with."
)
@click.option("--cores", default=1, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Of the times.")
@click.option(
    "--openvino",
    type=click.Choice(("float32", "bfloat16")),
    help="Candor's engine, in a precision.",
)
def main(
    data: str,
    images: int,
    timed: int,
    bundle: str,
    baseline: str,
    tolerance: float,
    steps: int,
    converged: int,
    cores: int,
    rounds: int,
    openvino: Precision | None,
) -> None:
    """Prints the table for the test images of DATA: a folder, a tar of one, or cifar10."""
    torch.set_num_threads(cores)
    opened = bundle_folder.load(EMBEDDED[bundle])
    choice = Choice("openvino", openvino) if openvino else None
    engine = Engine(opened, "cpu", cores, choice=choice)
    networks = networks_of(bundle, opened.read(bundle_folder.PREDICT))
    test = read(data, engine.manifest.input).test
    pixels = test.rows(np.random.default_rng(0).permutation(len(test))[:images])
    subject = Subject(engine, baseline, tolerance, steps)
    converged_maps = subject.gauss(pixels, converged)[0]
    ours = subject.early(pixels, converged_maps)
    click.echo(heading(bundle, baseline, images, cores, engine.choice.title))
    works: dict[str, tuple[Maps, Work]] = {"Candor": (ours, subject.ours)}
    for name, theirs in subject.at_equal_gap(pixels, converged_maps, ours).items():
        for suffix, network in networks.items():
            work = partial(subject.captum, network=network, steps=int(theirs.steps[0]))
            works[name + suffix] = theirs, work
    found = speeds([work for _, work in works.values()], pixels[:timed], rounds)
    rows = [
        (name, *map("{:.2f}".format, ratios), *maps.cells(), *map("{:.2f}".format, each))
        for (name, (maps, _)), (ratios, each) in zip(works.items(), found, strict=True)
    ]
    click.echo(table(HEADERS, rows))
    within = np.mean(ours.gaps <= tolerance)
    click.echo(f"\n{within:.1%} of Candor's maps are within {tolerance:g}.")


def networks_of(bundle: str, predict: bytes) -> Mapping[str, torch.nn.Module]:
    """The networks of an embedded bundle for Captum, by what a row says of them."""
    if bundle != "cifar10":  # only our own network is folded
        return {"": TorchGraph(predict)}
    return {", as it was trained": as_trained(predict), ", folded": TorchGraph(predict)}


def heading(bundle: str, baseline: str, images: int, cores: int, runtime: str) -> str:
    """What was measured, and with which versions."""
    return (
        f"{bundle}, {images} images, baseline {baseline}, {runtime}, {cores} cores, "
        f"torch {torch.__version__}, captum {captum.__version__}\n"
    )


@dataclass(frozen=True)
class Subject:
    """A network, and what is asked of it."""

    engine: Engine
    baseline: str
    tolerance: float
    steps: int

    def early(self, pixels: Images, converged: Rows) -> Maps:
        """Our maps that stop early."""
        paths = [path for batch in batches(pixels, 16) for path in self.explain(batch)]
        maps = np.stack([path.map for path in paths])
        counts = np.array([len(path.cells) for path in paths], float)
        differences = np.array([path.difference for path in paths])
        return Maps(counts, gaps(maps, differences), cosines(maps, converged))

    def explain(self, pixels: Images) -> list[Path]:
        """The paths to the images, for the predicted classes, as fine as the tolerance asks."""
        targets = [Target(int(row)) for row in self.classes(pixels)]
        begun = paths_to(self.engine, pixels, targets, self.baseline, self.steps)
        return integrate(self.engine, begun, self.tolerance, self.steps)

    def gauss(self, pixels: Images, steps: int) -> tuple[Rows, Numbers]:
        """The maps of all images by so many points of Gauss and Legendre, and their gaps."""
        found = [
            integrated_gradients(self.engine, batch, self.classes(batch), steps, self.baseline)
            for batch in batches(pixels, 16)
        ]
        maps = np.concatenate([each.attribution.sum(1) for each in found])
        return maps, gaps(maps, np.concatenate([np.asarray(each.difference) for each in found]))

    def at_equal_gap(self, pixels: Images, converged: Rows, ours: Maps) -> Mapping[str, Maps]:
        """Captum's maps of the fewest steps with our median gap, and with our share of maps."""
        within = np.mean(ours.gaps <= self.tolerance)
        found: dict[str, Maps] = {}
        for count in COUNTS:
            maps, gap = self.gauss(pixels, count)
            theirs = Maps(np.full(len(pixels), float(count)), gap, cosines(maps, converged))
            if np.median(gap) <= np.median(ours.gaps):
                found.setdefault("Captum, the same median gap", theirs)
            if np.mean(gap <= self.tolerance) >= within:
                found.setdefault("Captum, as many within the tolerance", theirs)
            if len(found) == WAYS:
                break
        return found

    def ours(self, pixels: Images) -> None:
        """The maps of a batch."""
        for path in self.explain(pixels):
            assert path.map.size

    def captum(self, pixels: Images, network: torch.nn.Module, steps: int) -> None:
        """The maps of a batch and their gaps, by Captum, of `network`."""
        x = torch.from_numpy(self.engine.normalise(pixels)).requires_grad_()
        start = torch.from_numpy(baseline_rows(self.engine, pixels, self.baseline))
        large = pixels[0, :, :, 0].size > LARGE_PIXELS
        IntegratedGradients(network).attribute(
            x,
            start,
            torch.from_numpy(self.classes(pixels)),
            n_steps=steps,
            return_convergence_delta=True,
            internal_batch_size=max(LARGE_ROWS, len(pixels)) if large else None,
        )

    def classes(self, pixels: Images) -> Targets:
        """The predicted classes."""
        return np.asarray(self.engine.predict(pixels).logits.argmax(1))


def gaps(maps: Rows, differences: Numbers) -> Numbers:
    """The completeness gap of each map."""
    pairs = zip(maps, differences, strict=True)
    return np.array([completeness_gap(float(m.sum(dtype=np.float64)), d) for m, d in pairs])


def cosines(maps: Rows, others: Rows) -> Numbers:
    """The cosine of each map with its other."""
    return np.array([cosine(*both) for both in zip(maps, others, strict=True)])


def batches(pixels: Images, size: int) -> list[Images]:
    """The images in order, `size` together."""
    return [pixels[first : first + size] for first in range(0, len(pixels), size)]


def speeds(
    works: Sequence[Work], pixels: Images, rounds: int
) -> list[tuple[Sequence[float], Sequence[float]]]:
    """How many times the maps/s of each of `works` the first one's are, and the maps/s: at each
    size of batches, medians of so many rounds that take them in turn.
    """
    taken = np.array(
        [
            [[seconds(work, batches(pixels, size)) for size in BATCHES] for work in works]
            for _ in range(rounds)
        ]
    )
    ratios = np.median(taken / taken[:, :1], 0)
    rates = np.median(len(pixels) / taken, 0)
    return list(zip(ratios.tolist(), rates.tolist(), strict=True))


def seconds(work: Work, parts: Sequence[Images]) -> float:
    """The seconds of `work` on all parts, after one more run of the first."""
    work(parts[0])
    started = time.perf_counter()
    for part in parts:
        work(part)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
