"""Milliseconds of one run of a graph on a GPU, by the number of rows and the way to run it.

`run` allocates its arrays. `places` keeps them at fixed addresses. `replayed` starts all kernels at
once, too, as the service does (service/runtime/cuda_graphs.py). Each time includes the copies from
the memory of the host and back. Figures are medians.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import click
import numpy as np
import torch

from benchmarks.subjects import SPECS, Subject, subject
from service.bundle import folder as contract
from service.runtime import providers
from service.runtime.cuda_graphs import MEMORY, BoundSession, open_bound
from service.runtime.sessions import GPU_ROWS
from training.data.images import drawn_images

RUNS, SECONDS = 100, 0.5  # of one measurement, which ends with the first of them
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
    help=f"Rows a run; {GPU_ROWS} if not given.",
)
@click.option("--cam", is_flag=True, help="Measure cam.onnx, too.")
def main(
    networks: tuple[str, ...],
    sizes: tuple[int, ...],
    cam: bool,  # noqa: FBT001 - click's
) -> None:
    """Prints the table."""
    click.echo(f"{torch.cuda.get_device_name()}\n")
    click.echo(
        "| network | file | opened in s | rows | run ms | places ms | replayed ms | rows/s"
        " | difference from float32 on a CPU |"
    )
    click.echo("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    graphs = (contract.PREDICT, contract.GRADIENT, *([contract.CAM] if cam else []))
    with ThreadPoolExecutor(1) as thread:
        for made in (subject(name, halves=True) for name in networks or tuple(SPECS)):
            for file in (name for graph in graphs for name in (graph, contract.HALVES[graph])):
                for line in lines(made, file, sizes or GPU_ROWS, thread):
                    click.echo(line)


def lines(made: Subject, file: str, sizes: tuple[int, ...], thread: Executor) -> Iterator[str]:
    """The rows of one file of the bundle."""
    content = made.files[file]
    plain = providers.open_session(file, content, "cuda", 0)
    placed = BoundSession(providers.open_session(file, content, "cuda", 0), MEMORY, sizes, thread)
    began = time.perf_counter()
    replayed = open_bound(file, content, "cuda", sizes, thread)
    opened = time.perf_counter() - began
    for rows in sizes:
        feeds = feeds_of(file, made, rows)
        ways: tuple[Callable[[], object], ...] = (
            partial(plain.run, None, feeds),
            partial(placed, feeds),
            partial(replayed, feeds),
        )
        times = [milliseconds(way) for way in ways]
        cells = " | ".join(f"{each:.3f}" for each in times)
        rate = f"{1000 * rows / times[-1]:,.0f}"
        apart = difference(made, file, replayed, feeds)
        yield f"| {made.name} | {file} | {opened:.1f} | {rows} | {cells} | {rate} | {apart} |"


def feeds_of(file: str, made: Subject, rows: int) -> Feeds:
    """Inputs of the graph in `file`: drawn images."""
    pixels = drawn_images(rows, made.spec.size)
    if file in (contract.PREDICT, contract.HALVES[contract.PREDICT]):
        return {"image": pixels}
    mean, std = (
        255 * np.asarray(value, np.float32).reshape(3, 1, 1)
        for value in (made.spec.mean, made.spec.std)
    )
    return {"x": (np.moveaxis(pixels, -1, 1) - mean) / std, "target": np.arange(rows)}


def difference(made: Subject, file: str, ours: BoundSession, feeds: Feeds) -> str:
    """The largest difference of the first two outputs from float32 on a CPU.

    It is relative to the largest value, and of two rows alone: a CPU is slow.
    """
    few = {name: value[:2] for name, value in feeds.items()}
    graph = {half: graph for graph, half in contract.HALVES.items()}.get(file, file)
    session = providers.open_session(graph, made.files[graph], "cpu", 0)
    names = [output.name for output in session.get_outputs()][:2]
    found = ours(feeds)
    pairs = zip((found[name][:2] for name in names), session.run(names, few), strict=True)
    return ", ".join(f"{np.abs(a - b).max() / np.abs(b).max():.1e}" for a, b in pairs)


def milliseconds(work: Callable[[], object]) -> float:
    """The median of many runs without the first three."""
    times: list[float] = []
    ends = time.perf_counter() + SECONDS
    while len(times) < RUNS + 3 and (time.perf_counter() < ends or len(times) < 8):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
