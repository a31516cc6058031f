"""What a recipe leaves to the size of the data: batch, epochs and augmentation.

A step costs the same whatever the data, and a network needs some hundreds of them. Few images are
therefore seen more often, in smaller batches, and never in one step an epoch.
"""

from dataclasses import replace

from training.fit.recipes import RECIPES, Recipe
from training.networks.catalogue import SIZE

LEAST_STEPS = 12  # of an epoch
LEAST_BATCH, MOST_BATCH = 16, 64
FEW = 200  # images, which FEW_EPOCHS show often enough
FEW_EPOCHS, LEAST_EPOCHS = 25, 3
PATIENCE = 3  # epochs
RANDOM_EPOCHS = 4  # times as many from random weights


def recipe_of(network: str) -> Recipe:
    """The recipe of `network`, for any data."""
    if network in RECIPES:
        return RECIPES[network]
    return Recipe(
        network,
        optimizer="adamw",
        label_smoothing=0.05,
        flip=True,
        weight_decay=0.05,
        warmup=0.1,
        average=0.1,
        size=SIZE,
    )


def for_data(recipe: Recipe, images: int) -> Recipe:
    """`recipe` with batch, epochs, rates and augmentation for so many training images."""
    if recipe.network in RECIPES:
        return _with_steps(recipe, images)
    batch = _batch(images)
    epochs = max(LEAST_EPOCHS, round(FEW_EPOCHS * (FEW / images) ** 0.4))
    sized = replace(recipe, batch=batch, ghost_batch=batch // 2, epochs=epochs, colour=0.2)
    if recipe.weights:
        # few images, which the network soon knows, are cut more
        return replace(sized, peak_rate=5e-4, first_rate=0.1, patience=PATIENCE, crop=0.4)
    return replace(sized, epochs=epochs * RANDOM_EPOCHS, peak_rate=2e-3, crop=0.4)


def _batch(images: int) -> int:
    """The power of two that gives LEAST_STEPS steps an epoch, within its limits."""
    most = max(LEAST_BATCH, min(MOST_BATCH, images // LEAST_STEPS))
    return 1 << (most.bit_length() - 1)


def _with_steps(recipe: Recipe, images: int) -> Recipe:
    """`recipe` with a smaller batch if it took fewer than LEAST_STEPS steps an epoch."""
    if images >= LEAST_STEPS * recipe.batch:
        return recipe
    batch = min(recipe.batch, max(LEAST_BATCH, images // LEAST_STEPS // 2 * 2))
    ghosts = max(2, -(-batch // recipe.ghost_batch))
    batch -= batch % ghosts
    return replace(recipe, batch=batch, ghost_batch=batch // ghosts)
