"""A training in progress: its steps, and the state that they change.

A step sums the gradients of its ghost batches, each normalised by its own batch statistics.
Processes (torchrun) share the ghost batches of a step. The gradient of two processes therefore
equals that of one on the same batch, batch norm included. Everything that a step sees follows from
the seed and the number of the step: a resumed run ends where an uninterrupted one would have ended.

Loss, batch statistics and evaluation are float32. Where the processor multiplies bfloat16 in
hardware, convolutions and the head are autocast to it.
"""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from service.image.resize import pixels_of, scaled
from training.data.images import Images
from training.data.read import Dataset
from training.fit import runs
from training.fit.adversarial import attacked
from training.fit.batches import Batches, planes
from training.fit.fabric import check_parts
from training.fit.head import fit_head
from training.fit.optimizers import Scheduled, freeze, learn, optimizers
from training.fit.recipes import Recipe
from training.fit.runs import Subject
from training.fit.stopping import Best
from training.networks import weights
from training.networks.catalogue import Normalisation
from training.networks.ours import Network
from training.networks.weights import Weights

# of one pass in evaluation mode: they bound the memory of its activations
EVALUATION_ROWS, EVALUATION_PIXELS = 500, 2**21
MARGIN = 8 / 7  # by which the images that parts are cut out of are larger than the input
# their patches are enough for the covariance of the whitening layer, 12 × 12
PREPARE_ROWS, PREPARE_PIXELS = 5000, 2**23


