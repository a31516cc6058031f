"""The same ten photographs and the same network, drawn by Candor, pytorch-grad-cam and Captum.

All three draw Grad-CAM of the last channels for the predicted class, each as its own
documentation does: pytorch-grad-cam by `show_cam_on_image`, Captum by `visualize_image_attr` with
`blended_heat_map`. The photographs are those of `drawings.photographs`.

pytorch-grad-cam (PyPI: grad-cam, MIT) and Captum are not installed for it: give the command an
environment that has both.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from captum.attr import visualization as captum_drawings
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from drawings.gallery import QUALITY, tiled
from drawings.photographs import PHOTOGRAPHS, ROOT, SHORT_SIDE, scaled
from service.bundle import folder as bundle_folder
from service.explain import ask, explain, render
from service.image import resize
from service.image.resize import Box, Pixels
from service.runtime.engine import Engine
from service.settings import EMBEDDED
from training.export.weights import network_with
from training.networks.efficientnet_lite import EfficientNetLite0
from training.networks.weights import read

SIDE = 160  # of a drawing on the sheet, in pixels


@click.command()
@click.option(
    "--unpacked",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="The folder of an unpacked scikit-image.",
)
@click.option(
    "--weights",
    "file",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="The weights of the bundle imagenet: efficientnet-lite0-57934424.pth.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "images" / "beside.webp",
    help="The file of the sheet.",
)
def main(unpacked: Path, file: Path, into: Path) -> None:
    """Writes the sheet: ten columns of what the network sees, and three drawings below each."""
    engine = Engine(bundle_folder.load(EMBEDDED["imagenet"]), "cpu")
    network = network_with(read(file))
    cells = [
        _column(engine, network, scaled(photograph, unpacked, SHORT_SIDE))
        for photograph in PHOTOGRAPHS
    ]
    Image.fromarray(tiled(cells)).save(into, quality=QUALITY, method=6)
    click.echo(f"{into} {into.stat().st_size:,} bytes")


def _column(engine: Engine, network: EfficientNetLite0, pixels: Pixels) -> Pixels:
    """What the network sees, and the drawings by Candor, pytorch-grad-cam and Captum."""
    fitted = resize.to_input(pixels, engine.manifest.input)
    logits = engine.predict(fitted[None]).logits[0]
    spec, target = engine.manifest.input, int(logits.argmax())
    scaled_pixels = torch.from_numpy(fitted.astype(np.float32) / 255).permute(2, 0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    x = ((scaled_pixels - mean) / std)[None]
    with torch.no_grad():
        assert int(network(x).argmax()) == target  # the same network
    drawings = (
        _ours(engine, fitted, logits),
        _by_grad_cam(network, x, target, fitted),
        _by_captum(network, x, target, fitted),
    )
    return np.concatenate([_small(each) for each in (fitted, *drawings)])


def _small(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _ours(engine: Engine, fitted: Pixels, logits: np.ndarray) -> Pixels:
    question = ask(engine.manifest, "grad_cam", None, {})
    found = explain(engine, fitted, question, logits)
    height, width = fitted.shape[:2]
    whole = Box(0, 0, width, height)
    return render.overlay(fitted, found.shown, whole, question.method.scale, found.limit)


def _by_grad_cam(network: EfficientNetLite0, x: Tensor, target: int, fitted: Pixels) -> Pixels:
    with GradCAM(network, [network.get_submodule(network.cam_layer)]) as cam:
        found = cam(x, [ClassifierOutputTarget(target)])[0]
    return np.asarray(show_cam_on_image(fitted.astype(np.float32) / 255, found, use_rgb=True))


def _by_captum(network: EfficientNetLite0, x: Tensor, target: int, fitted: Pixels) -> Pixels:
    cam = LayerGradCam(network, network.get_submodule(network.cam_layer)).attribute(x, target)
    fine = LayerAttribution.interpolate(cam, tuple(x.shape[2:]))[0].detach()
    figure, axes = captum_drawings.visualize_image_attr(
        np.repeat(fine.permute(1, 2, 0).numpy(), 3, 2),
        fitted,
        method="blended_heat_map",
        sign="positive",
        use_pyplot=False,
        fig_size=(4, 4),
    )
    axes.set_position((0, 0, 1, 1))
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


if __name__ == "__main__":
    main()
