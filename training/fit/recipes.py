"""Recipes: the hyper-parameters of a training, saved as JSON beside the weights; and optimisers."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from service.image.resize import Input
from training.data.split import SHARE, HeldOut
from training.fit.muon import Muon
from training.networks.ours import CandorNet, Network, build

Optimizer = Literal["adam", "muon"]
SIZE = 32
FINETUNE_RATE, FINETUNE_TRANSLATE = 0.1, 2
FORMER_NAMES = {
    "hide": "holes",
    "rate": "learning_rate_scale",
    "settle": "finetune_epochs",
    "spoil": "augmix",
}


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a training.

    A step sees `batch` images, in ghost batches of `ghost_batch`, and sums the gradients of these.
    `held_out`, a number of training images or a share of each class, are for validation.

    Augmentation: shifts by up to `translate` pixels. `flip` mirrors every image in every other
    epoch. `holes` is the share of images with holes (`training.data.augment.cut_holes`), `augmix`
    the share that is corrupted (`training.data.augment.corrupt`). With `adversarial`, a radius in
    levels of 255, every image is attacked before the network learns from it.

    Learning rates fall to 0 within `epochs`, except those of Adam, and are multiplied by
    `learning_rate_scale`. Then follow `finetune_epochs` at a tenth of the first rates, on images
    without holes that are shifted by FINETUNE_TRANSLATE at most. The final weights are the mean of
    the weights after each of these steps (Izmailov et al., "Averaging Weights Leads to Wider
    Optima", arXiv 1803.05407).

    `start` is the SHA-256 of the weights that the training begins with, empty for random ones.
    `precision` is one of Lightning Fabric's, or `auto`: bfloat16 autocast where the processor
    computes in it.
    """

    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Optimizer = "muon"
    epochs: int = 10
    batch: int = 2000
    ghost_batch: int = 500
    label_smoothing: float = 0.0
    translate: int = 0
    flip: bool = False
    holes: float = 0.0
    finetune_epochs: int = 0
    augmix: float = 0.0
    adversarial: float = 0.0
    start: str = ""
    learning_rate_scale: float = 1.0
    held_out: HeldOut = SHARE
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.batch % self.ghost_batch:
            raise ValueError(
                f"batch is {self.batch}, no multiple of ghost_batch {self.ghost_batch}: "
                "change one of them"
            )

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Recipe":
        """The recipe of a JSON object that `document` made, in this release or an earlier one."""
        values = current_names(document)
        # JSON has no tuples, and networks take their widths as one
        values["options"] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["options"].items()
        }
        return cls(**values)

    def document(self) -> dict[str, Any]:
        """This recipe as JSON values."""
        return asdict(self)

    def input(
        self, mean: tuple[float, ...] = (0.5, 0.5, 0.5), std: tuple[float, ...] = (0.25, 0.25, 0.25)
    ) -> Input:
        """The input of the networks of this project: 32 × 32 pixels, the middle of the image."""
        return Input(SIZE, mean, std)

    def network_for(self, classes: int) -> Network:
        """The untrained network, its weights drawn from `seed`."""
        torch.manual_seed(self.seed)
        return build(self.network, classes, self.options)


def current_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON values, its fields under the names of this release."""
    return {FORMER_NAMES.get(name, name): value for name, value in document.items()}


RECIPES: Mapping[str, Recipe] = {
    "candor_net": Recipe(
        "candor_net",
        epochs=27,
        label_smoothing=0.2,
        translate=4,
        flip=True,
        holes=0.5,
        finetune_epochs=4,
    ),
    "seed_cnn": Recipe("seed_cnn", optimizer="adam", epochs=10, batch=64, ghost_batch=64),
}


@dataclass(frozen=True)
class Scheduled:
    """An optimiser; `factor(share of the epochs done)` multiplies its learning rates.

    The share is 1 or more during the fine-tuning epochs.
    """

    optimizer: torch.optim.Optimizer
    factor: Callable[[float], float]

    def set_rates(self, done: float) -> None:
        """Sets the learning rates of a step that begins when `done`, a share, is trained."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(done)


def optimizers(network: nn.Module, recipe: Recipe) -> list[Scheduled]:
    """The optimisers of `recipe` over the parameters of `network` that learn."""
    if recipe.optimizer == "adam":
        scheduled = [_scheduled(torch.optim.Adam(network.parameters(), lr=1e-3), lambda _done: 1.0)]
    else:
        assert isinstance(network, CandorNet)
        scheduled = _muon(network, recipe)
    for group in (group for each in scheduled for group in each.optimizer.param_groups):
        group["initial_lr"] *= recipe.learning_rate_scale
    return scheduled


def _muon(network: CandorNet, recipe: Recipe) -> list[Scheduled]:
    """Muon for filters, SGD on the summed loss for the other parameters.

    After the Muon variant of airbench94 (Jordan, arXiv 2404.00498), with rates for batches of
    2,000 images.
    """
    filters = [p for name, p in network.named_parameters() if "convolution" in name]
    biases = [
        p for name, p in network.named_parameters() if name.endswith("bias") and "norm" in name
    ]
    # torch multiplies the decay by the learning rate, so it is divided by it
    decay = 2e-6 * recipe.batch
    sgd = [
        {"params": ps, "lr": lr, "weight_decay": decay / lr}
        for ps, lr in ((biases, 0.053), ([network.head.weight], 2.5e-4))
    ]
    whitening = [{"params": [network.whitening.bias], "lr": 0.053, "weight_decay": decay / 0.053}]
    return [
        _scheduled(Muon(filters, lr=0.24, momentum=0.6), _falling),
        _scheduled(torch.optim.SGD(sgd, momentum=0.85, nesterov=True), _falling),
        # the whitening layer's bias learns in the first third of the epochs alone
        _scheduled(
            torch.optim.SGD(whitening, momentum=0.85, nesterov=True),
            lambda done: max(0.0, 1 - 3 * done),
        ),
    ]


def _falling(done: float) -> float:
    """A line from 1 to 0; FINETUNE_RATE afterwards."""
    return 1 - done if done < 1 else FINETUNE_RATE


def _scheduled(optimizer: torch.optim.Optimizer, factor: Callable[[float], float]) -> Scheduled:
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return Scheduled(optimizer, factor)
