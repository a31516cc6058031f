"""Where a training runs: device, precision and processes, as Lightning's Fabric has them."""

import os
from typing import Any

import torch
from lightning_fabric import Fabric

from training.fit.recipes import Recipe
from training.fit.runs import RunError


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
