"""OpenVINO beside ONNX Runtime on this CPU, by network and precision: speed and agreement.

Speed is the ratio to ONNX Runtime in float32 on one thread, as the service measures it at its start
(`service.runtime.comparison`): medians of interleaved runs. Agreement is that with its answers: the
largest difference of a logit over all images, and median cosines of gradients and Grad-CAM, each
for the predicted class. The images are test images of `--data`, or smooth drawn ones. On a CPU
without bfloat16 its agreement is that of rounded graphs (`training.export.bfloat16`), and it has no
speed. With `--served`, servers answer instead, loaded in turns: one with what `CANDOR_ENGINE=auto`
chooses, one with ONNX Runtime in float32 and, if asked, the service of a commit as it was.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.errors import BundleError
from service.runtime import openvino
from service.runtime.choice import TITLES, Choice
from service.runtime.comparison import cosines_of, images, speed_ratio
from service.runtime.engine import Engine
from service.runtime.graphs import Batch
from service.settings import EMBEDDED
from support import load, trees
from support.images import draw, encode
from support.trees import WORKING, Tree
from training.data.images import Images
from training.data.read import read
from training.export.bfloat16 import rounded_engine
from training.export.int8 import macro_f1
from training.figures.outputs import outputs_of

BATCHES = (1, 8, 16)
COMPARED = 64  # images whose maps are compared
ASKED = ("/predict", "/predict?explain=grad_cam&map=array")
AUTO = "auto"
SERVED: Mapping[str, Mapping[str, Any]] = {
    "ONNX Runtime in float32": {"engine": "onnxruntime", "precision": "float32"},
    AUTO: {"engine": "auto"},
}
CONNECTIONS, SECONDS = 16, 4
SERVED_HEAD = (
    *("bundle", "asked", "auto beside", "times as fast", "answers/s", "of the other"),
    *("p99 ms", "of the other", "errors"),
)
HEAD = (
    *("network", "engine, precision", *(f"predict, {rows}" for rows in BATCHES)),
    *(f"gradient, {rows}" for rows in BATCHES),
    *(f"Grad-CAM, {rows}" for rows in BATCHES),
    *("largest Δ logit", "gradient, cosine", "Grad-CAM, cosine", "macro F1", "in float32"),
)


@dataclass(frozen=True)
class Subject:
    """A bundle, and the images that its engines are compared on."""

    bundle: Bundle
    batch: Batch
    test: Images | None


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--data", help="Test images of cifar10, and of bundles with its labels.")
@click.option("--images", "count", default=1000, show_default=True, help="Test images, at most.")
@click.option("--only", multiple=True, help="Embedded bundles to compare; all if not given.")
@click.option("--served", is_flag=True, help="Answers of servers instead of runs of graphs.")
@click.option("--rounds", default=5, show_default=True, help="Of the servers, 4 seconds each.")
@click.option("--beside", metavar="COMMIT", help="With --served: the service of this commit, too.")
@click.option("--side", type=int, help="With --served: of the JPEG, in pixels; else the network's.")
def main(
    folders: tuple[Path, ...],
    data: str | None,
    count: int,
    only: tuple[str, ...],
    served: bool,  # noqa: FBT001 - click passes it by name
    rounds: int,
    beside: str | None,
    side: int | None,
) -> None:
    """Prints the table of the embedded bundles, and of those in FOLDERS."""
    load.stop_on_sigterm()
    if (beside or side) and not served:
        raise click.UsageError("--beside and --side are of servers: add --served")
    of_all = (*(EMBEDDED[name] for name in only or EMBEDDED), *folders)
    if served:
        with ExitStack() as stack:
            others = {beside: stack.enter_context(trees.checked_out(beside))} if beside else {}
            for folder in of_all:
                click.echo(servers(folder, rounds, others, side))
        return
    click.echo("| " + " | ".join(HEAD) + " |")
    click.echo("|" + " --- |" * len(HEAD))
    for folder in of_all:
        subject = subject_of(contract.load(folder), data, count)
        for line in lines(subject):
            click.echo("| " + " | ".join(line) + " |")


def servers(folder: Path, rounds: int, others: Mapping[str, Tree], side: int | None) -> str:
    """The table of both engines and of the trees `others`: medians, and ratios round by round.

    All answer a JPEG of `side` pixels; None is the size of the network.
    """
    size = side or max(contract.load(folder).manifest.input.shape)
    asked = [load.image(path, encode(draw("red", size), "JPEG", quality=90)) for path in ASKED]
    found: dict[tuple[str, str], list[load.Reading]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wrk, ports = load.Wrk(scratch), {}
        for name in (*SERVED, *others):
            home = Path(tempfile.mkdtemp(dir=scratch))
            tree, settings = others.get(name, WORKING), SERVED.get(name, {})
            bundle = bundle_in(tree, folder)
            running = load.candor_running(home, bundle, asked[0], tree, **settings)
            ports[name] = stack.enter_context(running).port
            if name == AUTO:
                click.echo("\n".join(said(home / "server.log")) + "\n")
        for _, request, name in product(range(-1, rounds), asked, ports):
            reading = wrk.drive(ports[name], [(request, 1)], CONNECTIONS, SECONDS)
            found.setdefault((request.path, name), []).append(reading)
    rest = [name for name in ports if name != AUTO]
    return load.table(
        SERVED_HEAD,
        [
            [folder.name, f"`{path}`", name, *compared(found[path, AUTO], found[path, name])]
            for path, name in product(ASKED, rest)
        ],
    )


def bundle_in(tree: Tree, folder: Path) -> Path:
    """The bundle in `folder`; of an embedded one that of `tree`, which can read it."""
    is_embedded = folder in EMBEDDED.values()
    return tree.folder / folder.relative_to(WORKING.folder) if is_embedded else folder


def compared(ours: Sequence[load.Reading], theirs: Sequence[load.Reading]) -> Iterator[object]:
    """The figures of a row; the first reading of each only warmed its server."""
    pairs = list(zip(ours, theirs, strict=True))[1:]
    ratios = [mine.rate / other.rate for mine, other in pairs]
    each = [load.median(readings) for readings in zip(*pairs, strict=True)]
    yield f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    yield from (f"{reading.rate:.0f}" for reading in each)
    yield from (f"{reading.p99:.0f}" for reading in each)
    yield sum(reading.errors for pair in pairs for reading in pair)


def said(log: Path) -> Iterator[str]:
    """The lines of a server's `log` about its engines."""
    return (
        line
        for line in log.read_text().splitlines()
        if line.endswith("serves") or "beside ONNX" in line
    )


