"""The embedded bundle imagenet knows its sample photographs, and says what nobody has measured."""

import re

import pytest
from playwright.sync_api import expect

from service import predictions
from service.bundle import folder
from service.explain import ask, explain
from service.image.decode import decode
from service.image.resize import to_input
from service.runtime.engine import Engine
from service.settings import EMBEDDED
from support.browser import Visit, chromium
from support.servers import Server

MOST_BYTES = 60_000
SHOWN = {"cat": {"tiger cat", "Egyptian cat", "tabby"}, "coffee": {"espresso"}}
SHOWN |= {"rocket": {"missile", "projectile"}, "camera": {"tripod"}}


@pytest.fixture(scope="module")
def bundle():
    return folder.load(EMBEDDED["imagenet"])


@pytest.fixture(scope="module")
def photographed(bundle):
    """An engine of the bundle, and the samples as its inputs, by name."""
    engine = Engine(bundle, "cpu", 1)
    inputs = {
        sample.file.partition(".")[0]: to_input(
            decode(bundle.read(sample.file), 50_000_000).pixels, bundle.manifest.input
        )
        for sample in bundle.manifest.samples
    }
    return engine, inputs


def test_its_samples_are_small_and_name_their_makers(bundle):
    assert len(bundle.manifest.samples) == len(SHOWN)
    notice = (EMBEDDED["imagenet"].parents[1] / "NOTICE").read_text()
    for sample in bundle.manifest.samples:
        assert bundle.manifest.files[sample.file].length <= MOST_BYTES
        assert re.search("CC0 1.0|public domain", sample.attribution)
        assert sample.title.keys() == {"en", "zh"}
        assert sample.file in notice


@pytest.mark.parametrize("name", SHOWN)
def test_a_sample_is_taken_for_what_it_shows(name, photographed):
    engine, inputs = photographed
    (row,) = engine.predict(inputs[name][None]).rows()
    assert predictions.predict(row, engine.manifest).best.label in SHOWN[name]


def test_what_nobody_has_measured_is_null_in_the_answer_and_said_in_the_card(bundle, photographed):
    engine, inputs = photographed
    (row,) = engine.predict(inputs["cat"][None]).rows()
    result = predictions.predict(row, engine.manifest)
    assert (result.prediction_set, result.familiarity, result.nearest) == (None, None, ())
    assert result.temperature == 1
    card = bundle.read(folder.CARD).decode()
    for words in ("not calibrated", "no prediction sets", "no measure of familiarity", "No audit"):
        assert words in card


def test_card_and_manifest_name_the_same_weights(bundle):
    weights = bundle.manifest.provenance["weights"]
    assert weights.keys() == {"name", "sha256"}
    named = f"Its weights are {weights['name']} sha256 {weights['sha256']}."
    assert named in bundle.read(folder.CARD).decode()


def test_its_map_of_the_cup_lies_in_the_middle(photographed):
    engine, inputs = photographed
    (row,) = engine.predict(inputs["coffee"][None]).rows()
    question = ask(engine.manifest, "grad_cam", None, {})
    values = explain(engine, inputs["coffee"], question, row.logits).map.clip(0)
    assert values.shape == (224, 224)
    assert values[32:192, 32:192].sum() > 0.7 * values.sum()


def test_the_page_shows_its_texts_and_samples_and_what_is_unknown(tmp_path):
    with Server(tmp_path, bundle="imagenet", workers=1) as server, chromium() as browser:
        visit = Visit(browser, server.url)
        page = visit.open()
        expect(page.locator("#try h1")).to_have_text("Try any photograph")
        expect(page.locator(".about")).to_contain_text("was not measured")
        page.get_by_text("Who made them").click()
        expect(page.locator(".samples details")).to_contain_text("Rachel Michetti, CC0 1.0")
        visit.sample("Coffee")
        expect(page.locator(".verdict")).to_contain_text("espresso")
        expect(page.locator(".meaning")).to_contain_text("Not calibrated")
        for words in ("has no prediction sets", "does not measure familiarity"):
            expect(page.locator(".trust")).to_contain_text(words)
        visit.close()
        assert (visit.errors, visit.foreign) == ([], [])
        public = server.client.get("/model").json()
        assert public["name"] == "imagenet"
