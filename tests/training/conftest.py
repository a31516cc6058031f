"""A small data set that the tests draw, and a small run trained on it."""

import pytest

from tests import pictures


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """An image folder of 3 classes, 40 training and 10 test pictures each."""
    folder = tmp_path_factory.mktemp("data") / "discs"
    pictures.folder(folder)
    return folder


@pytest.fixture(scope="session")
def recipe():
    from training.recipes import Recipe

    return Recipe("seed_cnn", optimizer="adam", epochs=6, batch=30, ghost_batch=30, held_out=30, precision="32-true")


@pytest.fixture(scope="session")
def dataset(drawn, recipe):
    from training import data

    return data.read(str(drawn), recipe.input(), recipe.held_out, recipe.seed)


@pytest.fixture(scope="session")
def run(drawn, dataset, recipe, tmp_path_factory):
    """seed_cnn, trained for a moment."""
    from training.fit import fit

    return fit(dataset, str(drawn), recipe, tmp_path_factory.mktemp("run"), accelerator="cpu")
