"""The gradient of the first training step, computed alone or by torchrun on several processes.

Usage: gradient_of_a_step.py DATA OUT
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from support.recipes import SMALL
from training.data import read
from training.fit.loop import make_fabric, prepare

if __name__ == "__main__":
    source, out = sys.argv[1:]
    dataset = read.read(source, SMALL.input(), SMALL.held_out, SMALL.seed)
    trainer = prepare(
        make_fabric(SMALL, "cpu"), dataset, source, SMALL, Path(out).with_suffix(".run")
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
