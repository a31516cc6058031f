"""The training loop: from a data set and a recipe to a run.

A step sums the gradients of its ghost batches, each normalised by its own batch statistics.
Processes (torchrun) share the ghost batches of a step. The gradient of two processes therefore
equals that of one on the same batch, batch norm included. Everything that a step sees follows from
the seed and the number of the step: a resumed run ends where an uninterrupted one would have ended.

Loss, batch statistics and evaluation are float32. Where the processor multiplies bfloat16 in
hardware, convolutions and the head are autocast to it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import tqdm

from service.image.resize import pixels_of, scaled
from service.workers.signals import stop_event
from training.data.images import Images
from training.data.read import Dataset
from training.fit import report, runs
from training.fit.adversarial import attacked
from training.fit.batches import Batches, planes
from training.fit.head import fit_head
from training.fit.optimizers import Scheduled, freeze, learn, optimizers
from training.fit.recipes import Recipe
from training.fit.runs import Run, RunError, Subject
from training.fit.stopping import Best
from training.fit.tracking import Track, Tracker, tracking
from training.networks import weights
from training.networks.catalogue import Normalisation
from training.networks.ours import Network
from training.networks.weights import Weights

# of one pass in evaluation mode: they bound the memory of its activations
EVALUATION_ROWS, EVALUATION_PIXELS = 500, 2**21
MARGIN = 8 / 7  # by which the images that parts are cut out of are larger than the input
CHECKPOINT_SECONDS = 300  # a crash loses at most so much
# their patches are enough for the covariance of the whitening layer, 12 × 12
PREPARE_ROWS, PREPARE_PIXELS = 5000, 2**23


class Stopped(Exception):
    """A signal stopped the training; its checkpoint is written."""


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

    @property
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
        ghosts = list(
            enumerate(
                zip(
                    torch.split(pixels, self.recipe.ghost_batch),
                    torch.split(labels, self.recipe.ghost_batch),
                    strict=True,
                )
            )
        )
        own = ghosts[self.fabric.global_rank :: self.fabric.world_size]
        # torch averages gradients over processes, so each process scales its sum by their number
        scale = self.fabric.world_size / (len(labels) if self.recipe.optimizer != "muon" else 1)
        class_weights = self.class_weights if self.recipe.balance == "weights" else None
        total = 0.0
        for number, (part, truth) in own:
            # one exchange of gradients a step: the others would send what the last sends again
            last = number == own[-1][0]
            # dropout follows from seed, step and ghost batch, in whichever process
            torch.manual_seed((self.recipe.seed * 1_000_003 + self.step) * len(ghosts) + number)
            with (
                self.fabric.no_backward_sync(self.network, enabled=not last)
                if self.fabric.world_size > 1
                else nullcontext()
            ):
                target = truth.to(self.fabric.device)
                logits = self.network(self.network_input(part.to(self.fabric.device), target))
                loss = functional.cross_entropy(
                    logits.float(),
                    target,
                    weight=class_weights,
                    label_smoothing=self.recipe.label_smoothing,
                    reduction="sum",
                )
                self.fabric.backward(loss * scale)
            total += float(loss.detach())
        return total / sum(len(truth) for _, (_, truth) in own)

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


def train(
    dataset: Dataset,
    source: str,
    recipe: Recipe,
    folder: Path,
    *,
    start: Run | None = None,
    published: Weights | None = None,
    resume: bool = False,
    accelerator: str = "auto",
    track: Track | None = None,
) -> Run:
    """Trains on `dataset` by `recipe`, and writes a run to `folder`.

    The training begins with the weights of `start`, with those `published`, or with random ones.
    The head is fitted on the features that published weights give. `resume` continues from the
    checkpoint in `folder`.

    Raises:
        WeightsError: `published` are the weights of another network.
        RunError: `resume` without a checkpoint, or with one of another recipe.
        Stopped: SIGTERM or SIGINT came; a checkpoint is in `folder`.
        TrackingError: `track` cannot start.
    """
    fabric = make_fabric(recipe, accelerator)
    head_first = published is not None and start is None and not resume
    trainer = prepare(
        fabric, dataset, source, recipe, folder, published=published, head_first=head_first
    )
    if start is not None:
        trainer.network.module.load_state_dict(start.network.state_dict())
    if resume:
        trainer.step, trainer.seconds = runs.load_checkpoint(
            folder, trainer.state, trainer.scheduled
        )
    tracker_of_rank = (
        tracking(folder, recipe.document(), track)
        if fabric.is_global_zero
        else nullcontext(Tracker())
    )
    with tracker_of_rank as tracker, stop_event() as trainer.stopping:
        # shows mistakes of augmentation before hours of training
        tracker.images("batch/augmented", trainer.batches.step(trainer.step)[0][:16], trainer.step)
        for loss in _progress(trainer, tracker, dataset.validation):
            tracker.scalar("loss/train", loss, trainer.step)
            tracker.scalar(
                "rate", trainer.scheduled[0].optimizer.param_groups[0]["lr"], trainer.step
            )
        started = time.monotonic()
        load_averaged_weights(trainer, dataset.training)
        _load_best_weights(trainer)
        trainer.seconds += time.monotonic() - started
        if fabric.is_global_zero:
            _report(trainer, dataset, tracker)
    # the other processes wait until the first has written the run that all of them load
    fabric.barrier()
    return runs.load(folder)


def load_averaged_weights(trainer: Trainer, training: Images) -> None:
    """Gives the network the mean of its fine-tuning weights, and batch norms new statistics.

    The statistics are those of all training images, not augmented. Without fine-tuning epochs the
    network stays as it is.
    """
    if not trainer.recipe.finetune_epochs:
        return
    # in random order, for a source may list its images class by class
    order = torch.randperm(
        len(training), generator=torch.Generator().manual_seed(trainer.recipe.seed)
    )
    network = trainer.network.module
    network.load_state_dict(trainer.averaged.module.state_dict())
    # The statistics gathered during the training are of the last few thousand images, and of
    # weights that still changed: with them the mean weights are worth little (docs/training.md).
    parts = torch.split(order, trainer.recipe.ghost_batch)
    update_bn(
        (
            trainer.normalise(planes(training.rows(rows.numpy())).to(trainer.fabric.device))
            for rows in parts
        ),
        network,
    )


def make_fabric(recipe: Recipe, accelerator: str) -> Fabric:
    """Chooses device, precision and distribution: one process, or as many as torchrun started."""
    devices: Any = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        precision=_precision(recipe),
    )
    fabric.launch()
    return fabric


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
    network = recipe.network_for(len(dataset.classes))
    if published is not None:
        weights.load(network, published)
    # before it is copied: means of weights are computed where the weights are
    network = network.to(device=fabric.device).to(memory_format=torch.channels_last)
    freeze(network, recipe)
    whole = _whole(dataset.training, recipe) if recipe.crop else None
    batches = Batches.of(whole or dataset.training, recipe)
    scheduled = optimizers(network, recipe)
    averaged = _averaged(network, recipe, batches.steps_per_epoch)
    best = Best(network) if recipe.patience else None
    trainer = Trainer(fabric, recipe, subject, network, scheduled, batches, folder, averaged, best)
    if head_first and fabric.is_global_zero:  # the other processes get its weights below
        _fit_head(trainer, network, dataset)
    rows = min(PREPARE_ROWS, PREPARE_PIXELS // pixels_of(recipe.size), len(dataset.training))
    first = np.arange(rows)
    network.prepare(trainer.normalise(planes(dataset.training.rows(first))).contiguous())
    learn(network, recipe)
    trainer.network, *wrapped = fabric.setup(
        network, *(scheduled.optimizer for scheduled in trainer.scheduled)
    )
    del wrapped  # optimisers step without Fabric: bfloat16 needs no gradient scaler
    return trainer


def _whole(images: Images, recipe: Recipe) -> Images:
    """The whole images, a MARGIN larger than their parts that are shown."""
    return images.stretched(scaled(recipe.size, lambda side: round(side * MARGIN)))


def check_parts(recipe: Recipe, processes: int) -> None:
    """Checks that every process has a part of each step.

    Raises:
        RunError: there are more processes than parts.
    """
    parts = recipe.batch // recipe.ghost_batch
    if parts < processes:
        raise RunError(
            f"a step of {recipe.batch} images has {parts} parts, and there are {processes} "
            "processes: start fewer"
        )


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


def _load_best_weights(trainer: Trainer) -> None:
    """Gives the network the weights that are judged, or the best of them."""
    if trainer.best is None and not trainer.recipe.average:
        return
    kept = trainer.judged if trainer.best is None else trainer.best.network
    trainer.network.module.load_state_dict(kept.state_dict())
    trainer.averaged.module.load_state_dict(kept.state_dict())


def _precision(recipe: Recipe) -> Any:
    if recipe.precision != "auto":
        return recipe.precision
    # emulated, bfloat16 is 50 times slower than float32 (docs/training.md)
    fast = (
        torch.cuda.is_available()
        or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch has no public name for it
        or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - the same
    )
    return "bf16-mixed" if fast else "32-true"


def _progress(trainer: Trainer, tracker: Tracker, validation: Images) -> Iterator[float]:
    """Takes the remaining steps, with a progress bar, and yields each loss."""
    saved = time.monotonic()
    first_process = trainer.fabric.is_global_zero
    epochs = trainer.recipe.epochs + trainer.recipe.finetune_epochs
    bar = tqdm(
        total=trainer.steps,
        initial=trainer.step,
        desc=trainer.recipe.network,
        unit="step",
        disable=not first_process,
        mininterval=1,
    )
    while trainer.step < trainer.steps and not trainer.stopped_early:
        yield trainer.train_step()
        bar.update()
        if trainer.step % trainer.batches.steps_per_epoch == 0:
            if first_process:
                epoch = trainer.step // trainer.batches.steps_per_epoch
                accuracy = _validate(trainer, tracker, validation)
                # stdout is for the report
                bar.write(
                    f"epoch {epoch}/{epochs}: validation accuracy {accuracy:.4f}", file=sys.stderr
                )
            if trainer.best is not None:
                trainer.best.waited.fill_(trainer.fabric.broadcast(int(trainer.best.waited)))
        if trainer.stopping.is_set() or time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            _checkpoint(trainer)
        if trainer.stopping.is_set():
            raise Stopped(
                f"stopped after step {trainer.step} of {trainer.steps}; "
                "--resume continues from there"
            )
    bar.close()


def _validate(trainer: Trainer, tracker: Tracker, validation: Images) -> float:
    """The accuracy on the validation images; their loss decides on the best weights."""
    logits, labels = trainer.logits(validation), torch.from_numpy(validation.labels)
    accuracy = float((logits.argmax(1) == labels).float().mean())
    tracker.scalar("accuracy/validation", accuracy, trainer.step)
    if trainer.best is not None:
        loss = float(functional.cross_entropy(logits, labels))
        tracker.scalar("loss/validation", loss, trainer.step)
        trainer.best.consider(trainer.judged, loss)
    return accuracy


def _checkpoint(trainer: Trainer) -> None:
    if trainer.fabric.is_global_zero:
        runs.save_checkpoint(
            trainer.folder, trainer.state, trainer.scheduled, trainer.step, trainer.seconds
        )


def _report(trainer: Trainer, dataset: Dataset, tracker: Tracker) -> None:
    """Prints and saves the report on the held-out images, and saves the weights."""
    held_out = {
        name: report.Answers(trainer.logits(images), images.labels, images.names)
        for name, images in (("validation", dataset.validation), ("test", dataset.test))
    }
    result = report.report_of(held_out, trainer.subject.classes, trainer.recipe.seed)
    text = report.text_of(result)
    print(
        f"{len(dataset.test):,} test images, one view, after {trainer.step} steps "
        f"in {trainer.seconds / 60:.1f} minutes:\n{text}"
    )
    runs.save_weights(trainer.folder, trainer.network.module)
    runs.save_report(trainer.folder, {"minutes": trainer.seconds / 60, **result}, text)
    tracker.scalar("macro F1/test", result["test"]["macro_f1"], trainer.step)
    confusion = report.confusion_image(result)
    if confusion is not None:
        tracker.images("confusion/test (row: truth)", confusion, trainer.step)