def subject_of(bundle: Bundle, data: str | None, count: int) -> Subject:
    """`bundle` with images: of `data` if it has their labels, or drawn ones."""
    drawn = images(bundle.manifest.input.size)
    if data is None:
        return Subject(bundle, drawn, None)
    dataset = read(data, bundle.manifest.input, seed=0)
    if dataset.classes != bundle.manifest.labels:
        return Subject(bundle, drawn, None)
    chosen = np.random.default_rng(0).permutation(len(dataset.test))[:count]
    test = dataset.test.take(np.sort(chosen))
    return Subject(bundle, test.rows(np.arange(min(COMPARED, len(test)))), test)


def lines(subject: Subject) -> Iterator[list[str]]:
    """The rows of the table for one bundle."""
    usual = Engine(subject.bundle, "cpu", 1)
    for choice in choices(subject.bundle):
        name = f"{TITLES[choice.runtime]}, {choice.precision}"
        try:
            engine = Engine(subject.bundle, "cpu", 1, choice=choice)
        except BundleError as error:
            yield [subject.bundle.manifest.name, name, str(error)]
            continue
        if engine.choice != choice:
            yield [subject.bundle.manifest.name, name, "not opened"]
            continue
        yield [
            subject.bundle.manifest.name,
            name,
            *speeds(engine, usual),
            *near(engine, usual, subject),
        ]
    if not openvino.has_bfloat16():
        with tempfile.TemporaryDirectory() as scratch:
            engine = rounded_engine(subject.bundle, Path(scratch))
            blank = ["–"] * 3 * len(BATCHES)
            name = "rounded to bfloat16"
            yield [subject.bundle.manifest.name, name, *blank, *near(engine, usual, subject)]


def choices(bundle: Bundle) -> Iterator[Choice]:
    """What can be compared of `bundle` here."""
    has_int8 = bundle.manifest.int8 is not None
    if has_int8:
        yield Choice("onnxruntime", "int8")
    yield Choice("openvino", "float32")
    if openvino.has_bfloat16():
        yield Choice("openvino", "bfloat16")
    if has_int8:
        yield Choice("openvino", "int8")


def speeds(engine: Engine, usual: Engine) -> Iterator[str]:
    """The ratios of predictions, gradients and Grad-CAM, by the size of the batch."""
    batch = np.resize(
        images(usual.manifest.input.size), (max(BATCHES), *usual.manifest.input.shape, 3)
    )
    for call in (quick, gradient, cam):
        for rows in BATCHES:
            part = batch[:rows]
            yield f"{speed_ratio(call(engine, part), call(usual, part), part):.2f}"


def quick(engine: Engine, _batch: Batch) -> Callable[[Batch], Any]:
    """A prediction."""
    return engine.predict_quick


def gradient(engine: Engine, batch: Batch) -> Callable[[Batch], Any]:
    """A gradient of the images `batch`, which are normalised before."""
    x, target = engine.normalise(batch), np.full(len(batch), -1)
    return lambda _batch: engine.gradient(x, target)


def cam(engine: Engine, batch: Batch) -> Callable[[Batch], Any]:
    """Their Grad-CAM."""
    x, target = engine.normalise(batch), np.full(len(batch), -1)
    return lambda _batch: engine.cam(x, target)


def near(engine: Engine, usual: Engine, subject: Subject) -> Iterator[str]:
    """The agreement of `engine` with `usual`, and the macro F1 of both."""
    ours, theirs = (each.predict_quick(subject.batch).logits for each in (engine, usual))
    yield f"{np.abs(ours - theirs).max():.1e}"
    cosines = cosines_of(engine, usual, subject.batch)
    yield from (f"{cosines[name]:.5f}" if name in cosines else "–" for name in ("gradient", "cam"))
    for each in (engine, usual):
        test = subject.test
        yield "–" if test is None else f"{macro_f1(quick_logits(each, test), test):.4f}"


def quick_logits(engine: Engine, test: Images) -> np.ndarray:
    """The logits of predictions of the images `test`."""
    if engine.precision != "int8":
        return outputs_of(engine, test).logits
    return np.concatenate([engine.predict_quick(part).logits for part in test.parts(64)])


if __name__ == "__main__":
    main()
