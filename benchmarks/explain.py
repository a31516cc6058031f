"""Milliseconds a map: Candor on ONNX Runtime beside Captum on torch, the same network, one core or one GPU, runs interleaved, medians.

Both begin with images in the memory of the host and end with maps there. Both give with Integrated Gradients what the map should sum to.
"""

import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import captum
import click
import numpy as np
import onnxruntime as ort
import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency

from benchmarks.subjects import OURS, SPECS, Subject, subject
from service.explain import cam, gradients
from service.runtime.engine import Engine
from training.data.read import drawn_images

STEPS, SAMPLES, NOISE = 50, 16, 0.15
MEBI = 1024


@dataclass(frozen=True)
class Pair:
    """One method, ours and theirs, and how often it is run."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    runs: int


@click.command()
@click.option(
    "--runs",
    default=15,
    show_default=True,
    help="Interleaved runs of a cheap method; dear ones run a fifth of it.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "cuda"]),
    help="What both compute on.",
)
@click.option(
    "--network",
    default=OURS,
    show_default=True,
    type=click.Choice(list(SPECS)),
    help="The network.",
)
@click.option("--half", is_flag=True, help="Candor's graphs in half precision, on a GPU.")
def main(runs: int, device: Literal["cpu", "cuda"], network: str, half: bool) -> None:  # noqa: FBT001 - click's
    """Prints the table."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = (
        half  # float32 beside float32; beside half precision, what torch does if nobody speaks
    )
    made = subject(network, halves=half)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(made.bundle(Path(folder) / "b", halves=half), device, 1)
    grown = memory_growth(engine)  # before Captum raises the peak
    where = "one core" if device == "cpu" else torch.cuda.get_device_name()
    told = f"{network}, {platform.processor() or platform.machine()}, {where}, onnxruntime {ort.__version__}, torch {torch.__version__}"
    click.echo(f"{told}, captum {captum.__version__}, {date.today().isoformat()}\n")  # noqa: DTZ011 - the day where it runs
    click.echo(
        "| method | batch | Candor ms a map | Captum ms a map | Captum / Candor |\n| --- | --- | --- | --- | --- |"
    )
    for batch in (1, 16):
        for pair in pairs(engine, made, device, batch, runs):
            ours, theirs = interleaved(pair)
            click.echo(
                f"| {pair.name} | {batch} | {ours / batch:.2f} | {theirs / batch:.2f} | {theirs / ours:.2f} |"
            )
    forward, grad_cam = forward_and_cam(engine, runs)
    if device == "cpu":
        click.echo(
            f"\nIntegrated Gradients with 200 steps at batch 16 raises the peak memory of the process by {grown:.0f} MiB."
        )
    click.echo(f"\nGrad-CAM costs {grad_cam / forward:.2f} times a forward pass (batch 16).")


def memory_growth(engine: Engine) -> float:
    """MiB by which Integrated Gradients with 200 steps raise the peak of a process that has computed one gradient of 16 rows."""
    rows = drawn_images(16, engine.manifest.input.size)
    target = engine.predict(rows).logits.argmax(1)
    gradients.saliency(engine, rows, target)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradients.integrated_gradients(engine, rows, target, 200, "mean")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MEBI


def pairs(engine: Engine, made: Subject, device: str, batch: int, runs: int) -> Iterator[Pair]:
    """Every method that Captum has, too."""
    pixels = drawn_images(batch, made.spec.size)
    target = engine.predict(pixels).logits.argmax(1)
    network, classes = made.network.to(device), torch.from_numpy(target).to(device)
    layer = network.get_submodule(made.layer)
    dear = max(3, runs // 5)

    def leaf() -> torch.Tensor:
        return torch.from_numpy(engine.normalise(pixels)).to(device).requires_grad_()

    def integrated() -> tuple[torch.Tensor, torch.Tensor]:
        x = leaf()
        found, delta = IntegratedGradients(network).attribute(
            x, torch.zeros_like(x), classes, n_steps=STEPS, return_convergence_delta=True
        )
        return found.cpu(), delta.cpu()

    yield Pair(
        "saliency",
        lambda: gradients.saliency(engine, pixels, target),
        lambda: Saliency(network).attribute(leaf(), classes).cpu(),
        runs,
    )
    yield Pair(
        f"integrated_gradients, {STEPS} steps",
        lambda: gradients.integrated_gradients(engine, pixels, target, STEPS, "mean"),
        integrated,
        dear,
    )
    yield Pair(
        f"smooth_grad, {SAMPLES} samples",
        lambda: gradients.smooth_grad(engine, pixels, target, SAMPLES, NOISE, 0),
        lambda: (
            NoiseTunnel(Saliency(network))
            .attribute(leaf(), target=classes, nt_samples=SAMPLES, stdevs=NOISE, abs=False)
            .cpu()
        ),
        dear,
    )
    yield Pair(
        "grad_cam",
        lambda: cam.grad_cam(engine, pixels, target),
        lambda: LayerGradCam(network, layer).attribute(leaf(), classes).cpu(),
        runs,
    )


def interleaved(pair: Pair) -> tuple[float, float]:
    """The medians of both, in milliseconds; the first run of each does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pair.runs + 1):
        for which, work in enumerate((pair.ours, pair.theirs)):
            started = time.perf_counter()
            work()
            times[which].append(1000 * (time.perf_counter() - started))
    return float(np.median(times[0][1:])), float(np.median(times[1][1:]))


def forward_and_cam(engine: Engine, runs: int) -> tuple[float, float]:
    """Milliseconds of a plain forward pass and of cam.onnx, 16 rows."""
    pixels = drawn_images(16, engine.manifest.input.size)
    x, target = engine.normalise(pixels), np.full(16, -1)
    return interleaved(
        Pair("", lambda: engine.predict(pixels), lambda: engine.cam(x, target), runs)
    )


if __name__ == "__main__":
    main()
