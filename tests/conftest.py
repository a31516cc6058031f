"""What several tests share: the embedded bundle's engine, a small trained run, and a real server."""

from pathlib import Path

import pytest

from tests.servers import Server

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def embedded():
    """The bundle that is in the repository."""
    from service.bundle import load

    return load(ROOT / "service" / "model")


@pytest.fixture(scope="session")
def engine(embedded):
    from service.engine import Engine

    return Engine(embedded, "cpu")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The embedded bundle, served."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running
