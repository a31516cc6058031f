"""Browsers and visitors of the page; a server of a model that guesses."""

from dataclasses import replace

import pytest

from service.bundle import folder as bundle_folder
from support.browser import Visit, chromium
from support.images import draw, encode
from support.page import REMARK, SCRIPT
from support.servers import Server

PLOT = encode(draw("blue", size=64))


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser, server):
    """A visitor; the page may cause no error and no request to another host."""
    visitor = Visit(browser, server.url)
    yield visitor
    visitor.close()
    assert visitor.errors == []
    assert visitor.foreign == []


@pytest.fixture
def visitor(browser, server):
    """Makes visitors with other screens and languages."""
    made = []

    def make(url=server.url, **options):
        made.append(Visit(browser, url, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert each.errors == []
        assert each.foreign == []


@pytest.fixture(scope="module")
def marked(tmp_path_factory, embedded):
    """A server of a model that guesses, with scripts as a label and in its texts, and a plot."""
    folder = tmp_path_factory.mktemp("marked")
    table = f"| a | b |\n|---|---:|\n| {SCRIPT} | [x](javascript:window.ran=1) |"
    card = f"# A card\n\n{SCRIPT}\n\n{table}\n\n![the plot](confusion.png)\n"
    files = {
        name: embedded.read(name) for name in embedded.manifest.files if not name.endswith(".png")
    }
    files |= {"CARD.md": card.encode(), "confusion.png": PLOT}
    labels = (*embedded.manifest.labels[:-2], SCRIPT, "truck, or lorry")
    provenance = {**embedded.manifest.provenance, "no_better_than_guessing": REMARK}
    manifest = replace(embedded.manifest, labels=labels, provenance=provenance)
    bundle_folder.write(folder / "bundle", manifest, files)
    settings = {"grafana_url": "https://grafana.example/d/candor", "workers": 1}
    with Server(folder, bundle=folder / "bundle", **settings) as running:
        yield running
