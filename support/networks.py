"""Small networks that `--network module:function` names in tests."""

from torch import Tensor, nn


class Answers(nn.Sequential):
    """Layers in a row, the last of them linear."""

    def __init__(self, classes: int, *behind: nn.Module) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
            *(nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, classes)),
            *behind,
        )


class _TwoHeads(nn.Module):
    """Answers with two outputs while it learns."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = Answers(classes)
        self.second = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits: Tensor = self.body(x)
        return (logits, self.second(x.mean((2, 3)))) if self.training else logits


def small(classes: int) -> nn.Module:
    """A network of two convolutions."""
    return Answers(classes)


def with_softmax(classes: int) -> nn.Module:
    """A network that answers with probabilities."""
    return Answers(classes, nn.Softmax(1))


def two_heads(classes: int) -> nn.Module:
    """A network with an auxiliary head."""
    return _TwoHeads(classes)


def without_maps(_classes: int) -> nn.Module:
    """A network that flattens the image."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))


def no_network(_classes: int) -> str:
    """No network."""
    return "no network"
