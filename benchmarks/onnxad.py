"""Gradients of ONNX classifiers by Candor beside those by `onnx-ad`, on the same ONNX Runtime.

`onnx-ad` (PyPI, MIT) differentiates ONNX graphs, too. Both give one graph of the target's logit by
the image, for the predicted class, each row for itself: ours takes `target`, theirs a one-hot row
as the seed `adj_…` of all logits, so a batch is one run of each.

Theirs is used at its best: weights are initialisers, the image alone is differentiated and the
logits alone are seeded, in its own layout ("onnx"). It does not take a free batch
through a Conv (0.3.0: "needs a declared input shape"), so it gets the graph with the batch fixed,
after Candor's reader has made constants of all arithmetic of shapes, which it asks for, too. Ours
is of the same graph with a free batch, once for all batches. Both run in sessions with the same
options, on one thread; runs are interleaved, and medians of the processor's time count, which a
busy machine disturbs little.

Agreement is the largest difference over the largest value of a row, the worst row of eight. In
float32 both round, and units at a kink flip; in float64 (training.export.exact) neither happens.
Weights are random (seed 0).
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import onnx_ad
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper
from torch import nn

from benchmarks import exports, parity
from service.bundle import folder as contract
from training.autodiff import gradient_graph, prune
from training.data.images import drawn_images
from training.export.exact import Exact
from training.export.foreign import Names, read_core

EMBEDDED = Path(__file__).parents[1] / "service" / "model"
EMBEDDED_NAME, EMBEDDED_SIZE = "candor_net, embedded", 32
# Pixels. A size that each takes, small enough for minutes.
TORCHVISION = {
    "resnet18": 64,
    "densenet121": 64,
    "squeezenet1_1": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 64,
    "shufflenet_v2_x0_5": 64,
    "mnasnet0_5": 64,
    "regnet_y_400mf": 64,
}
TIMM = {"lcnet_035": 64, "ghostnet_050": 64, "repvgg_a0": 64, "convnextv2_atto": 64}
TRANSFORMERS = {
    "vit_tiny_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 112,
    "pvt_v2_b0": 64,
    "xcit_nano_12_p16_224": 64,
    "coat_lite_tiny": 64,
    "mobilevit_xxs": 64,
}
SIZES = {EMBEDDED_NAME: EMBEDDED_SIZE, **TORCHVISION, **TIMM, **TRANSFORMERS}
BATCHES = (1, 8)
AGREED = 2e-6

Run = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds of one processor, at one batch."""

    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Times as fast as theirs."""
        return self.theirs / self.ours


@dataclass(frozen=True)
class Row:
    """One network: timings by batch, and the differences of the gradients."""

    name: str
    is_convolutional: bool
    timings: tuple[Timing, ...]
    single: float
    double: float


@click.command()
@click.option("--only", multiple=True, help="Networks of the table; all if not given.")
@click.option("--runs", default=15, show_default=True, help="Interleaved runs of each.")
def main(only: tuple[str, ...], runs: int) -> None:
    """Prints the table, and what it comes to."""
    ratios = [f"times as fast, batch {n}" for n in BATCHES]
    columns = [f"ours, ms, batch {n} | onnx-ad, ms" for n in BATCHES]
    headers = ["network, pixels", *ratios, *columns, "difference, float32", "float64"]
    click.echo(f"| {' | '.join(headers)} |")
    click.echo("| --- |" + " --- |" * (3 * len(BATCHES) + 2))
    rows = []
    for name in only or SIZES:
        rows.append(measured(name, runs))
        click.echo(line(rows[-1]))
    click.echo(f"\n{summary(rows)}")


def line(row: Row) -> str:
    """The row of the table."""
    cells = [f"{t.ratio:.2f}" for t in row.timings]
    cells += [f"{t.ours:.2f} | {t.theirs:.2f}" for t in row.timings]
    title = f"{row.name}, {SIZES[row.name]}"
    return f"| {title} | {' | '.join(cells)} | {row.single:.1e} | {row.double:.1e} |"


def summary(rows: Sequence[Row]) -> str:
    """The least and the median ratio, and the number of networks that agree."""
    ratios = [timing.ratio for row in rows for timing in row.timings]
    plain = [t.ratio for row in rows if row.is_convolutional for t in row.timings]
    single, double = (
        sum(getattr(row, kind) <= AGREED for row in rows) for kind in ("single", "double")
    )
    least = f"{min(plain):.2f}" if plain else "–"
    return (
        f"Times as fast: at least {least} for each convolutional network, "
        f"{min(ratios):.2f} for each, {np.median(ratios):.2f} in the median. Gradients of "
        f"{len(rows)} networks differ by at most {AGREED:g}: {single} in float32, "
        f"{double} in float64."
    )


def measured(name: str, runs: int) -> Row:
    """The timings and the differences of one network."""
    with tempfile.TemporaryDirectory() as folder:
        network = network_of(name, Path(folder))
    ours = gradient_graph(network)
    theirs = [reversed_graph(fixed(network, batch)) for batch in BATCHES]
    x, target = _images(SIZES[name], ours)
    timings, single = [], 0.0
    for batch, their in zip(BATCHES, theirs, strict=True):
        rows = x[:batch], target[:batch]
        own = _run_of(_session(ours), "gradient", {"x": rows[0], "target": rows[1]})
        seed = their.graph.output[-1].name
        peer = _run_of(_session(their), seed, _feeds(their, *rows))
        single = max(single, difference(own(), peer()[..., 0]))  # each has run once then
        timings.append(Timing(*interleaved(own, peer, runs)))
    double = difference(*_doubles(ours, theirs[0], x[:1], target[:1]))
    return Row(name, name not in TRANSFORMERS, tuple(timings), single, double)


def network_of(name: str, folder: Path) -> ModelProto:
    """The network as a graph from an image to logits, of a free batch."""
    if name == EMBEDDED_NAME:
        return _embedded()
    path = folder / "network.onnx"
    exports.export(_network(name), path, SIZES[name], "torchscript", fixed=False)
    classes = parity.CLASSES if name in TORCHVISION else exports.CLASSES
    return read_core(path, SIZES[name], classes, Names()).model


def _network(name: str) -> nn.Module:
    if name in TORCHVISION:
        return parity.network_of(name)
    return exports.network_of(name, SIZES[name])


def _embedded() -> ModelProto:
    """The embedded bundle's predict.onnx from its normalised image on."""
    model = onnx.load(EMBEDDED / contract.PREDICT)
    graph = model.graph
    nodes = [node for node in graph.node if "x" not in node.output]
    outputs = [output for output in graph.output if output.name == "logits"]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(outputs)
    shape: list[str | int | None] = ["N", 3, EMBEDDED_SIZE, EMBEDDED_SIZE]
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    prune(model)
    return model


