"""The optimisers of a recipe over the parameters of a network, and the course of their rates."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from training.fit.muon import Muon
from training.fit.recipes import Recipe
from training.networks.ours import CandorNet, Network

FINETUNE_RATE = 0.1
DEPTHS = 12  # groups of layers with a rate of their own


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


def freeze(network: nn.Module, recipe: Recipe) -> None:
    """Excludes the first layers from learning, as many as the recipe says."""
    parameters = list(network.parameters())
    for parameter in parameters[: int(len(parameters) * recipe.frozen)]:
        parameter.requires_grad_(False)


def learn(network: nn.Module, recipe: Recipe) -> None:
    """Puts `network` into training mode, but for batch norms that keep their statistics."""
    network.train()
    if recipe.fixed_norms:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - of any rank
                module.eval()


def optimizers(network: Network, recipe: Recipe) -> list[Scheduled]:
    """The optimisers of `recipe` over the parameters of `network` that learn."""
    if recipe.optimizer == "adam":
        scheduled = [_scheduled(torch.optim.Adam(network.parameters(), lr=1e-3), lambda _done: 1.0)]
    elif recipe.optimizer in ("adamw", "sgd"):
        scheduled = [_by_depth(network, recipe)]
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


def _by_depth(network: Network, recipe: Recipe) -> Scheduled:
    """AdamW or SGD on the mean loss, with rates that grow with the depth of the layer."""
    groups = [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in _groups(network, recipe).items()
    ]
    optimizer = (
        torch.optim.AdamW(groups)
        if recipe.optimizer == "adamw"
        else torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    )
    return _scheduled(optimizer, lambda done: _warm_cosine(done, recipe.warmup))


def _groups(network: Network, recipe: Recipe) -> dict[tuple[float, float], list[nn.Parameter]]:
    """The parameters that learn, by learning rate and weight decay."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    head = {id(parameter) for parameter in network.head.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for number, parameter in enumerate(learning):
        # modules are listed in the order in which they run, as good as always
        depth = number * DEPTHS // len(learning) / DEPTHS if id(parameter) not in head else 1.0
        rate = recipe.peak_rate * recipe.first_rate ** (1 - depth)
        # biases, and scales of norms, have no direction that a decay could keep short
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return groups


def _warm_cosine(done: float, warmup: float) -> float:
    """A line from 0 to 1 within the share `warmup`, then half a cosine down to 0."""
    if done < warmup:
        return done / warmup
    return (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup)))) / 2


def _falling(done: float) -> float:
    """A line from 1 to 0; FINETUNE_RATE afterwards."""
    return 1 - done if done < 1 else FINETUNE_RATE


def _scheduled(optimizer: torch.optim.Optimizer, factor: Callable[[float], float]) -> Scheduled:
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return Scheduled(optimizer, factor)
