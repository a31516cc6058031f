"""A recipe is checked when it is made, and its JSON of earlier releases still loads."""

import json
from dataclasses import replace

import pytest

from support.recipes import SMALL
from training.fit.recipes import Recipe


def test_a_batch_that_ghost_batches_do_not_fill_is_rejected():
    with pytest.raises(ValueError, match="batch is 50, no multiple of ghost_batch 20"):
        replace(SMALL, batch=50)


def test_a_recipe_comes_back_from_its_json():
    recipe = replace(SMALL, holes=0.5, augmix=0.25, finetune_epochs=2, learning_rate_scale=0.5)
    assert Recipe.parse(json.loads(json.dumps(recipe.document()))) == recipe


def test_the_field_names_of_earlier_releases_still_load():
    former = {"network": "seed_cnn", "options": {}, "hide": 0.5, "settle": 4, "spoil": 0.25}
    recipe = Recipe.parse(former | {"rate": 0.5})
    assert recipe.holes == 0.5
    assert recipe.finetune_epochs == 4
    assert recipe.augmix == 0.25
    assert recipe.learning_rate_scale == 0.5


def test_the_recipe_in_the_embedded_manifest_loads(embedded):
    recipe = Recipe.parse(embedded.manifest.provenance["recipe"])
    assert (recipe.network, recipe.epochs, recipe.finetune_epochs) == ("candor_net", 27, 4)
