"""The two networks: x float32 (N, 3, 32, 32), normalised → logits float32 (N, K).

`seed_cnn` is the plain reference. `candor_net` is a small modern network after airbench94
(K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498): a fixed whitening
layer, three groups of convolutions, and batch norms without scale.

Its pools average where those of airbench take the maximum. So the network is smooth, its class
activation map adds up to the logit, and a convolution and its pool fold into one convolution
(`training.networks.folding`, docs/decisions/0003).
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["gelu", "relu"]
ACTIVATIONS: Mapping[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
# The head of candor_net starts with weights that much smaller than torch's default, so that
# training starts from even odds.
SMALL = 1 / 256


class Network(nn.Module):
    """A classifier that names its layers: `head` turns features (N, D) into logits (N, K).

    A class activation map weighs the activation of the module `cam_layer`. The activation of
    `texture_layer`, an early module, varies with the texture of an image; familiarity reads it.
    """

    cam_layer: str
    texture_layer: str
    head: nn.Module

    def features(self, x: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows features"]:
        """The penultimate activations."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows classes"]:
        """The logits."""
        logits: Tensor = self.head(self.features(x))
        return logits

    def prepare(self, x: Float32[Tensor, "rows 3 height width"]) -> None:
        """Adapts the network to a sample of normalised training images, before training.

        Does nothing unless a network overrides it.
        """

    def own_name(self, published: str) -> str:
        """The name here of a tensor that published weights call `published`: the same, mostly."""
        return published


class SeedCnn(Network):
    """Two 3×3 convolutions (16 and 32 channels) with ReLU and 2×2 max pools, a linear layer."""

    cam_layer = "body.4"
    texture_layer = "body.0"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.head = nn.Linear(32 * 8 * 8, classes)

    def features(self, x: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows features"]:
        """The flattened second pool, (N, 2048)."""
        return torch.flatten(self.body(x), 1)


class _Convolution(nn.Conv2d):
    """A 3×3 convolution without bias that keeps the size of the image."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)
        # Starts as the identity on the first input channels (Dirac): depth costs nothing at first.
        nn.init.dirac_(self.weight.data[:channels_in])


class _BatchNorm(nn.BatchNorm2d):
    """A batch norm that learns a bias and no scale, which the next weights can take over."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels, eps=1e-12, momentum=momentum)
        self.weight.requires_grad_(False)


class _Group(nn.Module):
    """A convolution with a 2×2 average pool, then `depth` − 1 convolutions: halves the image.

    A batch norm and an activation follow each convolution.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        depth: int,
        activation: Activation,
        momentum: float,
    ) -> None:
        super().__init__()
        inputs = (channels_in, *[channels_out] * (depth - 1))
        self.convolutions = nn.ModuleList(
            [_Convolution(channels, channels_out) for channels in inputs]
        )
        self.norms = nn.ModuleList([_BatchNorm(channels_out, momentum) for _ in range(depth)])
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(x)
        for number, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            x = self.activation(norm(convolution(x) if number else x))
        return x

    def halve(self, x: Tensor) -> Tensor:
        """The first convolution and its pool."""
        first = self.convolutions[0]
        assert isinstance(first, _Convolution)
        if self.training:
            # One convolution with stride: 16 products instead of 36, where most of the time goes.
            filters = functional.avg_pool2d(first.weight, 2, stride=1, padding=1)
            return functional.conv2d(x, filters, stride=2, padding=1)
        return functional.avg_pool2d(first(x), 2)


class CandorNet(Network):
    """A whitening 2×2 convolution, three groups, the mean of each channel, a linear head.

    The groups have `widths` channels and `depths` convolutions. An image of 32 pixels becomes
    33 → 16 → 8 → 4; cell k of the last is centred on pixel 8k + 3.
    """

    cam_layer = "groups.2"
    texture_layer = "groups.0.norms.0"

    def __init__(
        self,
        classes: int,
        widths: tuple[int, int, int] = (64, 256, 256),
        depths: tuple[int, int, int] = (2, 2, 3),
        activation: Activation = "gelu",
        norm_momentum: float = 0.12,
    ) -> None:
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2, padding=1)
        self.whitening.weight.requires_grad_(False)
        self.activation = ACTIVATIONS[activation]()
        self.groups = nn.Sequential(
            *(
                _Group(channels_in, channels_out, depth, activation, norm_momentum)
                for (channels_in, channels_out), depth in zip(
                    pairwise((24, *widths)), depths, strict=True
                )
            )
        )
        self.head = nn.Linear(widths[-1], classes, bias=False)
        largest = SMALL * widths[-1] ** -0.5
        nn.init.uniform_(self.head.weight, -largest, largest)

    def features(self, x: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows features"]:
        """The channel means of the last group."""
        last: Tensor = self.groups(self.activation(self.whitening(x)))
        return last.mean((2, 3))

    def prepare(self, x: Float32[Tensor, "rows 3 height width"]) -> None:
        """Sets the fixed filters to the eigenvectors of the 2×2 patches of `x`.

        Each is scaled to unit variance, and followed by all their negatives.
        """
        patches = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        # The offset keeps a direction in which patches hardly vary from being blown up.
        filters = (vectors / torch.sqrt(variances + 5e-4)).T.flip(0).reshape(12, 3, 2, 2)
        with torch.no_grad():
            self.whitening.weight.copy_(torch.cat([filters, -filters]))
            nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]
