"""The gradients of the first training step, computed alone or by torchrun on several processes.

Usage: gradient_of_a_step.py DATA OUT RECIPE…, names in `support.recipes`; the gradients by one are
written to OUT/RECIPE.safetensors.
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from support import recipes
from training.data import read
from training.fit.fabric import make_fabric
from training.fit.trainer import prepare


def write_gradients(source: str, out: Path, name: str) -> None:
    """Writes the gradients of the first step by the recipe `name` on the images of `source`."""
    recipe = getattr(recipes, name)
    dataset = read.read(source, recipe.input(), recipe.held_out, recipe.seed)
    fabric = make_fabric(recipe, "cpu")
    assert fabric.world_size == int(os.environ.get("WORLD_SIZE", "1"))
    trainer = prepare(fabric, dataset, source, recipe, out / f"{name}.run")
    trainer.backward(*trainer.batches.step(0))
    if trainer.fabric.is_global_zero:
        gradients = {
            name: p.grad.contiguous()
            for name, p in trainer.network.module.named_parameters()
            if p.grad is not None
        }
        save_file(gradients, out / f"{name}.safetensors")
    trainer.fabric.barrier()


if __name__ == "__main__":
    given_source, given_out, *given_names = sys.argv[1:]
    for given in given_names:
        write_gradients(given_source, Path(given_out), given)
