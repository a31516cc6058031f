"""Every method of large models, served: how long, from what degraded, by which own measure noise.

ViT-S/16 (timm) and resnet50 (torchvision) at 224 pixels with random weights (seed 0), the head
scaled so that logits differ from image to image, and the embedded bundle imagenet, whose weights
were trained. The first request after the start is the dearest method.
"""

import base64
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import torch
import torchvision
from torch import nn

from benchmarks.parity import quiet
from service.settings import EMBEDDED
from support import servers
from support.load import table
from training.data.images import drawn_images
from training.export.cache import Wishes, bundle_of
from training.networks import catalogue

SAMPLE = EMBEDDED["imagenet"] / "coffee.webp"
IMAGENET, VIT, RESNET = "imagenet", "vit_small_patch16_224", "resnet50"
SIZE, CLASSES, OPSET = 224, 1000, 17
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the logits of a class over images. Random convolutions hardly tell images apart: to spread
# their logits further spreads rounding, too, beyond what is taken for the same probabilities.
SPREAD = {VIT: 1.5, RESNET: 0.5}
FIRST = "kernel_shap"
TOGETHER = 4
DEADLINE, OVERHEAD = 10.0, 0.5  # seconds; the overhead is that of the client and of two processes
NOISE_GAP = 0.5
START = 300  # seconds, on a busy machine
DEAREST = ("steps", "samples", "segments", "cells")
FINEST = {"stride": 0.05, "tolerance": 0}

Answer = Mapping[str, Any]


@click.command()
@click.option("--only", multiple=True, type=click.Choice([VIT, RESNET, IMAGENET]))
@click.option("--image", type=click.Path(path_type=Path, dir_okay=False), default=SAMPLE)
@click.option("--method", "methods", multiple=True, help="Methods to ask; all if not given.")
@click.option("--workers", default=2, show_default=True)
@click.option("--brief", is_flag=True, help="One image with defaults and dearest parameters alone.")
@click.option("--url", help="Ask this service, which runs already, instead of starting one.")
def main(
    only: tuple[str, ...],
    image: Path,
    methods: tuple[str, ...],
    workers: int,
    url: str | None,
    *,
    brief: bool,
) -> None:
    """Asks every method of each model, and prints a table for each and what fell short.

    Bundles stay in the cache (XDG_CACHE_HOME): the first run takes minutes more.
    """
    content = image.read_bytes()
    if url is not None:
        report(url, list(followed(asked(url, content, methods, brief=brief))))
        return
    for name in only or (VIT, RESNET, IMAGENET):
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bundle = name if name == IMAGENET else bundle_of(made(name, scratch), WISHES, quiet_say)
            server = stack.enter_context(
                servers.Server(scratch, ready_seconds=START, bundle=bundle, workers=workers)
            )
            rows = list(followed(asked(server.url, content, methods, brief=brief)))
        report(f"{name}, ready in {server.seconds_to_ready:.1f} s", rows)


