"""Recipes for networks that are small enough for tests."""

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
TRANSFER = Recipe(
    "support.networks:small",
    optimizer="adamw",
    epochs=3,
    batch=20,
    ghost_batch=10,
    held_out=30,
    label_smoothing=0.05,
    flip=True,
    crop=0.5,
    train_size=24,
    frozen=0.1,
    colour=0.2,
    peak_rate=3e-3,
    first_rate=0.1,
    weight_decay=0.05,
    warmup=0.1,
    average=0.2,
    patience=2,
    balance="weights",
    precision="32-true",
    weights={"name": "small.safetensors", "sha256": "0" * 64},
)
