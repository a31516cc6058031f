"""The loss of half precision: graphs whose tensors are rounded between operators, beside float32.

The networks are the embedded bundle's and torchvision's, with random weights (seed 0). Images are
drawn, or for the embedded bundle the test images of `--data`. Figures are medians over images, each
for its predicted class, as in `training.export.parity`.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, numpy_helper

from benchmarks.parity import CLASSES, OPSET, SIZES, SMALL, export, network_of
from service.bundle import folder as contract
from service.bundle.manifest import Parity
from service.settings import EMBEDDED_BUNDLE
from training.autodiff import cam_graph, gradient_graph
from training.data.images import drawn_images
from training.data.read import read
from training.export.float16 import IN_FLOAT32, halved, rounded
from training.export.foreign import Names, read_core
from training.export.parity import compare

NETWORKS = ("embedded", "resnet18", "densenet121", "squeezenet1_1", "convnext_tiny")
Graphs = tuple[ModelProto, ModelProto]


@click.command()
@click.option(
    "--images",
    default=8,
    show_default=True,
    help="Images to compare, drawn ones and those of --data.",
)
@click.option(
    "--data", help="Test images for the embedded bundle, as for `python -m training fit`."
)
@click.option("--only", multiple=True, help="Networks to compare; all if not given.")
@click.option(
    "--float32", "kept", multiple=True, help="An operator to keep in float32; may be repeated."
)
@click.option("--weights", is_flag=True, help="Round the weights alone.")
def main(
    images: int,
    data: str | None,
    only: tuple[str, ...],
    kept: tuple[str, ...],
    weights: bool,  # noqa: FBT001 - click's
) -> None:
    """Prints the table."""
    near = weights_alone if weights else lambda model: rounded(halved(model, (*IN_FLOAT32, *kept)))
    click.echo(
        "| network | logits | gradient | gradient, cosine"
        " | Grad-CAM | Grad-CAM, cosine | same class |"
    )
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for name in only or NETWORKS:
        made, size = embedded() if name == "embedded" else exported(name)
        batch = drawn_images(images, size)
        if data is not None and name == "embedded":
            batch = read(data, contract.load(EMBEDDED_BUNDLE).manifest.input, 5000, 0).test.pixels[
                :images
            ]
        click.echo(line(name, made, batch, near))


def embedded() -> tuple[Graphs, int]:
    """The float32 gradient and CAM graphs of the embedded bundle, and the side of its input."""
    bundle = contract.load(EMBEDDED_BUNDLE)
    gradient, cam = (
        onnx.load_model_from_string(bundle.read(name)) for name in (contract.GRADIENT, contract.CAM)
    )
    return (gradient, cam), bundle.manifest.input.shape[0]


def exported(name: str) -> tuple[Graphs, int]:
    """The float32 gradient and CAM graphs of a torchvision network, and the side of its input."""
    size = SIZES.get(name, SMALL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(network_of(name), path, size, OPSET)
        core = read_core(path, size, CLASSES, Names())
    return (gradient_graph(core.model), cam_graph(core.model)), size


def weights_alone(model: ModelProto) -> ModelProto:
    """The float32 graph with its weights rounded."""
    near = ModelProto()
    near.CopyFrom(model)
    for tensor in near.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return near


def line(
    name: str, made: Graphs, batch: np.ndarray, near: Callable[[ModelProto], ModelProto]
) -> str:
    """The row of one network, on images uint8 (N, H, W, 3)."""
    x = np.ascontiguousarray(np.moveaxis((batch.astype(np.float32) / 255 - 0.45) / 0.22, -1, 1))
    target = answer(made[0], x, np.full(len(x), -1))[0].argmax(1)
    (logits, gradient), (_, cam) = (answer(model, x, target) for model in made)
    (near_logits, near_gradient), (_, near_cam) = (answer(near(model), x, target) for model in made)
    parities = [
        difference(near_logits, logits),
        difference(near_gradient, gradient),
        difference(near_cam, cam),
    ]
    same = int((near_logits.argmax(1) == target).sum())
    cosines = " | ".join(
        f"{parity.relative_difference:.1e} | {parity.cosine:.6f}" for parity in parities[1:]
    )
    return f"| {name} | {parities[0].relative_difference:.1e} | {cosines} | {same} of {len(x)} |"


def answer(model: ModelProto, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits and the map of a graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    logits, attribution = session.run(None, {"x": x, "target": target})[:2]
    return logits, attribution


def difference(ours: np.ndarray, theirs: np.ndarray) -> Parity:
    """The parity of two arrays, row by row."""
    a, b = (values.reshape(len(values), -1, 1, 1) for values in (ours, theirs))
    return compare(a, b, "float32")


if __name__ == "__main__":
    main()
