"""Ray, Spark and Dask beside the bulk command: the same images, the same cores, the same table.

Each engine runs the example of docs/bulk.md on two nodes of this machine, in an environment of its
own. Its seconds are those of the example, in which every worker opens the bundle; the start of the
cluster is counted apart. The command's are those of its process, start included. All take turns, on
a folder and on one of several times as many images: the difference is what an image costs beyond
the starts. Other work on the machine lengthens seconds by the clock more than those of processors.
Tables must have the same rows, floats to 1e-4.
"""

import os
import resource
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
    """Seconds of the `work` by the clock and of `processors`, and of the `start` before it."""

    work: float
    processors: float
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
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, seconds = _run([sys.executable, *words])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times = {COMMAND: Times(seconds, used, 0)}
    for engine in spread.ENGINES:
        out = scratch / engine
        shutil.rmtree(out, ignore_errors=True)
        words = ["-m", "support.spread", engine, str(folder), str(out)]
        printed, seconds = _run([str(python_of(engine)), *words])
        work, used = map(float, printed.split()[-2:])
        times[engine] = Times(work, used, seconds - work)
        agree(by_path(out), by_path(expected))
    return times


def _print(
    small: dict[str, list[Times]], large: dict[str, list[Times]], count: int, copies: int
) -> None:
    """Prints the medians as a table."""
    many = count * copies
    load = f"{os.getloadavg()[2]:.1f} processes wanted them (15 minutes)"
    click.echo(f"{os.cpu_count()} cores; {load}\n")
    click.echo(
        f"| by | start of the cluster, s | {count:,} images, s | {many:,} images, s "
        f"| processor time an image beyond the start, ms | rate by it |\n|{' --- |' * 6}"
    )
    costs = {}
    for name in small:
        less, more = (
            Times(*(median(values) for values in zip(*turns[name], strict=True)))
            for turns in (small, large)
        )
        costs[name] = (more.processors - less.processors) / (many - count)
        click.echo(
            f"| {name} | {less.start:.0f} | {less.work:.0f} | {more.work:.0f} "
            f"| {1000 * costs[name]:.2f} | {costs[COMMAND] / costs[name]:.2f} |"
        )


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
