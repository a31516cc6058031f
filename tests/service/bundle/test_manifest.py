"""A manifest survives its JSON text, and one that breaks the contract is rejected."""

import json
from dataclasses import replace

import pytest

from service.bundle.folder import PREDICT
from service.bundle.manifest import (
    MANIFEST,
    Bins,
    Digest,
    Distribution,
    Int8,
    Manifest,
    MapDistribution,
    Parity,
    Unrelated,
)
from service.bundle.presentation import Sample
from service.errors import ManifestError, SchemaVersionError
from service.image.resize import Input

TWO = Manifest(
    name="two",
    labels=("cat", "dog"),
    input=Input(size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), resize="pad", short_side=8),
    temperature=1.5,
    self_test=(1, 0.25),
    parity={"saliency": Parity("captum 0.9.0", 64, 1e-6, 1.0)},
    provenance={"seed": 0, "data": {"fingerprint": "ab"}},
    files={PREDICT: Digest.of(b"weights")},
)


PLATT = {"pictures": 9, "scale": [0.5, 2.0], "bias": [0.0, -1.0]}
SETS = {"pictures": 9, "marginal": {"0.95": 0.1}, "by_class": {"0.95": [0.1, 0.2]}}


def parse(document):
    return Manifest.parse(json.dumps(document).encode())


def test_a_manifest_survives_its_canonical_text():
    assert Manifest.parse(TWO.canonical()) == TWO


def test_the_embedded_manifest_is_parsed_without_loss(embedded):
    document = json.loads((embedded.folder / MANIFEST).read_text())
    assert json.loads(embedded.manifest.canonical()) == document


def test_the_figures_of_int8_survive_and_their_absence_leaves_no_trace():
    figures = Int8(
        (1, 0.5), 100, 10, 0.9, 0.91, 0.3, 0.31, 0.98, {"1": 2.8, "16": 2.9}, "a CPU", "2026-11-24"
    )
    manifest = replace(TWO, int8=figures)
    assert Manifest.parse(manifest.canonical()) == manifest
    assert manifest.version != TWO.version
    assert b"int8" not in TWO.canonical()
    assert b"cam_cosine" not in manifest.canonical()
    compared = replace(TWO, int8=replace(figures, cam_cosine=0.9999))
    assert Manifest.parse(compared.canonical()) == compared


def test_a_distribution_survives_and_its_absence_leaves_no_trace():
    distribution = Distribution(
        60, Bins((0.5, 0.9), (0.2, 0.3, 0.5)), Bins((), (1.0,)), Bins((0.5,), (0.0, 1.0))
    )
    maps = MapDistribution(60, *[Bins((0.5,), (0.25, 0.75))] * 6)
    manifest = replace(TWO, distribution=distribution, map_distribution=maps)
    assert Manifest.parse(manifest.canonical()) == manifest
    assert b"distribution" not in TWO.canonical()


def test_cosines_of_unrelated_maps_survive_and_their_absence_leaves_no_trace():
    manifest = replace(TWO, unrelated={"saliency": Unrelated(16, 0.7, 0.85)})
    assert Manifest.parse(manifest.canonical()) == manifest
    assert b"unrelated" not in TWO.canonical()


def test_a_head_of_sigmoids_survives_and_that_of_a_softmax_leaves_no_trace():
    manifest = replace(TWO, head="sigmoid")
    assert Manifest.parse(manifest.canonical()) == manifest
    assert manifest.version != TWO.version
    assert b"head" not in TWO.canonical()


def test_the_calibration_of_each_class_survives_and_its_absence_leaves_no_trace():
    sets = SETS | {"marginal": {}}
    document = TWO.document() | {"head": "sigmoid", "platt": PLATT, "prediction_sets": sets}
    manifest = parse(document)
    assert manifest.calibration.bias == (0.0, -1.0)
    assert manifest.prediction_sets.coverages == ("0.95",)
    assert Manifest.parse(manifest.canonical()) == manifest
    assert b"platt" not in replace(TWO, head="sigmoid").canonical()


