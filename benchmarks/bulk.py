"""Images a second of a bulk run beside the limit of the machine.

The limit is reading, decoding and predicting alone, one thread a core. Both run in this process,
interleaved, on the test images of a tar of DATA/test/<class>/*; their medians are compared. Then
the whole command is timed once, with its start.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

from service.bulk.job import Job
from service.bulk.run import Run
from service.bundle.folder import load
from service.runtime.engine import Engine
from service.schedule.sent import fit_image
from service.settings import EMBEDDED_BUNDLE

MAX_PIXELS = 50_000_000
CORES = os.cpu_count() or 1


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--runs", default=5, show_default=True, help="Interleaved runs of each.")
def main(data: Path, runs: int) -> None:
    """Prints the figures for the test images in the tar DATA."""
    engine = Engine(load(EMBEDDED_BUNDLE), "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = unpack(data, Path(scratch) / "images"), Path(scratch) / "out.parquet"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        times = [
            (*seconds(lambda: limit(engine, files)), *seconds(lambda: run(engine, folder, out)))
            for _ in range(runs + 1)
        ]
        command = [
            sys.executable,
            "-m",
            "service",
            "predict",
            str(folder),
            "--out",
            str(out),
            "--overwrite",
        ]
        settings = os.environ | {"CANDOR_DEVICE": "cpu"}
        whole, _ = seconds(
            lambda: subprocess.run(command, env=settings, check=True, capture_output=True)
        )
    measured = np.array(times[1:])  # the first pair warms the caches
    least, _, ours, _ = np.median(measured, axis=0)
    by_clock, by_processor = np.median(measured[:, :2] / measured[:, 2:], axis=0)
    click.echo(f"{len(files):,} images\n")
    click.echo("| what | images a second |\n| --- | --- |")
    for name, taken in (
        ("the limit", least),
        ("a bulk run", ours),
        ("the command, its start included", whole),
    ):
        click.echo(f"| {name} | {len(files) / taken:,.0f} |")
    click.echo(
        f"\nA bulk run reaches {by_clock:.3f} of the limit by the clock,"
        f" {by_processor:.3f} by processor time (medians of {runs} pairs)."
    )


def unpack(data: Path, folder: Path) -> Path:
    """The test images of the tar `data`, in `folder`."""
    with tarfile.open(data) as tar:
        tar.extractall(
            folder,
            [entry for entry in tar if entry.isfile() and "test" in Path(entry.name).parts],
            filter="data",
        )
    return folder


def limit(engine: Engine, files: list[Path]) -> None:
    """Reads, decodes and predicts, without keeping the answers."""
    engine = engine.on_one_core()

    def predict(paths: list[Path]) -> None:
        sent = [
            fit_image(path.read_bytes(), engine.manifest.input, MAX_PIXELS, keep=False)
            for path in paths
        ]
        engine.predict(np.stack([image.fitted for image in sent]))

    most = engine.most_rows
    with ThreadPoolExecutor(CORES) as pool:
        list(
            pool.map(predict, [files[start : start + most] for start in range(0, len(files), most)])
        )


def run(engine: Engine, folder: Path, out: Path) -> None:
    """Runs the command's work without its start."""
    begun = Run(engine, Job(folder, out), MAX_PIXELS, CORES)
    for _ in begun.work():
        pass
    begun.finish()


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds of `work` by the clock and by the processor.

    Other work on the machine lengthens only the first.
    """
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


if __name__ == "__main__":
    main()
