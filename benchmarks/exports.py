"""Classifiers of timm and transformers, exported to ONNX and bundled: how exactly, or why not.

Weights are random (seed 0) and shaken, because a gain of 0 or 1 would hide a wrong rule. Every file
goes through the functions of `python -m training bundle --onnx`. Its gradients, for the predicted
class of drawn images, are compared with those of torch in float64, twice: as ONNX Runtime answers
in float32, where rounding decides on which side of its kink a unit near it is, and, where that
differs by more than 5e-6, evaluated in float64, where what is left is a fault of a rule.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from benchmarks import hugging_face
from benchmarks.parity import quiet
from service.image.resize import Input
from training.autodiff import DifferentiationError
from training.data.images import drawn_images
from training.export.core import graphs
from training.export.exact import Exact
from training.export.foreign import ForeignError, Names, read_core
from training.export.parity import compare
from training.networks import catalogue

# The smallest variant of a family, and a size that it takes.
NETWORKS = {
    "vit_tiny_patch16_224": 64,
    "deit_tiny_patch16_224": 64,
    "beitv2_base_patch16_224": 64,
    "cait_xxs24_224": 64,
    "crossvit_tiny_240": 240,
    "swin_tiny_patch4_window7_224": 112,
    "swinv2_cr_tiny_ns_224": 224,
    "davit_tiny": 64,
    "twins_svt_small": 64,
    "hiera_tiny_224": 224,
    "mvitv2_tiny": 64,
    "pvt_v2_b0": 64,
    "levit_128s": 224,
    "xcit_nano_12_p16_224": 64,
    "coat_lite_tiny": 64,
    "efficientformer_l1": 224,
    "mobilevit_xxs": 64,
    "mobilenetv4_hybrid_medium": 64,
    "sequencer2d_s": 64,
    "convit_tiny": 224,
    "maxvit_pico_rw_256": 256,
    "coatnet_pico_rw_224": 224,
    "efficientvit_b0": 64,
    "botnet26t_256": 256,
    "tresnet_m": 64,
    "skresnet18": 64,
    "nasnetalarge": 96,
    "poolformer_s12": 64,
    "edgenext_xx_small": 64,
    "ghostnet_050": 64,
    "hrnet_w18_small": 64,
    "dla46_c": 64,
    "nfnet_l0": 64,
    "resnest14d": 64,
    "repvgg_a0": 64,
    "repvit_m0_9": 64,
    "ese_vovnet19b_slim_dw": 64,
    "fastvit_t8": 64,
    "mobilenetv4_conv_small": 64,
    "mobileone_s0": 64,
    "starnet_s050": 64,
    "lcnet_035": 64,
    "lambda_resnet26t": 256,
    "inception_next_atto": 64,
    "inception_v4": 96,
    "mambaout_femto": 64,
    "shvit_s1": 64,
    "res2net50_14w_8s": 64,
    "convmixer_768_32": 64,
    "visformer_tiny": 224,
    "focalnet_tiny_srf": 64,
    "tiny_vit_5m_224": 64,
    "mixer_s32_224": 64,
    "resmlp_12_224": 64,
    "gmlp_ti16_224": 64,
    "eva02_tiny_patch14_224": 56,
    "convnextv2_atto": 64,
    "pit_ti_224": 64,
    "gcvit_xxtiny": 224,
    "nest_tiny": 224,
    "regnetx_002": 64,
    "tnt_s_legacy_patch16_224": 64,
}
OPSETS = {"torchscript": 17, "dynamo": 18}
CLASSES = 10
SHAKE = 0.1
NEAR = 5e-6
VANISHED = 1e-20  # the largest element of a gradient; near 1e-38 float32 has few digits left


HEADINGS = (
    "network, pixels",
    "nodes",
    "with gradient",
    "float32: difference, median",
    "cosine",
    "float64: difference, median",
    "seconds",
)


@click.command()
@click.option("--exporter", type=click.Choice(list(OPSETS)), default="torchscript")
@click.option("--only", multiple=True, help="Networks of the table, or others of timm.")
@click.option("--images", default=4, show_default=True, help="Images to compare, 2 or more.")
@click.option("--fixed", is_flag=True, help="Export for one image a call, not for a free batch.")
@click.option("--float64", is_flag=True, help="Evaluate every graph in float64, too.")
@click.option("--limit", default=600, show_default=True, help="Seconds for a network.")
def main(exporter: str, only: tuple[str, ...], limit: int, **options: Any) -> None:
    """Prints the table: a row for each network, with its figures or the reason of its refusal.

    "hf" in --only stands for all rows of transformers.
    """
    click.echo(f"| {' | '.join(HEADINGS)} |")
    click.echo("| --- " * len(HEADINGS) + "|")
    names = [*NETWORKS, *hugging_face.FAMILIES]
    if only:
        names = [name for asked in only for name in _rows(asked)]
    for name in names:
        # A process for each: memory is freed, and an endless export ends.
        process = multiprocessing.get_context("fork").Process(
            target=_print_line, args=(name, exporter), kwargs=options
        )
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
            click.echo(_row(name, f"given up after {limit} s"))
        elif process.exitcode:
            click.echo(_row(name, f"its process ended with {process.exitcode}"))


def _rows(asked: str) -> list[str]:
    return list(hugging_face.FAMILIES) if asked == hugging_face.PREFIX[:-1] else [asked]


def _print_line(name: str, exporter: str, **options: Any) -> None:
    click.echo(line(name, exporter, **options))


def line(name: str, exporter: str, images: int, *, fixed: bool, float64: bool) -> str:
    """The row of one network."""
    size = size_of(name)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            network = network_of(name, size)
            export(network, path, size, exporter, fixed=fixed)
        except Exception as error:  # noqa: BLE001 - timm and torch raise many types
            return _row(name, f"not exported: {_sentence(error)}")
        try:
            core = read_core(path, size, CLASSES, Names())
            gradient = graphs(core, Input(size, (0.5,) * 3, (0.25,) * 3))["gradient.onnx"]
        except (ForeignError, DifferentiationError) as error:
            return _row(name, f"refused: {_sentence(error)}")
    try:
        figures = measured(network, gradient, size, images, always=float64)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many types
        return _row(name, f"fails: {_sentence(error)}")
    counts = str(len(core.model.graph.node)), str(nodes_of(gradient))
    return _row(name, *counts, *figures, f"{time.monotonic() - start:.0f}")


def size_of(name: str) -> int:
    """The size, in pixels, at which a network is compared."""
    family = hugging_face.FAMILIES.get(name)
    return family.size if family else NETWORKS.get(name, 224)


def _row(name: str, *cells: str) -> str:
    title = f"{name}, {size_of(name)}"
    return f"| {' | '.join([title, *cells, *[''] * (len(HEADINGS) - 1 - len(cells))])} |"


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300].replace("|", "/")


def nodes_of(content: bytes) -> int:
    """The number of nodes of an ONNX file."""
    return len(onnx.load_model_from_string(content).graph.node)


def network_of(name: str, size: int) -> nn.Module:
    """The network with random, shaken weights, in evaluation mode."""
    torch.manual_seed(0)
    network = _built(name, size)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point() and (tensor.ndim <= 1 or float(tensor.std()) == 0):
                noise = torch.randn_like(tensor) * SHAKE
                tensor.mul_(1 + noise) if key.endswith("running_var") else tensor.add_(noise)
    return network.eval()


def _built(name: str, size: int) -> nn.Module:
    if name.startswith(hugging_face.PREFIX):
        return hugging_face.network(name, CLASSES)
    timm = catalogue.timm(name)
    try:
        network: nn.Module = timm.create_model(name, num_classes=CLASSES, img_size=size)
    except TypeError:  # networks of convolutions take any size
        network = timm.create_model(name, num_classes=CLASSES)
    return network


def export(network: nn.Module, path: Path, size: int, exporter: str, *, fixed: bool) -> None:
    """Writes the network as ONNX."""
    opset = OPSETS[exporter]
    example = (torch.zeros(1 if fixed else 2, 3, size, size),)
    with quiet():
        if exporter == "dynamo":
            shapes = None if fixed else ({0: torch.export.Dim("N")},)
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
                input_names=["image"],
                dynamic_axes=None if fixed else {"image": {0: "N"}},
            )


def measured(
    network: nn.Module, graph: bytes, size: int, images: int, *, always: bool
) -> tuple[str, str, str]:
    """The gradient beside torch's in float64.

    Its difference and cosine in float32; its difference in float64, `always` or where that of
    float32 is large, else a dash.
    """
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    batch = drawn_images(images, size).astype(np.float32)
    rows = np.ascontiguousarray(np.moveaxis((batch / 255 - 0.5) / 0.25, -1, 1))
    # All rows at once: torch 2.15's float64 gradient for one row alone is wrong in some networks
    # (levit_128s, xcit_nano), as central differences show.
    x = torch.from_numpy(rows).double().requires_grad_()
    logits = network.double()(x)
    target = logits.argmax(1)
    (expected,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), x)
    if float(expected.abs().amax((1, 2, 3)).min()) < VANISHED:
        raise ValueError("its gradients vanish, so nothing can be compared")
    pairs = [(row[None], label[None]) for row, label in zip(rows, target.numpy(), strict=True)]
    found = [session.run(["gradient"], {"x": row, "target": label})[0] for row, label in pairs]
    parity = compare(np.concatenate(found), expected.numpy())
    figures = f"{parity.relative_difference:.1e}", f"{parity.cosine:.7f}"
    if parity.relative_difference <= NEAR and not always:
        return *figures, "–"
    exact = Exact(onnx.load_model_from_string(graph), ["gradient"])
    found = [exact.run({"x": row.astype(np.float64), "target": label})[0] for row, label in pairs]
    return *figures, f"{compare(np.concatenate(found), expected.numpy()).relative_difference:.1e}"


if __name__ == "__main__":
    main()
