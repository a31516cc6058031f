"""The training loop: from a data set and a recipe to a run.

A training that is resumed ends where an uninterrupted one would have ended (training.fit.trainer).
"""

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from service.workers.signals import stop_event
from training.data.images import Images
from training.data.read import Dataset
from training.fit import report, runs
from training.fit.batches import planes
from training.fit.fabric import make_fabric
from training.fit.recipes import Recipe
from training.fit.runs import Run
from training.fit.tracking import Track, Tracker, tracking
from training.fit.trainer import Trainer, prepare
from training.networks.weights import Weights

CHECKPOINT_SECONDS = 300  # a crash loses at most so much


class Stopped(Exception):
    """A signal stopped the training; its checkpoint is written."""


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
        _take_steps(trainer, tracker, dataset.validation)
        _load_last_weights(trainer, dataset.training)
        if fabric.is_global_zero:
            _report(trainer, dataset, tracker)
    # the other processes wait until the first has written the run that all of them load
    fabric.barrier()
    return runs.load(folder)


def _take_steps(trainer: Trainer, tracker: Tracker, validation: Images) -> None:
    """Takes the remaining steps, and tracks each."""
    # shows mistakes of augmentation before hours of training
    tracker.images("batch/augmented", trainer.batches.step(trainer.step)[0][:16], trainer.step)
    for loss in _progress(trainer, tracker, validation):
        tracker.scalar("loss/train", loss, trainer.step)
        tracker.scalar("rate", trainer.scheduled[0].optimizer.param_groups[0]["lr"], trainer.step)


def _load_last_weights(trainer: Trainer, training: Images) -> None:
    """Gives the network the weights that the run keeps."""
    started = time.monotonic()
    load_averaged_weights(trainer, training)
    _load_best_weights(trainer)
    trainer.seconds += time.monotonic() - started


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


def _load_best_weights(trainer: Trainer) -> None:
    """Gives the network the weights that are judged, or the best of them."""
    if trainer.best is None and not trainer.recipe.average:
        return
    kept = trainer.judged if trainer.best is None else trainer.best.network
    trainer.network.module.load_state_dict(kept.state_dict())
    trainer.averaged.module.load_state_dict(kept.state_dict())


def _progress(trainer: Trainer, tracker: Tracker, validation: Images) -> Iterator[float]:
    """Takes the remaining steps, with a progress bar, and yields each loss."""
    saved = time.monotonic()
    bar = tqdm(
        total=trainer.steps,
        initial=trainer.step,
        desc=trainer.recipe.network,
        unit="step",
        disable=not trainer.fabric.is_global_zero,
        mininterval=1,
    )
    while trainer.step < trainer.steps and not trainer.stopped_early:
        yield trainer.train_step()
        bar.update()
        if trainer.step % trainer.batches.steps_per_epoch == 0:
            _end_epoch(trainer, tracker, validation, bar)
        if trainer.stopping.is_set() or time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            _checkpoint(trainer)
        if trainer.stopping.is_set():
            raise Stopped(
                f"stopped after step {trainer.step} of {trainer.steps}; "
                "--resume continues from there"
            )
    bar.close()


def _end_epoch(trainer: Trainer, tracker: Tracker, validation: Images, bar: "tqdm[Any]") -> None:
    """Validates in the first process; all learn how long the best weights have been waiting."""
    if trainer.fabric.is_global_zero:
        epoch = trainer.step // trainer.batches.steps_per_epoch
        epochs = trainer.recipe.epochs + trainer.recipe.finetune_epochs
        accuracy = _validate(trainer, tracker, validation)
        # stdout is for the report
        bar.write(f"epoch {epoch}/{epochs}: validation accuracy {accuracy:.4f}", file=sys.stderr)
    if trainer.best is not None:
        trainer.best.waited.fill_(trainer.fabric.broadcast(int(trainer.best.waited)))


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
