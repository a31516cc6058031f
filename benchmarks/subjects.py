"""Networks for benchmarks, each for torch and as a bundle.

Weights are random (seed 0): time does not depend on them.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from benchmarks.parity import CLASSES, OPSET, export, network_of
from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.image.resize import Input
from training.export import float16
from training.export.core import Core, graphs
from training.export.foreign import Names, read_core
from training.export.ours import export_core
from training.export.reference import copy_of
from training.fit.recipes import RECIPES

OURS, THEIRS = "candor_net", "resnet50"
SPECS = {
    OURS: Input(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    THEIRS: Input(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
LAYERS = {THEIRS: "layer4"}  # its activation is Grad-CAM's; our networks name theirs


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode, the name of Grad-CAM's `layer`, and the files of its bundle."""

    name: str
    network: torch.nn.Module
    layer: str
    spec: Input
    files: Mapping[str, bytes]

    def bundle(self, folder: Path, *, halves: bool = False) -> Bundle:
        """Writes its bundle into the new `folder`, with or without graphs in half precision."""
        classes = tuple(f"class {number}" for number in range(10 if self.name == OURS else CLASSES))
        files = (
            self.files
            if halves
            else {
                name: file
                for name, file in self.files.items()
                if name not in contract.HALVES.values()
            }
        )
        return contract.write(folder, Manifest(self.name, classes, self.spec), files)


def subject(name: str, *, halves: bool = False) -> Subject:
    """The network `name`, one of SPECS, exported and differentiated.

    `halves` adds graphs in half precision.
    """
    torch.manual_seed(0)
    spec = SPECS[name]
    if name == OURS:
        ours = RECIPES[OURS].network_for(10).eval()
        with torch.no_grad():
            # Its first logits are too small for half precision.
            ours.head.weight /= ours(torch.randn(64, 3, *spec.shape)).std()
        layer, core = str(ours.cam_layer), export_core(ours, spec.size)
        network: torch.nn.Module = copy_of(ours)
    else:
        network, layer = network_of(name), LAYERS[name]
        core = _read(network, spec.shape[0])
    files = graphs(core, spec)
    if halves:
        made = {
            graph: float16.halved(onnx.load_model_from_string(file))
            for graph, file in files.items()
        }
        files |= {
            contract.HALVES[graph]: model.SerializeToString() for graph, model in made.items()
        }
    return Subject(name, network, layer, spec, files)


def _read(network: torch.nn.Module, size: int) -> Core:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(network, path, size, OPSET)
        return read_core(path, size, CLASSES, Names())
