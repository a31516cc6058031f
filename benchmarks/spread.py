"""Ray, Spark and Dask beside the bulk command: the same images, the same cores, the same table.

Each engine runs the example of docs/bulk.md on two nodes of this machine, in an environment of its
own. Its seconds are those of the example, in which every worker opens the bundle; the start of the
cluster is counted apart. The command's are those of its process, start included. All take turns,
and medians are compared. Tables must have the same rows, floats to 1e-4.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

from benchmarks.bulk import unpack
from service import TELEMETRY_OFF
from support import spread
from support.environments import python_of
from support.servers import ROOT
from support.tables import agree, by_path

COMMAND = "the command"


class Times(NamedTuple):
    """Seconds by the clock: of the `work`, and of the `start` before it."""

    work: float
    start: float


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--runs", default=3, show_default=True, help="Runs of each, in turns.")
@click.option("--copies", default=1, show_default=True, help="Times that each image is there.")
def main(data: Path, runs: int, copies: int) -> None:
    """Prints the figures for the test images in the tar DATA."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        for number in range(copies):
            unpack(data, folder / str(number))
        count = sum(path.is_file() for path in folder.rglob("*"))
        times = _times(folder, Path(scratch), runs)
    command = median(one.work for one in times[COMMAND])
    click.echo(
        f"{count:,} images, medians of {runs}; {os.getloadavg()[0]:.1f} processes at the end"
    )
    click.echo("\n| by | images a second | of the command's | start of the cluster, s |")
    click.echo("| --- | --- | --- | --- |")
    for name, found in times.items():
        work, start = (median(values) for values in zip(*found, strict=True))
        click.echo(f"| {name} | {count / work:,.0f} | {command / work:.2f} | {start:.1f} |")


def _times(folder: Path, scratch: Path, runs: int) -> dict[str, list[Times]]:
    """The times of the command and of each engine, whose tables must agree."""
    times: dict[str, list[Times]] = {name: [] for name in (COMMAND, *spread.ENGINES)}
    expected = scratch / "command.parquet"
    for _ in range(runs):
        expected.unlink(missing_ok=True)
        words = ["-m", "service", "predict", str(folder), "--out", str(expected)]
        _, seconds = _run([sys.executable, *words])
        times[COMMAND].append(Times(seconds, 0))
        for engine in spread.ENGINES:
            out = scratch / engine
            shutil.rmtree(out, ignore_errors=True)
            python = str(python_of(engine))
            words = ["-m", "support.spread", engine, str(folder), str(out)]
            printed, seconds = _run([python, *words])
            work = float(printed.split()[-1])
            times[engine].append(Times(work, seconds - work))
            agree(by_path(out), by_path(expected))
    return times


def _run(command: Sequence[str]) -> tuple[str, float]:
    """What a command prints, and its seconds."""
    variables = os.environ | {"CANDOR_DEVICE": "cpu", "PYTHONPATH": str(ROOT)} | TELEMETRY_OFF
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout, time.perf_counter() - started


if __name__ == "__main__":
    main()