@dataclass
class Trainer:
    """A training in progress: `step` of `steps` steps are done, in `seconds`.

    `averaged` is the network with the mean of the weights after each fine-tuning step, or with
    their running mean; `best` the network with the least validation loss, if the recipe asks.
    """

    fabric: Fabric
    recipe: Recipe
    subject: Subject
    network: Any  # Fabric's wrapper around a Network
    scheduled: list[Scheduled]
    batches: Batches
    folder: Path
    averaged: AveragedModel
    best: Best | None = None
    step: int = 0
    seconds: float = 0.0
    stopping: Event = field(default_factory=Event)

    @property
    def steps(self) -> int:
        """All steps of the recipe."""
        return (self.recipe.epochs + self.recipe.finetune_epochs) * self.batches.steps_per_epoch

    @property
    def state(self) -> dict[str, nn.Module]:
        """The modules that a checkpoint keeps, by their names in it."""
        kept = {"network": self.network.module, "mean": self.averaged}
        return kept if self.best is None else kept | {"best": self.best}

    @property
    def judged(self) -> Network:
        """The network that is evaluated: with running means of the weights, if the recipe asks."""
        network: Any = self.averaged.module if self.recipe.average else self.network.module
        assert isinstance(network, Network)
        return network

    @property
    def stopped_early(self) -> bool:
        """True if the validation loss has not fallen for as long as the recipe waits."""
        return self.best is not None and int(self.best.waited) >= self.recipe.patience

    @cached_property
    def class_weights(self) -> Float32[Tensor, " classes"]:
        """The weights of the classes that make all of them equal, 1 on average over the images."""
        counts = torch.bincount(self.batches.labels, minlength=len(self.subject.classes))
        return (len(self.batches.labels) / len(counts) / counts).to(self.fabric.device)

    def train_step(self) -> float:
        """Takes one optimiser step; returns the mean loss of this process's share of the batch."""
        started = time.monotonic()
        for scheduled in self.scheduled:
            scheduled.set_rates(self.step / (self.recipe.epochs * self.batches.steps_per_epoch))
            scheduled.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(*self.batches.step(self.step))
        for scheduled in self.scheduled:
            scheduled.optimizer.step()
        finetuning = self.step >= self.recipe.epochs * self.batches.steps_per_epoch
        if self.recipe.average or finetuning:
            self.averaged.update_parameters(self.network.module)
        self.step += 1
        self.seconds += time.monotonic() - started
        return loss

    def backward(
        self, pixels: UInt8[Tensor, "rows 3 H W"], labels: Int64[Tensor, " rows"]
    ) -> float:
        """Accumulates the gradient of the loss over the batch of all processes.

        The loss is a sum for Muon, else a mean. Returns the mean loss of this process's share.
        """
        parts = [torch.split(tensor, self.recipe.ghost_batch) for tensor in (pixels, labels)]
        ghosts = list(zip(*parts, strict=True))
        own = range(self.fabric.global_rank, len(ghosts), self.fabric.world_size)
        # torch averages gradients over processes, so each process scales its sum by their number
        scale = self.fabric.world_size / (len(labels) if self.recipe.optimizer != "muon" else 1)
        total = 0.0
        for number in own:
            # dropout follows from seed, step and ghost batch, in whichever process
            torch.manual_seed((self.recipe.seed * 1_000_003 + self.step) * len(ghosts) + number)
            with self._exchange(last=number == own[-1]):
                loss = self.loss(*ghosts[number])
                self.fabric.backward(loss * scale)
            total += float(loss.detach())
        return total / sum(len(ghosts[number][1]) for number in own)

    def _exchange(self, *, last: bool) -> AbstractContextManager[None]:
        """Sums the gradients over the processes after the `last` ghost batch of this one."""
        if self.fabric.world_size == 1:
            return nullcontext()
        # one exchange a step: the others would send what the last sends again
        exchange: AbstractContextManager[None] = self.fabric.no_backward_sync(
            self.network, enabled=not last
        )
        return exchange

    def loss(
        self, pixels: UInt8[Tensor, "rows 3 H W"], labels: Int64[Tensor, " rows"]
    ) -> Float32[Tensor, ""]:
        """The loss of a ghost batch: the sum over its images."""
        target = labels.to(self.fabric.device)
        logits = self.network(self.network_input(pixels.to(self.fabric.device), target))
        return functional.cross_entropy(
            logits.float(),
            target,
            weight=self.class_weights if self.recipe.balance == "weights" else None,
            label_smoothing=self.recipe.label_smoothing,
            reduction="sum",
        )

    def network_input(
        self, pixels: UInt8[Tensor, "rows 3 H W"], labels: Int64[Tensor, " rows"]
    ) -> Float32[Tensor, "rows 3 H W"]:
        """The normalised images, attacked if the recipe is adversarial."""
        x = self.normalise(pixels)
        if not self.recipe.adversarial:
            return x
        radius = (
            self.recipe.adversarial
            / 255
            / torch.tensor(self.subject.std, device=x.device).view(1, 3, 1, 1)
        )
        # the noise follows from seed and step, and disturbs no other random draw
        with torch.random.fork_rng(devices=[]), self.fabric.autocast():
            torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
            return attacked(self.network.module, x, labels, radius)

    def normalise(self, pixels: UInt8[Tensor, "rows 3 H W"]) -> Float32[Tensor, "rows 3 H W"]:
        """(pixel / 255 − mean) / std of each channel."""
        mean, std = (
            torch.tensor(v, device=pixels.device).view(1, 3, 1, 1)
            for v in (self.subject.mean, self.subject.std)
        )
        # channels last: the layout in which a CPU convolves fastest
        return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def logits(self, images: Images) -> Float32[Tensor, "count classes"]:
        """The logits of `images` in evaluation mode, one view of each image."""
        rows = max(1, min(EVALUATION_ROWS, EVALUATION_PIXELS // pixels_of(self.recipe.size)))
        network = self.judged.eval()
        with torch.no_grad():
            parts = [
                network(self.normalise(planes(part).to(self.fabric.device))).float().cpu()
                for part in images.parts(rows)
            ]
        learn(network, self.recipe)
        return torch.cat(parts)


def prepare(
    fabric: Fabric,
    dataset: Dataset,
    source: str,
    recipe: Recipe,
    folder: Path,
    *,
    published: Weights | None = None,
    head_first: bool = False,
) -> Trainer:
    """A training at its step 0, which begins with `published`; recipe.json is written.

    With `head_first` the head is fitted on the features that these give.
    """
    check_parts(recipe, fabric.world_size)
    mean, std = _normalisation(dataset.training, recipe)
    subject = Subject(source, dataset.name, dataset.fingerprint, dataset.classes, mean, std)
    folder.mkdir(parents=True, exist_ok=True)
    if fabric.is_global_zero:
        runs.save_recipe(folder, recipe, subject)
    fabric.barrier()
    network = _network(recipe, len(dataset.classes), published, fabric.device)
    whole = _whole(dataset.training, recipe) if recipe.crop else None
    batches = Batches.of(whole or dataset.training, recipe)
    scheduled = optimizers(network, recipe)
    averaged = _averaged(network, recipe, batches.steps_per_epoch)
    best = Best(network) if recipe.patience else None
    trainer = Trainer(fabric, recipe, subject, network, scheduled, batches, folder, averaged, best)
    if head_first and fabric.is_global_zero:  # the other processes get its weights below
        _fit_head(trainer, network, dataset)
    network.prepare(trainer.normalise(_first_images(dataset.training, recipe)).contiguous())
    learn(network, recipe)
    trainer.network, *wrapped = fabric.setup(
        network, *(scheduled.optimizer for scheduled in trainer.scheduled)
    )
    del wrapped  # optimisers step without Fabric: bfloat16 needs no gradient scaler
    return trainer


def _network(
    recipe: Recipe, classes: int, published: Weights | None, device: torch.device
) -> Network:
    """The network with the weights that its training begins with, its frozen layers frozen."""
    network = recipe.network_for(classes)
    if published is not None:
        weights.load(network, published)
    # before it is copied: means of weights are computed where the weights are
    network = network.to(device=device).to(memory_format=torch.channels_last)
    freeze(network, recipe)
    return network


def _whole(images: Images, recipe: Recipe) -> Images:
    """The whole images, a MARGIN larger than their parts that are shown."""
    size = scaled(recipe.size, lambda side: round(side * MARGIN))
    return images.stretched(size, recipe.profiles)


def _first_images(training: Images, recipe: Recipe) -> UInt8[Tensor, "rows 3 H W"]:
    """The images that layers are prepared with."""
    rows = min(PREPARE_ROWS, PREPARE_PIXELS // pixels_of(recipe.size), len(training))
    return planes(training.rows(np.arange(rows)))


def _normalisation(training: Images, recipe: Recipe) -> Normalisation:
    """The normalisation that the recipe fixes, or that of the training images."""
    figures = recipe.normalisation or training.moments()
    # rounded as recipe.json shows them: the exported graph normalises with the same numbers
    return Normalisation(
        *(tuple(float(value) for value in np.round(figure, 6)) for figure in figures)
    )


def _averaged(network: Network, recipe: Recipe, steps_per_epoch: int) -> AveragedModel:
    """The mean of weights after a step: a running one, or that of all that it is given."""
    if not recipe.average:
        return AveragedModel(network)
    steps = max(1.0, recipe.average * recipe.epochs * steps_per_epoch)
    # batch statistics are averaged as well, so they need no second pass over the data
    average = get_ema_multi_avg_fn(1 - 1 / steps)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _fit_head(trainer: Trainer, network: Network, dataset: Dataset) -> None:
    started = time.monotonic()
    device = trainer.fabric.device
    network.eval()

    def describe(pixels: UInt8[Tensor, "rows 3 H W"]) -> Tensor:
        with trainer.fabric.autocast():
            return network.features(trainer.normalise(pixels.to(device)))

    assert isinstance(network.head, nn.Linear)
    class_weights = None if trainer.recipe.balance == "none" else trainer.class_weights.cpu()
    fitted = fit_head(network.head, describe, dataset.training, dataset.validation, class_weights)
    learn(network, trainer.recipe)
    trainer.seconds += time.monotonic() - started
    print(f"head alone: validation accuracy {fitted.accuracy:.4f}", file=sys.stderr)
