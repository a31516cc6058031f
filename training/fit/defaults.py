"""What a recipe leaves to the size of the data: batch, epochs and augmentation.

A network needs some hundreds of steps, whatever the data. Few images are therefore seen more often,
in smaller batches, and never in one step an epoch.
"""

from dataclasses import replace

from service.image.resize import scaled, sides
from training.fit.recipes import RECIPES, Recipe
from training.networks.catalogue import LITE, SIZE

LEAST_STEPS = 12  # of an epoch, with the recipes for CIFAR-10
FEW = 400  # images, below which a batch is half as large
BATCH, RANDOM_BATCH = 32, 64
SEEN, LEAST_EPOCHS, MOST_EPOCHS = 24_000, 6, 40  # images in all, from published weights
PATIENCE = 3  # epochs; a quarter of all where that is more, for few images judge by chance
RANDOM_EPOCHS = 4  # times as many from random weights
TRAIN_SHARE, TRAIN_STEP = 0.8, 16  # of the size; a multiple of that many pixels
LEAST_SIZE = 96  # that training may show smaller


def recipe_of(network: str) -> Recipe:
    """The recipe of `network`, for any data."""
    if network in RECIPES:
        return RECIPES[network]
    return Recipe(
        network,
        options={"drop_path": 0.1} if network == LITE else {},
        optimizer="adamw",
        label_smoothing=0.05,
        flip=True,
        crop=0.4,
        colour=0.2,
        weight_decay=0.02,
        warmup=0.06,
        average=0.07,
        size=SIZE,
    )


def from_weights(recipe: Recipe, weights: dict[str, str], *, any_size: bool) -> Recipe:
    """`recipe` for published `weights`, of a network that may run on images of `any_size`.

    docs/training.md has the figures that it was chosen by.
    """
    smaller = scaled(recipe.size, lambda side: int(side * TRAIN_SHARE) // TRAIN_STEP * TRAIN_STEP)
    return replace(
        recipe,
        weights=weights,
        peak_rate=6e-4,
        first_rate=0.12,
        frozen=0.25,
        fixed_norms=True,
        patience=PATIENCE,
        train_size=smaller if any_size and min(sides(recipe.size)) >= LEAST_SIZE else 0,
    )


def for_data(recipe: Recipe, images: int) -> Recipe:
    """`recipe` with batch and epochs for so many training images."""
    if recipe.network in RECIPES:
        return _with_steps(recipe, images)
    batch = (BATCH if recipe.weights else RANDOM_BATCH) // (2 if images < FEW else 1)
    epochs = min(max(round(SEEN / images), LEAST_EPOCHS), MOST_EPOCHS)
    # two parts, so that two processes can share a step
    sized = replace(recipe, batch=batch, ghost_batch=batch // 2)
    if recipe.weights:
        return replace(sized, epochs=epochs, patience=max(PATIENCE, epochs // 4))
    return replace(sized, epochs=RANDOM_EPOCHS * epochs)


def _with_steps(recipe: Recipe, images: int) -> Recipe:
    """`recipe` with a smaller batch if it took fewer than LEAST_STEPS steps an epoch."""
    if images >= LEAST_STEPS * recipe.batch:
        return recipe
    batch = max(BATCH // 2, images // LEAST_STEPS)
    ghosts = max(2, -(-batch // recipe.ghost_batch))
    batch -= batch % ghosts
    return replace(recipe, batch=batch, ghost_batch=batch // ghosts)
