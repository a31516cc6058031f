"""Batch and epochs follow from the size of the data; those of CIFAR-10 stay."""

import pytest

from training.fit.defaults import LEAST_STEPS, for_data, from_weights, recipe_of
from training.fit.recipes import RECIPES


@pytest.mark.parametrize("network", RECIPES)
def test_the_recipes_for_cifar10_stay_as_they_are(network):
    assert for_data(recipe_of(network), 45_000) == RECIPES[network]


@pytest.mark.parametrize("network", [*RECIPES, "efficientnet_lite0"])
@pytest.mark.parametrize("images", [160, 614, 2761, 20_000, 100_000])
def test_an_epoch_has_several_steps_whatever_the_data(network, images):
    recipe = for_data(recipe_of(network), images)
    assert images // recipe.batch >= (LEAST_STEPS if images > 1000 else 5)
    assert recipe.batch // recipe.ghost_batch >= (1 if network == "seed_cnn" else 2)


def test_few_images_are_seen_more_often():
    epochs = [for_data(recipe_of("resnet18"), images).epochs for images in (100, 1000, 100_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert len(set(epochs)) == 3


def test_from_published_weights_images_are_shown_smaller_where_the_network_allows():
    known = {"name": "its.pth", "sha256": "0" * 64}
    recipe = recipe_of("resnet18")
    assert from_weights(recipe, known, any_size=True).train_size == 176
    assert from_weights(recipe, known, any_size=False).train_size == 0
    begun = for_data(from_weights(recipe, known, any_size=True), 2761)
    assert (begun.batch, begun.epochs, begun.fixed_norms) == (32, 9, True)
    few = for_data(begun, 160)
    assert (few.batch, few.epochs, few.patience, begun.patience) == (16, 40, 10, 3)
