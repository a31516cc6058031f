"""The gradient of the first training step, computed alone or by torchrun on several processes.

Usage: gradient_of_a_step.py DATA OUT RECIPE, which is a name in `support.recipes`.
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from support import recipes
from training.data import read
from training.fit.fabric import make_fabric
from training.fit.trainer import prepare

if __name__ == "__main__":
    source, out, name = sys.argv[1:]
    recipe = getattr(recipes, name)
    dataset = read.read(source, recipe.input(), recipe.held_out, recipe.seed)
    trainer = prepare(
        make_fabric(recipe, "cpu"), dataset, source, recipe, Path(out).with_suffix(".run")
    )
    trainer.backward(*trainer.batches.step(0))
    if trainer.fabric.is_global_zero:
        gradients = {
            name: p.grad.contiguous()
            for name, p in trainer.network.module.named_parameters()
            if p.grad is not None
        }
        save_file(gradients, out)
    trainer.fabric.barrier()
