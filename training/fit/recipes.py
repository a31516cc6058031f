"""How a network is trained: one frozen `Recipe`, saved as JSON beside the weights, and the optimisers that it asks for."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from service.image.resize import Input
from training.fit.muon import Muon
from training.networks.ours import CandorNet, Network, build

Optimizer = Literal["adam", "muon"]
SIZE = 32
SETTLED_RATE, SETTLED_TRANSLATE = 0.1, 2


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters. A step sees `batch` images, in ghost batches of `ghost_batch` whose gradients are summed.

    `translate` is the largest shift in pixels; `flip` mirrors every image in every other epoch; `hide` is the share of images of which
    up to half of the 8 × 8 blocks are replaced by the mean colour. After `epochs`, whose rates fall to nothing, come `settle` more at a
    tenth of the first rates, of whole images shifted by SETTLED_TRANSLATE at most; the weights in the end are the mean of those
    (Izmailov et al., "Averaging Weights Leads to Wider Optima", arXiv 1803.05407). `held_out` training images are for validation.
    `spoil` is the share of images that are mixed with spoilt ones (training.batches.spoil). With `adversarial`, a radius in levels of 255,
    every image is attacked before the network learns from it (training.adversary). `start` is the SHA-256 of the weights
    that training begins with, empty for freshly drawn ones; all rates are multiplied by `rate`.
    `precision` is one of Lightning Fabric's, or `auto`: bfloat16 autocast where the processor computes in it.
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
    hide: float = 0.0
    settle: int = 0
    spoil: float = 0.0
    adversarial: float = 0.0
    start: str = ""
    rate: float = 1.0
    held_out: int = 5000
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.batch % self.ghost_batch:
            raise ValueError(
                f"batch is {self.batch}, no multiple of ghost_batch {self.ghost_batch}: change one of them"
            )

    def input(
        self, mean: tuple[float, ...] = (0.5, 0.5, 0.5), std: tuple[float, ...] = (0.25, 0.25, 0.25)
    ) -> Input:
        """What the networks of this project take: 32×32, the middle of the image."""
        return Input(SIZE, mean, std)

    def document(self) -> dict[str, Any]:
        """This recipe as JSON values."""
        return asdict(self)

    def network_for(self, classes: int) -> Network:
        """The untrained network, its weights drawn from `seed`."""
        torch.manual_seed(self.seed)
        return build(self.network, classes, self.options)


RECIPES: Mapping[str, Recipe] = {
    "candor_net": Recipe(
        "candor_net", epochs=27, label_smoothing=0.2, translate=4, flip=True, hide=0.5, settle=4
    ),
    "seed_cnn": Recipe("seed_cnn", optimizer="adam", epochs=10, batch=64, ghost_batch=64),
}


@dataclass(frozen=True)
class Scheduled:
    """An optimiser whose rates are multiplied by `factor(share of the epochs done)`, 1 and more while it settles."""

    optimizer: torch.optim.Optimizer
    factor: Callable[[float], float]

    def set_rates(self, done: float) -> None:
        """Sets the rates for the step that begins when so many of the recipe's epochs are `done`."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(done)


def optimizers(network: nn.Module, recipe: Recipe) -> list[Scheduled]:
    """The optimisers of `recipe` over the parameters of `network` that learn."""
    if recipe.optimizer == "adam":
        made = [_scheduled(torch.optim.Adam(network.parameters(), lr=1e-3), lambda _done: 1.0)]
    else:
        assert isinstance(network, CandorNet)
        made = _muon(network, recipe)
    for group in (group for scheduled in made for group in scheduled.optimizer.param_groups):
        group["initial_lr"] *= recipe.rate
    return made


def _muon(network: CandorNet, recipe: Recipe) -> list[Scheduled]:
    """Filters by Muon, the rest by SGD on the summed loss; after airbench94's Muon variant, rates for batches of 2,000."""
    filters = [p for name, p in network.named_parameters() if "convolution" in name]
    biases = [
        p for name, p in network.named_parameters() if name.endswith("bias") and "norm" in name
    ]
    decay = 2e-6 * recipe.batch
    sgd = [
        {"params": ps, "lr": lr, "weight_decay": decay / lr}
        for ps, lr in ((biases, 0.053), ([network.head.weight], 2.5e-4))
    ]
    whitening = [{"params": [network.whitening.bias], "lr": 0.053, "weight_decay": decay / 0.053}]
    return [
        _scheduled(Muon(filters, lr=0.24, momentum=0.6), _falling),
        _scheduled(torch.optim.SGD(sgd, momentum=0.85, nesterov=True), _falling),
        _scheduled(
            torch.optim.SGD(whitening, momentum=0.85, nesterov=True),
            lambda done: max(0.0, 1 - 3 * done),
        ),
    ]


def _falling(done: float) -> float:
    """From 1 to 0 in a line; afterwards, while the network settles, the same."""
    return 1 - done if done < 1 else SETTLED_RATE


def _scheduled(optimizer: torch.optim.Optimizer, factor: Callable[[float], float]) -> Scheduled:
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return Scheduled(optimizer, factor)
