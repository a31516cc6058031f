"""Gradients of torchvision's classifiers, exported to ONNX, beside Captum's Saliency on torch.

Weights are random (seed 0), because any weights show a wrong rule. Images are drawn. The comparison
is that of `training.export.parity`.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
import torch
import torchvision
from captum.attr import Saliency
from torch import Tensor, nn

from service.bundle.manifest import Parity
from training.autodiff import gradient_graph
from training.data.images import drawn_images
from training.export.foreign import Names, read_core
from training.export.parity import compare

NETWORKS = (
    *(
        "resnet18",
        "resnext50_32x4d",
        "densenet121",
        "vgg11",
        "squeezenet1_1",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b0",
    ),
    *(
        "shufflenet_v2_x0_5",
        "mnasnet0_5",
        "regnet_y_400mf",
        "googlenet",
        "inception_v3",
        "convnext_tiny",
        "vit_b_16",
        "swin_t",
        "maxvit_t",
    ),
)
OLDER = ("resnet18", "mobilenet_v2", "vgg11")
OLD_OPSET, OPSET = 13, 20
CLASSES, ROWS = 1000, 4
SMALL = 64  # rounding flips masks of units, in torch as in ONNX Runtime: few units, few flips
SIZES = {"vgg11": 224, "inception_v3": 96, "vit_b_16": 224, "swin_t": 224, "maxvit_t": 224}


@click.command()
@click.option("--images", default=16, show_default=True, help="Images to compare.")
@click.option("--only", multiple=True, help="Networks to compare; all if not given.")
def main(images: int, only: tuple[str, ...]) -> None:
    """Prints the table."""
    click.echo(
        "| network | exporter | nodes | with gradient | relative difference, median"
        " | cosine, median | largest logit difference |"
    )
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    jobs = [(name, OPSET) for name in NETWORKS] + [(name, OLD_OPSET) for name in OLDER]
    for name, opset in jobs:
        if not only or name in only:
            click.echo(line(name, opset, images))


def line(name: str, opset: int, images: int) -> str:
    """The row of one network."""
    size = SIZES.get(name, SMALL)
    network = network_of(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(network, path, size, opset)
        core = read_core(path, size, CLASSES, Names())
    gradient = gradient_graph(core.model)
    parity, logits = measured(network, gradient.SerializeToString(), size, images)
    kind = "torch.export" if opset == OPSET else "TorchScript"
    counts = f"{len(core.model.graph.node)} | {len(gradient.graph.node)}"
    figures = f"{parity.relative_difference:.1e} | {parity.cosine:.7f} | {logits:.1e}"
    return f"| {name} | {kind}, opset {opset} | {counts} | {figures} |"


def network_of(name: str) -> nn.Module:
    """The network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    with quiet():
        network: nn.Module = torchvision.models.get_model(name, weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            # Some networks begin with a head of zeros, which would hide every error.
            nn.init.normal_(layer.weight, std=0.02)
    return network.eval()


def export(network: nn.Module, path: Path, size: int, opset: int) -> None:
    """Writes the network as ONNX, by the current exporter, or by the older one for OLD_OPSET."""
    example = (torch.zeros(2, 3, size, size),)
    with quiet():
        if opset == OPSET:
            shapes = ({0: torch.export.Dim("N")},)
            torch.onnx.export(
                network,
                example,
                path,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                verbose=False,
            )
        else:
            torch.onnx.export(
                network,
                example,
                path,
                dynamo=False,
                opset_version=opset,
                input_names=["in"],
                dynamic_axes={"in": {0: "n"}},
            )


def measured(network: nn.Module, graph: bytes, size: int, images: int) -> tuple[Parity, float]:
    """The parity of the gradients, and the largest difference of the logits."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    batch = drawn_images(images, size)
    rows = np.moveaxis((batch.astype(np.float32) / 255 - 0.45) / 0.22, -1, 1)
    ours: list[np.ndarray] = []
    theirs: list[Tensor] = []
    logits = 0.0
    for start in range(0, images, ROWS):
        x = torch.from_numpy(np.ascontiguousarray(rows[start : start + ROWS]))
        with torch.no_grad():
            expected = network(x)
        target = expected.argmax(1)
        ours_logits, gradient = session.run(
            ["logits", "gradient"], {"x": x.numpy(), "target": target.numpy()}
        )
        theirs.append(Saliency(network).attribute(x.requires_grad_(), target, abs=False).detach())
        ours.append(gradient)
        logits = max(logits, float(np.abs(ours_logits - expected.numpy()).max()))
    return compare(np.concatenate(ours), torch.cat(theirs).numpy()), logits


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporters' warnings about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
