"""Time and memory of a training on more images than memory holds: drawn JPEGs in a tar.

Peaks are of the whole process. The network is torchvision's mobilenet_v3_small.
"""

import io
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torchvision.models import mobilenet_v3_small

from service.image.resize import Input
from support.load import table
from training.data import read
from training.data.images import fits
from training.data.table import describe_dataset
from training.fit.batches import Batches
from training.fit.recipes import Recipe

BATCH, CLASSES = 64, 100
RECIPE = Recipe("seed_cnn", optimizer="adam", batch=BATCH, ghost_batch=BATCH, flip=True)


@click.command()
@click.option("--images", type=click.IntRange(1000), default=100_000, show_default=True)
@click.option("--size", type=click.IntRange(32), default=224, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True)
def main(images: int, size: int, steps: int) -> None:
    """Prints the table as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "drawn.tar"
        draw(source, images, size + 16)
        rows = list(stages(source, Input(size, (0.5,) * 3, (0.25,) * 3), steps))
    kept = "in memory" if fits(images, size) else "in their files"
    click.echo(f"{images:,} images of {size} pixels, {kept}\n")
    click.echo(table(("stage", "seconds", "peak GiB"), rows))


def draw(path: Path, count: int, size: int) -> None:
    """Writes a tar of JPEGs, the classes one after another."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
            file = io.BytesIO()
            coarse.resize((size, size)).save(file, "JPEG", quality=85)
            entry = tarfile.TarInfo(f"{number * CLASSES // count:03}/{number:07}.jpg")
            entry.size = file.tell()
            file.seek(0)
            archive.addfile(entry, file)


def stages(source: Path, spec: Input, steps: int) -> list[tuple[str, str, str]]:
    """The stages of a training: name, seconds, and the peak of memory until its end."""
    rows = []

    def timed(name: str, stage: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = stage()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append((name, f"{time.monotonic() - started:.1f}", f"{peak:.2f}"))
        return result

    dataset = timed("scan", lambda: read.read(str(source), spec))
    timed("table, duplicates", lambda: describe_dataset(dataset))
    batches = timed("mean and deviation", lambda: Batches.of(dataset.training, RECIPE))
    timed(f"{steps} batches of {BATCH}", lambda: [batches.step(step) for step in range(steps)])
    timed(f"{steps} steps", lambda: train(batches, steps))
    return rows


def train(batches: Batches, steps: int) -> None:
    """Takes `steps` optimiser steps."""
    network = mobilenet_v3_small(num_classes=CLASSES)
    optimizer = torch.optim.Adam(network.parameters())
    for step in range(steps):
        pixels, labels = batches.step(step)
        loss = functional.cross_entropy(network(pixels.float() / 127.5 - 1), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


if __name__ == "__main__":
    main()
