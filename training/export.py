"""From a trained network to a bundle: the graphs, their proof, the folder.

The network is exported once, as the *core*: x float32 (N, 3, S, S) normalised → logits float32 (N, K) and features float32
(N, D). The bundle's graphs are made from the core and share its weights bit for bit:

    predict.onnx    the core behind its normalisation, from uint8 pictures
    gradient.onnx   the core and its own reverse pass (training.autodiff)
    cam.onnx        the core and its reverse pass down to the layer of the class activation map

A bundle is written twice: first to a scratch folder, where the service's own engine runs it and the parity of every gradient
method is measured; then, if the parity holds, to its place, with the parity in its manifest.
"""

from dataclasses import dataclass

import onnx
from torch import Tensor, nn

OPSET = 20
IR_VERSION = 10  # the newest that every onnxruntime since 1.18 reads
PRODUCER = "candor"


@dataclass(frozen=True)
class Core:
    """A classifier as an ONNX graph from `x` to `logits`, and to `features` where it has them.

    `activation` names the tensor float32 (N, C, h, w) whose channels the class activation map weighs.
    """

    model: onnx.ModelProto
    activation: str | None
    features: int | None


class _Tapped(nn.Module):
    """The network with its penultimate features and the activation of its CAM layer as further outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.tapped: list[Tensor] = []
        network.get_submodule(str(network.cam_layer)).register_forward_hook(
            lambda _module, _inputs, output: self.tapped.append(output)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.tapped.clear()
        features = self.network.features(x)
        return self.network.head(features), features, self.tapped.pop()
