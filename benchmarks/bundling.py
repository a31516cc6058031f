"""Seconds and memory of a bundle of a resnet50 and of a ViT-S/16, from their ONNX files.

Both have random weights and are exported for 224 pixels. Each bundle is made by a process of its
own, as `python -m training bundle --onnx` does, on all cores; its steps and their seconds are those
that the command itself says, the peak is that of the process's resident memory.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.parity import quiet
from training.networks import catalogue

LIMIT_SECONDS, LIMIT_MEBI = 60, 2048
SIDE, SEED = 224, 0
STEP = re.compile(r"^ *(\d+\.\d) s  (.+)$")


@dataclass(frozen=True)
class Making:
    """One bundle made: seconds of the clock and of the processor, MiB at most, seconds by step."""

    seconds: float
    cpu_seconds: float
    mebi: float
    steps: dict[str, float]


@click.command()
@click.option("--network", "only", type=click.Choice(["resnet50", "vit_small_patch16_224"]))
def main(only: str | None) -> None:
    """Prints a table of the whole and one of the steps."""
    names = ["resnet50", "vit_small_patch16_224"] if only is None else [only]
    makings = {name: _made(name) for name in names}
    click.echo("| network | s | CPU s | peak, MiB | within 60 s and 2 GiB |")
    click.echo("| --- | --- | --- | --- | --- |")
    for name, making in makings.items():
        fits = making.seconds <= LIMIT_SECONDS and making.mebi <= LIMIT_MEBI
        click.echo(
            f"| {name} | {making.seconds:.0f} | {making.cpu_seconds:.0f} | {making.mebi:,.0f} | "
            f"{'yes' if fits else 'no'} |"
        )
    click.echo("\n| step | " + " | ".join(f"{name}, s" for name in makings) + " |")
    click.echo("| --- |" + " --- |" * len(makings))
    for step in dict.fromkeys(step for making in makings.values() for step in making.steps):
        seconds = (making.steps.get(step) for making in makings.values())
        cells = ("" if each is None else f"{each:.1f}" for each in seconds)
        click.echo(f"| {step} | " + " | ".join(cells) + " |")


def _made(name: str) -> Making:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.onnx"
        _export(name, file)
        command = [sys.executable, "-m", "training", "bundle", "--onnx", str(file)]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--out", f"{folder}/bundle"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException("\n".join(lines))
    return Making(
        seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, _steps(lines, file)
    )


def _steps(lines: list[str], file: Path) -> dict[str, float]:
    """The seconds of each step: from its line to the next."""
    plain = [line.replace(str(file), "the file") for line in lines]
    said = [(float(match[1]), match[2]) for line in plain if (match := STEP.match(line))]
    return {step: following - begun for (begun, step), (following, _) in pairwise(said)}


def _export(name: str, path: Path) -> None:
    torch.manual_seed(SEED)
    network: Any
    if name == "resnet50":
        import torchvision  # noqa: PLC0415 - takes seconds

        network = torchvision.models.get_model(name, weights=None)
    else:
        network = catalogue.timm(name).create_model(name)
    with quiet():
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, SIDE, SIDE),),
            path,
            dynamo=True,
            opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            verbose=False,
        )


if __name__ == "__main__":
    main()
