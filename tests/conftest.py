"""Fixtures of several tests, and the rules for which tests run."""

import fcntl
import gc
import os
from functools import cache
from pathlib import Path

import httpx
import pytest

from support import selection
from support.servers import Server, free_port

ROOT = Path(__file__).parent.parent
# Threads of torch and NumPy spin while they wait for each other, and here others have the cores:
# a training of two seconds took twenty.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# A client of httpx reads all certificates anew: 65 ms of a crowded core, and tests make thousands.
# The variable is part of the key, because a test sets it for a certificate of its own.
_certificates = cache(lambda _file, **options: httpx.create_ssl_context(**options))
assert httpx._transports.default.create_ssl_context is httpx.create_ssl_context, "httpx changed"
httpx._transports.default.create_ssl_context = lambda **options: _certificates(
    os.environ.get("SSL_CERT_FILE"), **options
)


def pytest_addoption(parser):
    parser.addoption(
        "--fast",
        action="store_true",
        help="run the tests that start no process and import no torch",
    )


def pytest_ignore_collect(collection_path, config):
    """Keeps a fast run from importing torch."""
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    if config.getoption("--fast") and is_test and selection.imports_torch(collection_path):
        return True
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leaves slow tests out of a fast run; begins with the files that have some otherwise.

    At the end of a run a worker may wait for the last file of another: it had better be quick.
    """
    if config.getoption("--fast"):
        slow = {item for item in items if is_slow(item)}
        config.hook.pytest_deselected(items=[item for item in items if item in slow])
        items[:] = [item for item in items if item not in slow]
        return
    first = set()
    for item in items:
        # One slow test is enough: to look at every test takes seconds in every process.
        if item.path not in first and is_slow(item):
            first.add(item.path)
    items.sort(key=lambda item: item.path not in first)


def pytest_collection_finish():
    """Spares the collector what was imported: torch alone makes a million objects."""
    gc.freeze()


def is_slow(item):
    fixtures = (one.func for many in item._fixtureinfo.name2fixturedefs.values() for one in many)
    return any(selection.starts_process(function) for function in (item.function, *fixtures))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fails in CI what a missing tool or network would skip."""
    report = yield
    selection.fail_in_ci(report)
    return report


def pytest_sessionstart(session):
    """Completes the embedded bundles, as scripts/setup does; once, before all workers."""
    if not hasattr(session.config, "workerinput"):
        from training.export.derive import complete

        for name in ("model", "imagenet"):
            complete(ROOT / "service" / name)


@pytest.fixture(scope="session")
def embedded():
    """The bundle of the repository."""
    from service.bundle.folder import load

    return load(ROOT / "service" / "model")


@pytest.fixture(scope="session")
def engine(embedded):
    from service.runtime.engine import Engine

    return Engine(embedded, "cpu", 1)


@pytest.fixture(scope="module")
def thread():
    """An executor of one thread, for sessions that only one thread may use."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server of the embedded bundle."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def rpc_server(tmp_path_factory):
    """A server that speaks gRPC, too, at its `grpc_port`."""
    port = free_port()
    with Server(tmp_path_factory.mktemp("rpc"), workers=1, grpc_port=port) as running:
        running.grpc_port = port
        yield running


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """An image folder of 3 classes, with 40 training and 10 test images each."""
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
    from training.fit.loop import train

    return train(dataset, str(drawn), recipe, tmp_path_factory.mktemp("run"), accelerator="cpu")


@pytest.fixture(scope="session")
def bundle(run, dataset, tmp_path_factory, request):
    """The bundle exported from that run; processes that test side by side have the same run."""
    from service.bundle.folder import load
    from training.export.bundle import make_bundle

    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    with (folder / "bundle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "bundle").exists():
            made = make_bundle(run, dataset, folder / "making" / "discs", "discs")
            made.folder.parent.rename(folder / "bundle")
    return load(folder / "bundle" / "discs")