def test_factors_of_the_classes_survive_and_their_absence_leaves_no_trace():
    manifest = parse(TWO.document() | {"class_temperatures": [0.5, 2.0]})
    assert manifest.calibration.class_temperatures == (0.5, 2.0)
    assert Manifest.parse(manifest.canonical()) == manifest
    assert b"class_temperatures" not in TWO.canonical()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "tanh"}, "head"),
        ({"class_temperatures": [1.0]}, "class_temperatures has 1 numbers"),
        ({"class_temperatures": [1.0, 0.0]}, "of which the least is 0.0"),
        ({"head": "sigmoid", "class_temperatures": [1.0, 1.0]}, "there is class_temperatures"),
        ({"head": "sigmoid", "entropy_power": 0.5}, "head is sigmoid and there is entropy_power"),
        ({"platt": PLATT}, "platt has 2 numbers and head is softmax"),
        ({"head": "sigmoid", "platt": PLATT | {"bias": [0.0]}}, "platt has 1 and 2 numbers"),
        ({"head": "sigmoid", "platt": PLATT | {"scale": [1.0, 0.0]}}, "platt.scale has 0.0"),
        ({"head": "sigmoid", "prediction_sets": SETS}, "marginal has thresholds, which sigmoids"),
        ({"prediction_sets": SETS | {"marginal": {}}}, "have different coverages"),
    ],
)
def test_a_head_that_the_rest_contradicts_is_rejected(changes, message):
    with pytest.raises(ManifestError, match=message):
        parse(TWO.document() | changes)


def presented(**changes):
    sample = Sample("cat.webp", {"en": "Cat", "zh": "猫"}, "by a friend, CC0 1.0")
    files = {**TWO.files, "cat.webp": Digest.of(b"cat")}
    return replace(TWO, **{"files": files, "title": {"en": "Two"}, "samples": (sample,)} | changes)


def test_texts_and_samples_survive_and_their_absence_leaves_no_trace():
    assert Manifest.parse(presented().canonical()) == presented()
    assert not {"title", "description", "samples"} & TWO.document().keys()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("title", {"zh": "二"}, "title has the languages zh; 'en' is needed"),
        ("description", {"en": "Two", "<b>": "2"}, "description has the language '<b>'"),
        ("title", {"en": 2}, "breaks the contract"),
        ("samples", [{"file": "dog.webp", "title": {}, "attribution": ""}], "does not name"),
        ("samples", [{"file": "cat.png", "title": {}, "attribution": ""}], "a sample is a file"),
        ("samples", [{"file": "cat.webp", "title": {}}], "attribution"),
        (
            "samples",
            [{"file": "cat.webp", "title": "Cat", "attribution": ""}],
            "breaks the contract",
        ),
    ],
)
def test_texts_and_samples_that_no_page_can_show_are_rejected(part, value, message):
    with pytest.raises(ManifestError, match=message):
        parse(presented().document() | {part: value})


@pytest.mark.parametrize(
    ("edges", "shares", "message"),
    [
        ((0.5,), (1.0,), "1 shares and the edges"),
        ((0.5, 0.5), (0.2, 0.3, 0.5), "edges ascend"),
        ((0.5,), (0.5, 0.6), "sum to 1"),
        ((0.5,), (-0.5, 1.5), "not be negative"),
    ],
)
def test_bins_that_are_no_distribution_are_rejected(edges, shares, message):
    fine = Bins((), (1.0,))
    document = replace(TWO, distribution=Distribution(60, fine, fine, fine)).document()
    document["distribution"]["classes"] = {"edges": edges, "shares": shares}
    with pytest.raises(ManifestError, match=message):
        parse(document)


def test_an_unknown_schema_version_has_a_remedy():
    with pytest.raises(
        SchemaVersionError, match=r"schema version 99; this Candor reads 1: export the bundle again"
    ):
        parse(TWO.document() | {"schema_version": 99})


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("labels"),
        lambda d: d.update(labels=["cat"]),
        lambda d: d.update(temperature=0),
        lambda d: d.update(entropy_power=-0.1),
        lambda d: d.update(entropy_power=1.1),
        lambda d: d.update(surprise=1),
        lambda d: d["input"].update(resize="squeeze"),
        lambda d: d["input"].update(std=[1, 1]),
        lambda d: d["input"].update(short_side=4),
        lambda d: d["files"].update({"../../etc/passwd": d["files"][PREDICT]}),
        lambda d: d["files"].update({MANIFEST: d["files"][PREDICT]}),
        lambda d: d.update(files=[]),
        lambda d: d.update(
            prediction_sets={"pictures": 9, "marginal": {"0.90": 0.1}, "by_class": {}}
        ),
        lambda d: d.update(
            prediction_sets={"pictures": 9, "marginal": {"0.9": 0}, "by_class": {"0.9": [0]}}
        ),
        lambda d: d.update(familiarity={"evidence": "stars", "threshold": 0, "pictures": 9}),
    ],
)
def test_a_manifest_that_breaks_the_contract_is_rejected(change):
    document = json.loads(TWO.canonical())
    change(document)
    with pytest.raises(ManifestError):
        parse(document)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b'{"schema_version"'])
def test_a_text_that_is_no_json_object_is_rejected(text):
    with pytest.raises(ManifestError, match="is no manifest"):
        Manifest.parse(text)
