"""Milliseconds a map: Candor on ONNX Runtime beside Captum on torch, with the same network.

Runs are interleaved on one core or one GPU; medians count. Both begin with images in the memory of
the host and end with maps there. Both give the sum that Integrated Gradients should have.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import captum
import click
import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency

from benchmarks.subjects import OURS, SPECS, Subject, subject
from service.explain.maps import cam, gradients
from service.runtime.engine import Engine
from training.data.images import drawn_images

STEPS, SAMPLES, NOISE = 50, 16, 0.15
MEBI = 1024


@dataclass(frozen=True)
class Pair:
    """One method, ours and theirs, and its number of runs."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    runs: int


@click.command()
@click.option(
    "--runs",
    default=15,
    show_default=True,
    help="Interleaved runs of a cheap method; expensive ones run a fifth of it.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "cuda"]),
    help="The device of both.",
)
@click.option(
    "--network",
    default=OURS,
    show_default=True,
    type=click.Choice(list(SPECS)),
    help="The network.",
)
@click.option("--half", is_flag=True, help="Candor's graphs in half precision, on a GPU.")
def main(
    runs: int,
    device: Literal["cpu", "cuda"],
    network: str,
    half: bool,  # noqa: FBT001 - click's
) -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    # float32 beside float32; beside half precision, torch's default
    torch.backends.cudnn.allow_tf32 = half
    made = subject(network, halves=half)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(made.bundle(Path(folder) / "b", halves=half), device, 1)
    grown = memory_growth(engine)  # before Captum raises the peak
    where = "one core" if device == "cpu" else torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, captum {captum.__version__}"
    click.echo(f"{network}, {where}, {versions}\n")
    click.echo("| method | batch | Captum / Candor | Candor ms a map | Captum ms a map |")
    click.echo("| --- | --- | --- | --- | --- |")
    for batch in (1, 16):
        for pair in pairs(engine, made, device, batch, runs):
            ours, theirs = interleaved(pair)
            each = f"{ours / batch:.2f} | {theirs / batch:.2f}"
            click.echo(f"| {pair.name} | {batch} | {theirs / ours:.2f} | {each} |")
    forward, grad_cam = forward_and_cam(engine, runs)
    if device == "cpu":
        click.echo(
            "\nIntegrated Gradients with 200 steps at batch 16 raises the peak memory"
            f" of the process by {grown:.0f} MiB."
        )
    click.echo(f"\nGrad-CAM costs {grad_cam / forward:.2f} times a forward pass (batch 16).")


def memory_growth(engine: Engine) -> float:
    """MiB by which Integrated Gradients with 200 steps raise the peak memory of the process.

    The process has computed one gradient of 16 rows before.
    """
    rows = drawn_images(16, engine.manifest.input.size)
    target = engine.predict(rows).logits.argmax(1)
    gradients.saliency(engine, rows, target)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradients.integrated_gradients(engine, rows, target, 200, "mean")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MEBI


def pairs(engine: Engine, made: Subject, device: str, batch: int, runs: int) -> Iterator[Pair]:
    """The methods that Captum has, too."""
    pixels = drawn_images(batch, made.spec.size)
    target = engine.predict(pixels).logits.argmax(1)
    network, classes = made.network.to(device), torch.from_numpy(target).to(device)
    layer = network.get_submodule(made.layer)
    fewer_runs = max(3, runs // 5)

    def leaf() -> torch.Tensor:
        return torch.from_numpy(engine.normalise(pixels)).to(device).requires_grad_()

    def integrated() -> tuple[torch.Tensor, torch.Tensor]:
        x = leaf()
        attribution, delta = IntegratedGradients(network).attribute(
            x, torch.zeros_like(x), classes, n_steps=STEPS, return_convergence_delta=True
        )
        return attribution.cpu(), delta.cpu()

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
        fewer_runs,
    )
    yield Pair(
        f"smooth_grad, {SAMPLES} samples",
        lambda: gradients.smooth_grad(engine, pixels, target, np.arange(SAMPLES), NOISE, 0).mean,
        lambda: (
            NoiseTunnel(Saliency(network))
            .attribute(leaf(), target=classes, nt_samples=SAMPLES, stdevs=NOISE, abs=False)
            .cpu()
        ),
        fewer_runs,
    )
    yield Pair(
        "grad_cam",
        lambda: cam.scaled(cam.at_layer(engine, pixels, target).cam[:, 0], pixels.shape[1:3]),
        lambda: LayerGradCam(network, layer).attribute(leaf(), classes).cpu(),
        runs,
    )


def interleaved(pair: Pair) -> tuple[float, float]:
    """The medians of both in milliseconds, without the first run of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pair.runs + 1):
        for which, work in enumerate((pair.ours, pair.theirs)):
            started = time.perf_counter()
            work()
            times[which].append(1000 * (time.perf_counter() - started))
    return float(np.median(times[0][1:])), float(np.median(times[1][1:]))


def forward_and_cam(engine: Engine, runs: int) -> tuple[float, float]:
    """The milliseconds of a plain forward pass and of cam.onnx, 16 rows."""
    pixels = drawn_images(16, engine.manifest.input.size)
    x, target = engine.normalise(pixels), np.full(16, -1)
    return interleaved(
        Pair("", lambda: engine.predict(pixels), lambda: engine.cam(x, target), runs)
    )


if __name__ == "__main__":
    main()
