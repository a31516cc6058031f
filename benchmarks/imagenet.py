"""The embedded bundle imagenet: its predictions beside torch's, and what it takes to serve it.

`same` compares probabilities with those of the torch network, image by image. `served` starts the
service with two workers, asks a lone caller's questions, then every method from several callers,
and reads the resident memory of each worker.
"""

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import httpx
import numpy as np
import torch

from service.bundle import folder as contract
from service.image.kinds import SUFFIXES
from service.runtime.engine import Engine
from service.settings import EMBEDDED
from support import servers
from support.load import table
from training.data.images import load_image
from training.export.weights import network_with
from training.networks import weights as published

SAMPLE = EMBEDDED["imagenet"] / "coffee.webp"
LONE = ("grad_cam", "integrated_gradients")
CALLERS, ROUNDS = 4, 5
DEADLINE_MS = 60_000


@click.group()
def main() -> None:
    """Measures the embedded bundle imagenet."""


@main.command()
@click.argument("weights", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("images", type=click.Path(path_type=Path, file_okay=False))
def same(weights: Path, images: Path) -> None:
    """Compares the bundle with the torch network of WEIGHTS on the files of IMAGES."""
    engine = Engine(contract.load(EMBEDDED["imagenet"]), "cpu", threads=1)
    network = network_with(published.read(weights))
    largest, agreeing, files = 0.0, 0, sorted(p for p in images.rglob("*") if p.suffix in SUFFIXES)
    for path in files:
        pixels = load_image(str(path), path.read_bytes(), engine.manifest.input)[None]
        with torch.inference_mode():
            theirs = network(torch.from_numpy(engine.normalise(pixels))).softmax(1)[0].numpy()
        ours = engine.manifest.calibration.probabilities(engine.predict(pixels).logits)[0]
        largest = max(largest, float(np.abs(ours - theirs).max()))
        agreeing += int(ours.argmax() == theirs.argmax())
    click.echo(f"{agreeing} of {len(files)} photographs get torch's class;", nl=False)
    click.echo(f" probabilities differ by {largest:.1e} at most")


@main.command()
@click.option("--requests", default=16, show_default=True, help="Of each method.")
@click.option("--workers", default=2, show_default=True)
@click.option("--image", type=click.Path(path_type=Path, dir_okay=False), default=SAMPLE)
def served(requests: int, workers: int, image: Path) -> None:
    """Serves the bundle and prints times and memory as Markdown."""
    content = image.read_bytes()
    with (
        tempfile.TemporaryDirectory() as scratch,
        servers.Server(Path(scratch), bundle="imagenet", workers=workers) as server,
    ):
        rows: list[tuple[object, ...]] = [
            ("ready", "", f"{server.seconds_to_ready:.1f}", memory(server))
        ]
        names = [each["name"] for each in httpx.get(f"{server.url}/methods").json()["methods"]]
        for name in LONE:
            seconds = [ask(server.url, name, content) for _ in range(ROUNDS)]
            rows.append(
                (f"{name}, alone", ROUNDS, f"{statistics.median(seconds):.2f}", memory(server))
            )
        for name in names:
            with ThreadPoolExecutor(CALLERS) as callers:
                asked = [callers.submit(ask, server.url, name, content) for _ in range(requests)]
            seconds = [answer.result() for answer in asked]
            rows.append((name, requests, f"{statistics.median(seconds):.2f}", memory(server)))
    headers = ("what", "requests", "seconds (median)", "resident MiB of each worker")
    click.echo(table(headers, rows))


def ask(url: str, method: str, content: bytes) -> float:
    """The seconds of an explanation by `method`."""
    started = time.perf_counter()
    answer = httpx.post(
        f"{url}/explain",
        params={"method": method, "deadline_ms": DEADLINE_MS},
        content=content,
        headers={"content-type": "image/webp"},
        timeout=DEADLINE_MS,
    )
    answer.raise_for_status()
    return time.perf_counter() - started


def memory(server: servers.Server) -> str:
    """The resident memory of each worker, in MiB."""
    sizes = []
    for pid in servers.descendants(server.process.pid):
        if "onnxruntime" in Path(f"/proc/{pid}/maps").read_text():
            status = Path(f"/proc/{pid}/status").read_text()
            kibibytes = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            sizes.append(int(kibibytes.split()[1]) / 1024)
    return ", ".join(f"{size:.0f}" for size in sizes)


if __name__ == "__main__":
    main()
