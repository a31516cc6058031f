"""What one run of a graph takes on a GPU by the number of its rows: kernel by kernel, with arrays in fixed places, and replayed.

`run` copies arrays to places that it must find first; `places` has them, `replayed` starts all kernels at once, too, as the service does
(service/runtime/cuda_graphs.py). Each time includes the way from the memory of the host and back. Medians.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import date

import click
import numpy as np
import onnxruntime as ort
import torch

from benchmarks.subjects import SPECS, Subject, subject
from service.bundle import folder as contract
from service.runtime import providers
from service.runtime.cuda_graphs import MEMORY, BoundSession, open_bound
from service.runtime.sessions import GPU_ROWS
from training.data.read import drawn_images

RUNS, SECONDS = 100, 0.5  # of one measurement, whichever is over first
Feeds = Mapping[str, np.ndarray]


@click.command()
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice(list(SPECS)),
    help="The network; all if not given.",
)
@click.option(
    "--rows",
    "sizes",
    multiple=True,
    type=click.IntRange(1, 256),
    help=f"How many rows run together; {GPU_ROWS} if not given.",
)
@click.option("--cam", is_flag=True, help="cam.onnx, too.")
def main(networks: tuple[str, ...], sizes: tuple[int, ...], cam: bool) -> None:  # noqa: FBT001 - click's
    """Prints the table."""
    told = f"{torch.cuda.get_device_name()}, {platform.machine()}, onnxruntime {ort.__version__}"
    click.echo(f"{told}, {date.today().isoformat()}\n")  # noqa: DTZ011 - the day where it runs
    click.echo(
        "| network | file | opened in s | rows | run ms | places ms | replayed ms | rows/s | from float32 on a CPU |"
    )
    click.echo("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    graphs = (contract.PREDICT, contract.GRADIENT, *([contract.CAM] if cam else []))
    with ThreadPoolExecutor(1) as thread:
        for made in (subject(name, halves=True) for name in networks or tuple(SPECS)):
            for file in (name for graph in graphs for name in (graph, contract.HALVES[graph])):
                for line in lines(made, file, sizes or GPU_ROWS, thread):
                    click.echo(line)


def lines(made: Subject, file: str, sizes: tuple[int, ...], thread: Executor) -> Iterator[str]:
    """The lines of one file of the bundle."""
    content = made.files[file]
    plain = providers.open_session(file, content, "cuda", 0)
    placed = BoundSession(providers.open_session(file, content, "cuda", 0), MEMORY, sizes, thread)
    began = time.perf_counter()
    replayed = open_bound(file, content, "cuda", sizes, thread)
    opened = time.perf_counter() - began
    for rows in sizes:
        feeds = feeds_of(file, made, rows)
        ways: tuple[Callable[[], object], ...] = (
            lambda feeds=feeds: plain.run(None, feeds),
            lambda feeds=feeds: placed(feeds),
            lambda feeds=feeds: replayed(feeds),
        )
        times = [milliseconds(way) for way in ways]
        cells = " | ".join(f"{each:.3f}" for each in times)
        far = difference(made, file, replayed, feeds)
        yield f"| {made.name} | {file} | {opened:.1f} | {rows} | {cells} | {1000 * rows / times[-1]:,.0f} | {far} |"


def feeds_of(file: str, made: Subject, rows: int) -> Feeds:
    """Inputs of the graph in `file`, drawn images."""
    pixels = drawn_images(rows, made.spec.size)
    if file in (contract.PREDICT, contract.HALVES[contract.PREDICT]):
        return {"image": pixels}
    mean, std = (
        255 * np.asarray(value, np.float32).reshape(3, 1, 1)
        for value in (made.spec.mean, made.spec.std)
    )
    return {"x": (np.moveaxis(pixels, -1, 1) - mean) / std, "target": np.arange(rows)}


def difference(made: Subject, file: str, ours: BoundSession, feeds: Feeds) -> str:
    """How far the first two outputs are from float32 on a CPU, relative to the largest value; of two rows alone, for a CPU is slow."""
    few = {name: value[:2] for name, value in feeds.items()}
    graph = {half: graph for graph, half in contract.HALVES.items()}.get(file, file)
    session = providers.open_session(graph, made.files[graph], "cpu", 0)
    names = [output.name for output in session.get_outputs()][:2]
    found = ours(feeds)
    pairs = zip((found[name][:2] for name in names), session.run(names, few), strict=True)
    return ", ".join(f"{np.abs(a - b).max() / np.abs(b).max():.1e}" for a, b in pairs)


def milliseconds(work: Callable[[], object]) -> float:
    """The median of many runs; the first three do not count."""
    times: list[float] = []
    ends = time.perf_counter() + SECONDS
    while len(times) < RUNS + 3 and (time.perf_counter() < ends or len(times) < 8):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
