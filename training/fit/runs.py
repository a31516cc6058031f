"""Runs: the folder that a training writes, and all that an export needs of it.

    recipe.json             the Recipe, the classes, the data's name and fingerprint, mean and std
                            of the training pixels
    weights.safetensors     the trained network
    checkpoint.safetensors  network, optimisers and the number of steps done, during the training
    report.json, report.txt figures of the held-out images (`training.fit.report`)
    skipped.txt             the files of the data that are no images of it, a line each
    events.out.*            TensorBoard

No file is a pickle: tensors are safetensors, everything else is JSON or text.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.image.resize import Input
from training.figures.guessing import guessing
from training.fit.optimizers import Scheduled
from training.fit.recipes import Recipe
from training.networks.ours import Network

RECIPE, WEIGHTS, CHECKPOINT = "recipe.json", "weights.safetensors", "checkpoint.safetensors"
REPORT_JSON, REPORT_TEXT = "report.json", "report.txt"
SKIPPED = "skipped.txt"


class RunError(Exception):
    """A folder holds no finished run, or a checkpoint of another recipe."""


@dataclass(frozen=True)
class Subject:
    """The data of a training.

    `source` as given on the command line, its name, fingerprint and classes, and the `mean` and
    `std` of the training pixels in 0…1.
    """

    source: str
    name: str
    fingerprint: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """A finished training; the network is in evaluation mode."""

    recipe: Recipe
    subject: Subject
    network: Network
    report: Mapping[str, Any]

    @property
    def guessing(self) -> str | None:
        """A sentence if the network is no better than guessing on the test images."""
        return guessing(self.report["test"])

    @property
    def input(self) -> Input:
        """The input of the network: size and normalisation."""
        return self.recipe.input(self.subject.mean, self.subject.std)


def digest(folder: Path) -> str:
    """The SHA-256 of weights.safetensors."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def save_recipe(folder: Path, recipe: Recipe, subject: Subject) -> None:
    """Writes recipe.json."""
    (folder / RECIPE).write_text(
        json.dumps({"recipe": recipe.document(), "subject": asdict(subject)}, indent=2) + "\n"
    )


def load(folder: Path) -> Run:
    """The finished run in `folder`.

    Raises:
        RunError: `folder` holds no finished run.
    """
    missing = [name for name in (RECIPE, WEIGHTS, REPORT_JSON) if not (folder / name).exists()]
    if missing:
        raise RunError(
            f"{folder} holds no finished run ({', '.join(missing)} missing): "
            "let `python -m training fit` finish first"
        )
    recipe, subject = load_recipe(folder)
    network = recipe.network_for(len(subject.classes))
    network.load_state_dict(load_file(folder / WEIGHTS))
    return Run(recipe, subject, network.eval(), json.loads((folder / REPORT_JSON).read_text()))


def load_recipe(folder: Path) -> tuple[Recipe, Subject]:
    """Reads recipe.json, of this release or an earlier one."""
    document = json.loads((folder / RECIPE).read_text())
    subject = document["subject"]
    sequences = {key: tuple(subject[key]) for key in ("classes", "mean", "std")}
    return Recipe.parse(document["recipe"]), Subject(**subject | sequences)


def save_weights(folder: Path, network: torch.nn.Module) -> None:
    """Writes weights.safetensors."""
    _save(folder / WEIGHTS, dict(network.state_dict()), {})


def save_report(folder: Path, report: Mapping[str, Any], text: str) -> None:
    """Writes report.json and report.txt."""
    (folder / REPORT_TEXT).write_text(text, encoding="utf-8")
    (folder / REPORT_JSON).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def save_checkpoint(
    folder: Path,
    state: Mapping[str, torch.nn.Module],
    optimizers: Sequence[Scheduled],
    step: int,
    seconds: float,
) -> None:
    """Writes checkpoint.safetensors, whole or not at all.

    `state` are modules by name; `step` steps are done, in `seconds`.
    """
    tensors = {
        f"{part}/{name}": tensor
        for part, module in state.items()
        for name, tensor in module.state_dict().items()
    }
    for number, scheduled in enumerate(optimizers):
        for parameter, entries in scheduled.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{number}/{parameter}/{name}": torch.as_tensor(value)
                for name, value in entries.items()
            }
    recipe = json.dumps(json.loads((folder / RECIPE).read_text()), sort_keys=True)
    metadata = {"step": str(step), "seconds": str(seconds), "recipe": recipe}
    _save(folder / CHECKPOINT, tensors, metadata)


def load_checkpoint(
    folder: Path, state: Mapping[str, torch.nn.Module], optimizers: Sequence[Scheduled]
) -> tuple[int, float]:
    """Restores the modules of `state` and the `optimizers` from checkpoint.safetensors.

    Returns:
        The steps done, and their seconds.

    Raises:
        RunError: `folder` has no checkpoint, or one of another recipe.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise RunError(f"{folder} has no checkpoint to resume from: start without --resume")
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    if _recipe_of(metadata["recipe"]) != _recipe_of((folder / RECIPE).read_text()):
        raise RunError(
            f"{path} is of another recipe than {folder / RECIPE}: start anew in another folder"
        )
    tensors = load_file(path)
    for part, module in state.items():
        module.load_state_dict(_part(tensors, f"{part}/"))
    for number, scheduled in enumerate(optimizers):
        _load_optimizer(scheduled.optimizer, _part(tensors, f"optimizer/{number}/"))
    return int(metadata["step"]), float(metadata["seconds"])


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, entry = name.split("/")
        state.setdefault(int(parameter), {})[entry] = tensor
    # learning rates follow from the step, so the groups of the new optimiser are right
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _recipe_of(text: str) -> Mapping[str, Any]:
    """The content of a recipe.json, with the names and the fields of this release."""
    document = json.loads(text)
    return {**document, "recipe": Recipe.parse(document["recipe"])}


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    # renamed when complete: a crash in the middle leaves the former file
    scratch = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch, metadata)
    scratch.replace(path)
