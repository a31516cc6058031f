"""Fixtures of several tests: the embedded bundle's engine, a small trained run, a real server."""

from pathlib import Path

import pytest

from support.servers import Server

ROOT = Path(__file__).parent.parent


def pytest_sessionstart(session):
    """Completes the embedded bundle, which scripts/setup does as well; once, before all workers."""
    if not hasattr(session.config, "workerinput"):
        from training.export.derive import complete

        complete(ROOT / "service" / "model")


@pytest.fixture(scope="session")
def embedded():
    """The bundle that is in the repository."""
    from service.bundle.folder import load

    return load(ROOT / "service" / "model")


@pytest.fixture(scope="session")
def engine(embedded):
    from service.runtime.engine import Engine

    return Engine(embedded, "cpu")


@pytest.fixture(scope="module")
def thread():
    """An executor of one thread, for sessions that one thread alone may use."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The embedded bundle, served."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """An image folder of 3 classes, 40 training and 10 test images each."""
    from support import images

    folder = tmp_path_factory.mktemp("data") / "discs"
    images.folder(folder)
    return folder


@pytest.fixture(scope="session")
def recipe():
    from training.fit.recipes import Recipe

    return Recipe(
        "seed_cnn",
        optimizer="adam",
        epochs=6,
        batch=30,
        ghost_batch=30,
        held_out=30,
        precision="32-true",
    )


@pytest.fixture(scope="session")
def dataset(drawn, recipe):
    from training.data import read

    return read.read(str(drawn), recipe.input(), recipe.held_out, recipe.seed)


@pytest.fixture(scope="session")
def run(drawn, dataset, recipe, tmp_path_factory):
    """seed_cnn, trained for a moment."""
    from training.fit.loop import fit

    return fit(dataset, str(drawn), recipe, tmp_path_factory.mktemp("run"), accelerator="cpu")


@pytest.fixture(scope="session")
def bundle(run, dataset, tmp_path_factory):
    """What that run was exported to."""
    from training.export.bundle import make_bundle

    return make_bundle(run, dataset, tmp_path_factory.mktemp("bundle") / "discs", "discs")