def fixed(model: ModelProto, batch: int) -> ModelProto:
    """The graph with one batch alone."""
    made = ModelProto()
    made.CopyFrom(model)
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = batch
    del made.graph.value_info[:]  # of the free batch
    return made


def reversed_graph(model: ModelProto) -> ModelProto:
    """The graph of onnx-ad: image, seed (N, K, 1) → logits, gradient (N, 3, H, W, 1)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    (image,) = (info.name for info in model.graph.input if info.name not in weights)
    made: ModelProto = onnx_ad.reverse(model, inputs=[image], outputs=["logits"], layout="onnx")
    return made


def _session(model: ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _run_of(session: ort.InferenceSession, output: str, feeds: Mapping[str, np.ndarray]) -> Run:
    return lambda: np.asarray(session.run([output], feeds)[0])


def _feeds(model: ModelProto, x: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """The image and the seed: a one-hot row of the logits for each image."""
    (logits,) = (output for output in model.graph.output if output.name == "logits")
    seed = np.eye(logits.type.tensor_type.shape.dim[1].dim_value, dtype=x.dtype)[target]
    weights = {tensor.name for tensor in model.graph.initializer}
    image, adjoint = (info.name for info in model.graph.input if info.name not in weights)
    return {image: x, adjoint: seed[..., None]}


def _images(size: int, ours: ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """Drawn images, normalised, and their predicted classes."""
    pixels = drawn_images(max(BATCHES), size).astype(np.float32)
    x = np.ascontiguousarray(np.moveaxis((pixels / 255 - 0.5) / 0.25, -1, 1))
    feeds = {"x": x, "target": np.full(len(x), -1)}
    return x, _run_of(_session(ours), "logits", feeds)().argmax(1)


def _seconds(run: Run) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def interleaved(ours: Run, theirs: Run, runs: int) -> tuple[float, float]:
    """The medians of both in milliseconds; both have run before."""
    pairs = np.array([(_seconds(ours), _seconds(theirs)) for _ in range(runs)])
    one, other = 1000 * np.median(pairs, axis=0)
    return float(one), float(other)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference over the largest value of a row; the worst row counts."""
    a, b = (values.reshape(len(values), -1) for values in (ours, theirs))
    return float((np.abs(a - b).max(1) / np.abs(b).max(1)).max())


def _doubles(
    ours: ModelProto, theirs: ModelProto, x: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both gradients in float64, of one image."""
    wide = x.astype(np.float64)
    (own,) = Exact(ours, ["gradient"]).run({"x": wide, "target": target})
    (peer,) = Exact(theirs, [theirs.graph.output[-1].name]).run(_feeds(theirs, wide, target))
    return own, peer[..., 0]


if __name__ == "__main__":
    main()