def followed(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """`rows`, each on standard error as it comes."""
    for each in rows:
        quiet_say(" | ".join(map(str, each)))
        yield each


def report(title: str, rows: list[tuple[Any, ...]]) -> None:
    """Prints the table, and what fell short below it."""
    click.echo(f"\n{title}\n\n{table(HEADERS, [row[:-1] for row in rows])}")
    short = [row for row in rows if row[-1]]
    click.echo(f"\n{len(rows)} questions; fell short: {len(short)}")
    for name, question, *_, fault_found in short:
        click.echo(f"- {name}, {question}: {fault_found}")


HEADERS = ("method", "question", "status", "seconds", "announced", "answered by", "gap", "warns")
WISHES = Wishes(size=SIZE, mean=MEAN, std=STD)


def quiet_say(sentence: str) -> None:
    """A step of making a bundle, on standard error."""
    click.echo(sentence, err=True)


def made(name: str, folder: Path) -> Path:
    """The ONNX file of a network, with a scaled head; the same bytes every time."""
    torch.manual_seed(0)
    if name == VIT:
        network, head = (net := catalogue.timm(name).create_model(name)), net.head
    else:
        network, head = (net := torchvision.models.resnet50()), net.fc
    rows = torch.from_numpy(np.moveaxis(drawn_images(16, SIZE).astype(np.float32) / 255, -1, 1))
    x = (rows - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    spread_logits(network.eval(), head, x, SPREAD[name])
    path = folder / f"{name}.onnx"
    with quiet():
        torch.onnx.export(
            network,
            (x[:2],),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            dynamic_axes={"image": {0: "N"}},
        )
    return path


@torch.no_grad()
def spread_logits(network: nn.Module, head: nn.Linear, x: torch.Tensor, spread: float) -> None:
    """Scales `head` so that each class has mean 0 and deviation `spread` over the images `x`.

    Random weights give nearly the same logits for every image, and nothing to explain.
    """
    logits = network(x)
    scale = spread / logits.std(0)
    head.bias.sub_(logits.mean(0)).mul_(scale)
    head.weight.mul_(scale[:, None])


def asked(
    url: str, content: bytes, only: tuple[str, ...], *, brief: bool = False
) -> Iterator[tuple[Any, ...]]:
    """A row for each question, the first one to a service that has just started."""
    offered = {each["name"]: each for each in httpx.get(f"{url}/methods").json()["methods"]}
    chosen = [name for name in offered if not only or name in only]
    yield row(offered[FIRST], "first request", *ask(url, content, {"method": FIRST}))
    first = ask(url, content, {"method": "grad_cam"})[0]["top"]
    contrast = f"{first[0]['index']},{first[1]['index']}"
    for name in chosen:
        method, dear = offered[name], dearest(offered[name])
        plain = {"method": name}
        yield row(method, "defaults", *ask(url, content, plain))
        yield row(method, "dearest", *ask(url, content, plain | dear))
        if brief:
            continue
        yield row(method, "again", *ask(url, content, plain))
        rich = {"target": contrast, "quality": "full", "map": "both", "legend": "true"}
        yield row(method, "contrast, full quality", *ask(url, content, plain | rich))
        yield from several(url, content, method)


def several(url: str, content: bytes, method: Answer) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch of images, and of as many requests at once."""
    name, encoded = method["name"], base64.b64encode(content).decode()
    started = time.perf_counter()
    reply = httpx.post(
        f"{url}/explain", json={"images": [encoded] * TOGETHER, "method": name}, timeout=60
    )
    seconds = time.perf_counter() - started
    for result in reply.json().get("results", [{}]):
        status = result.get("error", {}).get("status", reply.status_code)
        yield row(method, f"one of {TOGETHER} images", result, status, seconds)
    with ThreadPoolExecutor(TOGETHER) as callers:
        asks = [callers.submit(ask, url, content, {"method": name}) for _ in range(TOGETHER)]
    for each in asks:
        yield row(method, f"one of {TOGETHER} callers", *each.result())


def dearest(method: Answer) -> dict[str, Any]:
    """The parameters of a method that take longest."""
    given = {p["name"]: p["maximum"] for p in method["parameters"] if p["name"] in DEAREST}
    finest = {
        name: v for p in method["parameters"] for name, v in FINEST.items() if p["name"] == name
    }
    return given | finest


def ask(url: str, content: bytes, parameters: Mapping[str, Any]) -> tuple[Answer, int, float]:
    """The answer to one question, its HTTP status and its seconds."""
    started = time.perf_counter()
    reply = httpx.post(
        f"{url}/explain",
        params=parameters,
        content=content,
        headers={"content-type": "image/webp"},
        timeout=60,
    )
    return reply.json(), reply.status_code, time.perf_counter() - started


def row(method: Answer, question: str, answer: Answer, status: int, seconds: float) -> Any:
    """A row of the table; its last cell is what falls short, or empty."""
    explanation = answer.get("explanation", {})
    degraded = explanation.get("degraded_from")
    gap, warns = explanation.get("quality", {}).get("completeness_gap"), explanation.get("warnings")
    changed = {
        name: value
        for name, value in explanation.get("parameters", {}).items()
        if degraded and degraded["parameters"].get(name) != value
    }
    words = ", ".join(f"{name}={value}" for name, value in changed.items())
    by = f"{explanation.get('method')} {words}".strip() if degraded else "as asked"
    if not explanation:
        by = str(answer.get("detail", answer.get("error", {}).get("detail")))[:90]
    return (
        method["name"],
        question,
        status,
        f"{seconds:.2f}",
        f"{method['seconds']:.2g}" if question == "defaults" else "",
        by,
        "" if gap is None else f"{gap:.2f}",
        "yes" if warns else "",
        fault(question, explanation, status, seconds),
    )


def fault(question: str, explanation: Answer, status: int, seconds: float) -> str:
    """What an answer lacks, or an empty text."""
    if status != httpx.codes.OK:
        return f"status {status}"
    if seconds > DEADLINE + OVERHEAD:
        return f"answered after {seconds:.1f} s"
    gap = explanation["quality"].get("completeness_gap", 0.0)
    if gap > NOISE_GAP and not explanation["warnings"]:
        return f"noise without a word: gap {gap:.2f}"
    if question == "defaults" and explanation["degraded_from"]:
        return "the defaults do not fit the deadline"
    return ""


if __name__ == "__main__":
    main()
