"""From a trained torch network to its core; `training.export.core` makes the graphs of a bundle.

The network is exported once. Pools and batch norms are folded into its convolutions
(`training.networks.folding`).
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from service.image.resize import Size, sides
from training.autodiff import prune
from training.export import layers
from training.export.core import ACTIVATION, IR_VERSION, Core, name_layers
from training.export.reference import copy_of
from training.networks.folding import fold
from training.networks.ours import Network
from training.reliability.familiarity import features_of

OPSET = 20


class _Tapped(nn.Module):
    """The network with two more outputs: features for familiarity, activation of the CAM layer."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self._outputs: dict[str, Tensor] = {}
        for name in (network.cam_layer, network.texture_layer):
            network.get_submodule(name).register_forward_hook(self._keeper(name))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        penultimate = self.network.features(x)
        features = features_of(penultimate, self._outputs[self.network.texture_layer])
        return self.network.head(penultimate), features, self._outputs[self.network.cam_layer]

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._outputs[name] = output

        return keep


def export_core(network: Network, size: Size) -> Core:
    """The core of `network`, in evaluation mode, for x float32 (N, 3, H, W) of `size`."""
    example = torch.zeros(2, 3, *sides(size))
    tapped = _Tapped(copy_of(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        program = torch.onnx.export(
            tapped,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits", "features", ACTIVATION],
            dynamic_shapes={"x": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    assert program is not None
    model = fold(program.model_proto)
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "candor", ""
    prune(model)
    name_layers(model, layers.with_earlier(model, ACTIVATION, layers.shapes_of(model)))
    return Core(model, tapped(example)[1].shape[1])
