"""A recipe for a network that is small enough for tests."""

from training.fit.recipes import Recipe

SMALL = Recipe(
    "candor_net",
    {"widths": (8, 8, 8)},
    epochs=2,
    batch=40,
    ghost_batch=20,
    held_out=30,
    label_smoothing=0.2,
    translate=2,
    flip=True,
    precision="32-true",
)
