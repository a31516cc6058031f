"""Ray, Spark and Dask beside the bulk command: the same images, the same cores, the same table.

Each engine runs the example of docs/bulk.md on two nodes of this machine, in an environment of its
own. Its seconds are those of the example, in which every worker opens the bundle; the start of the
cluster is counted apart. The command's are those of its process, start included. All take turns, on
a folder and on one of several times as many images: the difference is the rate beyond the starts.
Tables must have the same rows, floats to 1e-4.
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
@click.option("--copies", default=3, show_default=True, help="Of each image in the large folder.")
def main(data: Path, runs: int, copies: int) -> None:
    """Prints the figures for the test images in the tar DATA."""
    names = (COMMAND, *spread.ENGINES)
    small: dict[str, list[Times]] = {name: [] for name in names}
    large: dict[str, list[Times]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        for number in range(copies):
            unpack(data, folder / str(number))
        count = sum(path.is_file() for path in (folder / "0").rglob("*"))
        for _ in range(runs):
            for times, images in ((small, folder / "0"), (large, folder)):
                for name, taken in _turn(images, Path(scratch)).items():
                    times[name].append(taken)
    _print(small, large, count, copies)


def _turn(folder: Path, scratch: Path) -> dict[str, Times]:
    """The times of the command and of each engine, whose tables must agree."""
    expected = scratch / "command.parquet"
    words = ["-m", "service", "predict", str(folder), "--out", str(expected), "--overwrite"]
    times = {COMMAND: Times(_run([sys.executable, *words])[1], 0)}
    for engine in spread.ENGINES:
        out = scratch / engine
        shutil.rmtree(out, ignore_errors=True)
        words = ["-m", "support.spread", engine, str(folder), str(out)]
        printed, seconds = _run([str(python_of(engine)), *words])
        work = float(printed.split()[-1])
        times[engine] = Times(work, seconds - work)
        agree(by_path(out), by_path(expected))
    return times


def _print(
    small: dict[str, list[Times]], large: dict[str, list[Times]], count: int, copies: int
) -> None:
    """Prints the medians as a table."""
    many, cores = count * copies, os.cpu_count()
    click.echo(f"{cores} cores; {os.getloadavg()[2]:.1f} processes wanted them (15 minutes)\n")
    click.echo(
        f"| by | start of the cluster, s | {count:,} images, s | {many:,} images, s "
        f"| images a second beyond the start | of the command's |\n|{' --- |' * 6}"
    )
    rates = {}
    for name, turns in small.items():
        start = median(one.start for one in (*turns, *large[name]))
        less, more = (median(one.work for one in found) for found in (turns, large[name]))
        rates[name] = (many - count) / (more - less)
        share = rates[name] / rates[COMMAND]
        row = f"{name} | {start:.0f} | {less:.0f} | {more:.0f} | {rates[name]:,.0f} | {share:.2f}"
        click.echo(f"| {row} |")


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
