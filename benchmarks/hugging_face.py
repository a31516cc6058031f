"""Image classifiers of Hugging Face's transformers, with small configurations and random weights.

Each takes float32 images (N, 3, S, S) and gives logits (N, K). Nothing is downloaded.
"""

import importlib
from typing import Any, NamedTuple

import click
import torch
from torch import nn

from training.data.images import drawn_images

PREFIX = "hf/"
STATISTICS = 32  # images of which the norms take their statistics
ASKED = "transformers is not installed, of which the rows hf/… are: pip install transformers"


class Family(NamedTuple):
    """The classes of a family, `size` in pixels, and what its configuration says."""

    config: str
    network: str
    size: int
    options: dict[str, Any]


_TRANSFORMER = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "image_size": 64,
    "patch_size": 8,
}
FAMILIES = {
    "hf/vit": Family("ViTConfig", "ViTForImageClassification", 64, _TRANSFORMER),
    "hf/deit": Family("DeiTConfig", "DeiTForImageClassification", 64, _TRANSFORMER),
    "hf/deit_distilled": Family(
        "DeiTConfig", "DeiTForImageClassificationWithTeacher", 64, _TRANSFORMER
    ),
    # 24, 12 and 6 cells are no multiples of the window, so it pads and rolls.
    "hf/swin": Family(
        "SwinConfig",
        "SwinForImageClassification",
        96,
        {
            "image_size": 96,
            "embed_dim": 24,
            "depths": [2, 2, 2],
            "num_heads": [1, 2, 4],
            "window_size": 5,
        },
    ),
    "hf/mobilevit": Family(
        "MobileViTConfig",
        "MobileViTForImageClassification",
        64,
        {"image_size": 64, "hidden_sizes": [48, 64, 80]},
    ),
    # 5 and 3 cells are no multiple of the patch, so it resizes.
    "hf/mobilevit_resized": Family(
        "MobileViTConfig",
        "MobileViTForImageClassification",
        80,
        {"image_size": 80, "hidden_sizes": [48, 64, 80]},
    ),
    "hf/convnextv2": Family(
        "ConvNextV2Config",
        "ConvNextV2ForImageClassification",
        64,
        {"image_size": 64, "hidden_sizes": [24, 48, 96, 192], "depths": [2, 2, 4, 2]},
    ),
    "hf/clip": Family("CLIPVisionConfig", "CLIPVisionModel", 64, _TRANSFORMER),
}


class _Logits(nn.Module):
    """The logits of a network of transformers; with `head`, those of its pooled features."""

    def __init__(self, network: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float32 (N, 3, S, S) → (N, K)."""
        found = self.network(pixel_values=pixels)
        logits: torch.Tensor = found.logits if self.head is None else self.head(found.pooler_output)
        return logits


def network(name: str, classes: int) -> nn.Module:
    """The network of the row `name`, with random weights: seed torch first.

    Raises:
        ClickException: transformers is not installed.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise click.ClickException(ASKED) from None
    family = FAMILIES[name]
    config = getattr(transformers, family.config)(**family.options, num_labels=classes)
    built = getattr(transformers, family.network)(config)
    for module in built.modules():
        # Their own, of 0.02, lets the gradient of a network of convolutions vanish.
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    is_tower = name == "hf/clip"  # without a classifier of its own
    whole = _Logits(built, nn.Linear(config.hidden_size, classes) if is_tower else None)
    # With the statistics of drawn images, else norms let the gradient vanish, or logits overflow.
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        images = torch.from_numpy(drawn_images(STATISTICS, family.size)).movedim(-1, 1)
        whole.train()((images / 255 - 0.5) / 0.25)
    return whole
