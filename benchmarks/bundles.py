"""The memory of several bundles in one process: of each further one, and after it is let go.

The process is as a worker that computes on a CPU alone, without the service around it. Memory is
what is resident once free memory of the heaps has gone back to the system, as a worker does it
every 30 s; the garbage collector does not run. Each further bundle has the graphs of the first, and
weights of its own; the last one has the weights of the first, as a bundle that was calibrated
again.
"""

import gc
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from service.bundle.folder import Bundle, load
from service.runtime.engine import Engine
from service.runtime.sessions import self_test_image
from service.settings import EMBEDDED
from service.workers import host, memory
from support.load import table
from support.reweighted import reweighted

ROWS = 16

Row = tuple[str, str, str, str]


@click.command()
@click.option("--model", default="cifar10", show_default=True, type=click.Choice([*EMBEDDED]))
@click.option("--count", default=4, show_default=True, type=click.IntRange(2, 20))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--swaps", default=6, show_default=True, type=click.IntRange(1, 50))
def main(model: str, count: int, threads: int, swaps: int) -> None:
    """Prints the memory of COUNT bundles and of SWAPS of one for another, as Markdown."""
    memory.limit_heaps()
    first = load(EMBEDDED[model])
    with tempfile.TemporaryDirectory() as name:
        others = [
            reweighted(first, Path(name) / str(number), 1 + number / 1_000)
            for number in range(1, count)
        ]
        gc.collect()
        gc.disable()
        header = ("", "resident MiB", "change", "processor s")
        click.echo(table(header, list(_rows([first, *others], threads, swaps))))


def _rows(bundles: list[Bundle], threads: int, swaps: int) -> Iterator[Row]:
    watch = _Watch()
    yield watch.row("imports")
    # What ONNX Runtime keeps for good, as its pool for what sessions compute, is no bundle's.
    _open(bundles[0], threads)
    yield watch.row("a bundle opened and let go")
    engines: list[Engine] = []
    for number, bundle in enumerate(bundles, 1):
        engines.append(_open(bundle, threads))
        yield watch.row(f"bundle {number}")
    engines.append(_open(bundles[0], threads))
    yield watch.row("one more, with the weights of bundle 1")
    engines.pop()
    yield watch.row("that one let go")
    for number in range(len(bundles), 1, -1):
        engines.pop()
        yield watch.row(f"bundle {number} let go")
    for number in range(1, swaps + 1):
        engines.append(_open(bundles[number % 2], threads))
        yield watch.row(f"swap {number}, both")
        del engines[0]
        yield watch.row(f"swap {number}, the new one")


def _open(bundle: Bundle, threads: int) -> Engine:
    """The engine of `bundle`, which has answered a batch of each graph."""
    engine = Engine(bundle, "cpu", threads)
    images = self_test_image(bundle.manifest.input.size).repeat(ROWS, 0)
    x, target = engine.normalise(images), np.zeros(ROWS, np.int64)
    for each in (engine, engine.on_one_core()):
        each.predict_quick(images)
        each.gradient(x, target)
        each.cam(x, target)
    return engine


class _Watch:
    """The resident memory of this process and its processor time, since the row before."""

    def __init__(self) -> None:
        self._resident, self._seconds = 0.0, time.process_time()

    def row(self, title: str) -> Row:
        """The row of what was done since the last one."""
        memory.trim()
        resident, seconds = host.resident_bytes([os.getpid()]) / 2**20, time.process_time()
        change, spent = resident - self._resident, seconds - self._seconds
        self._resident, self._seconds = resident, seconds
        return title, f"{resident:.0f}", f"{change:+.1f}", f"{spent:.2f}"


if __name__ == "__main__":
    main()
