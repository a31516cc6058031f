"""The command audits a bundle: report, plots, card, comparison and TensorBoard."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from service.bundle import folder as contract
from service.bundle.manifest import Digest
from service.explain import ask, available, explain
from service.runtime.engine import Engine
from support.servers import ROOT
from training.audit import board, comparison, findings, schema
from training.audit.card import CardError, card
from training.figures.accuracy import accuracy

pytestmark = pytest.mark.timeout(600)  # the first test waits for two whole audits
MINUTES = 0.05  # a few images for attacks and explanations, which take most of the time


@pytest.fixture(scope="module")
def audited(bundle, drawn, tmp_path_factory):
    """The bundle, audited by the command; and a second time, compared with the first."""
    root, audited = tmp_path_factory.mktemp("audited"), []
    for name, more in (("first", []), ("second", ["--compare", str(root / "first")])):
        command = [
            sys.executable,
            "-m",
            "training",
            "audit",
            str(bundle.folder),
            "--data",
            str(drawn),
            "--out",
            str(root / name),
            "--strangers",
            str(drawn),
            "--minutes",
            str(MINUTES),
            *more,
        ]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=290, check=False
        )
        assert done.returncode == 0, done.stderr
        audited.append(contract.load(root / name))
    return audited


@pytest.fixture(scope="module")
def reports(audited):
    return [json.loads(each.read(contract.REPORT)) for each in audited]


def test_two_audits_with_one_seed_write_the_same_report(audited, reports):
    first, second = reports
    assert first == {name: section for name, section in second.items() if name != "comparison"}
    plots = [name for name in audited[0].manifest.files if name.endswith(".png")]
    assert all(audited[0].read(name) == audited[1].read(name) for name in plots)
    shown = audited[0].read(contract.CARD).decode()
    assert f"**{first['test']['accuracy']:.4f}**" in shown
    assert audited[0].read("reliability.png").startswith(b"\x89PNG")
    assert any(finding.startswith("colour decides") for finding in findings.findings(first)), (
        "these classes differ by colour alone"
    )
    assert all(
        name in first
        for name in (
            "calibration",
            "prediction_sets",
            "familiarity",
            "bias",
            "corruptions",
            "attacks",
        )
    )


def test_strangers_of_the_callers_own_are_judged_and_marked(drawn, reports):
    found = reports[0]["familiarity"]["strangers"]
    assert {name for name, entry in found.items() if not entry["tuned"]} == {drawn.name}
    assert found[drawn.name]["pictures"] == 150
    assert found[drawn.name]["auroc"] < 0.7, "images of the training are no strangers"
    assert found["noise"]["tuned"]


def test_every_map_with_a_sign_changes_with_a_broken_network(audited, reports):
    cascade = reports[0]["explanations"]["cascade"]
    methods = available(audited[0].manifest)
    assert set(cascade) == {method.name for method in methods}
    for method in methods:
        assert method.is_rectified or cascade[method.name]["1.0"] < 0.9, method.name


def test_an_audit_writes_how_alike_unrelated_maps_are_into_the_manifest(audited, reports):
    kept = audited[0].manifest.unrelated
    assert {name: asdict(each) for name, each in kept.items()} == (
        reports[0]["explanations"]["unrelated"]
    )
    engine = Engine(audited[0], "cpu", 1)
    pixels = np.full((*audited[0].manifest.input.shape, 3), 90, np.uint8)
    pixels[8:20, 4:12] = (200, 30, 30)
    answer = explain(
        engine,
        pixels,
        ask(engine.manifest, "saliency", None, {}),
        engine.predict(pixels[None]).logits[0],
    )
    assert answer.quality["class_cosine_unrelated"] == kept["saliency"].high


def test_the_card_has_blob_and_edges_with_their_intervals(audited, reports):
    shown = audited[0].read(contract.CARD).decode()
    figures = reports[0]["explanations"]["methods"]["grad_cam"]
    for side in ("deletion", "insertion"):
        head = f"| {side} | map | random orders | centred blob | edges | better than each on |"
        assert head in shown
        for opponent in ("blob", "edges"):
            low, high = figures[f"{side}_{opponent}_interval"]
            assert f"| {figures[f'{side}_{opponent}']:.3f} ({low:.3f}–{high:.3f}) |" in shown


LATER = ("blob", "edges", "interval", "unrelated", "by_answer", "short", "by_size", "left_out")


def without_later(value):
    """A report without the figures that an older one lacks."""
    if not isinstance(value, dict):
        return value
    return {
        key: without_later(part)
        for key, part in value.items()
        if not any(word in key for word in (*LATER, "ece_perfect", "brier", "tuned"))
        or key in ("accuracy_interval", "macro_f1_interval", "colour_interval")
    }


def test_an_older_report_makes_a_card_too(audited, reports):
    older = without_later(reports[0])
    assert "deletion_blob" not in older["explanations"]["methods"]["grad_cam"]
    shown = card(audited[0].manifest, older)
    assert "| method | deletion | random order | better than random | class cosine |" in shown
    assert f"| noise | – | {reports[0]['images']['familiarity']:,} |" in shown


def test_two_models_stand_side_by_side_in_report_and_card(audited, reports):
    section, shown = reports[1]["comparison"], audited[1].read(contract.CARD).decode()
    manifest = audited[0].manifest
    assert section["with"] == {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": manifest.files[contract.PREDICT].sha256,
    }
    assert all(row["this"] == row["other"] for row in section["figures"]), "it is the same network"
    names = {row["figure"] for row in section["figures"]}
    assert {
        "accuracy",
        "calibration error",
        "area under ROC, noise",
        "worst of attacks, radius 8/255: accuracy",
        "grad cam: deletion",
    } <= names
    assert (
        f"| figure | {manifest.name} | {manifest.name} {manifest.version} | difference |" in shown
    )
    assert "| +0.0000 |" in shown
    assert section["paired"]["p_value"] == 1.0
    assert "McNemar's exact test: p = 1" in " ".join(shown.split())


def test_figures_of_the_comparison_have_intervals_that_hold_them(reports):
    for name, value, interval in comparison.figures(reports[0]):
        assert interval is not None, name
        low, high = interval
        assert low - 0.02 <= value <= high + 0.02, name


def test_tensorboard_gets_figures_plots_and_card(audited, reports, tmp_path):
    board.show(tmp_path, audited[0], reports[0])
    (run,) = tmp_path.iterdir()
    events = EventAccumulator(str(run)).Reload()
    assert events.Scalars("accuracy")[0].value == pytest.approx(reports[0]["test"]["accuracy"])
    assert len(events.Tags()["scalars"]) == len(list(comparison.figures(reports[0])))
    assert set(events.Tags()["images"]) == {"reliability", "confusion", "corruptions", "attacks"}
    assert events.Tags()["tensors"] == ["card/text_summary"]


def test_a_comparison_takes_only_a_report_of_the_same_graph_data_seed_and_minutes(
    audited, bundle, reports
):
    fingerprint = reports[0]["data"]["fingerprint"]
    assert comparison.report_of(audited[0], fingerprint, 0, MINUTES) == reports[0]
    assert comparison.report_of(audited[0], fingerprint, 1, MINUTES) is None
    assert comparison.report_of(audited[0], fingerprint, 0, 20.0) is None
    assert comparison.report_of(audited[0], "0" * 64, 0, MINUTES) is None
    assert comparison.report_of(bundle, fingerprint, 0, MINUTES) is None, (
        "the report of an export is no audit"
    )
    foreign = audited[0].manifest.files | {contract.PREDICT: Digest("1" * 64, 1)}
    swapped = replace(audited[0], manifest=replace(audited[0].manifest, files=foreign))
    assert comparison.report_of(swapped, fingerprint, 0, MINUTES) is None


def test_a_report_matches_the_schema_and_the_schema_rejects_others(reports):
    Draft202012Validator.check_schema(schema.SCHEMA)
    for report in reports:
        schema.check(report)
    first = reports[0]
    without = {name: section for name, section in first.items() if name != "calibration"}
    for broken in (
        first | {"more": 1},
        without,
        first | {"test": first["test"] | {"accuracy": 1.5}},
    ):
        with pytest.raises(ValidationError):
            schema.check(broken)


def test_report_and_card_say_how_many_images_each_measure_had(audited, reports):
    first, shown = reports[0], " ".join(audited[0].read(contract.CARD).decode().split())
    assert first["images"]["corruptions"] == first["corruptions"]["pictures"]
    assert first["images"]["attacks"] == first["attacks"]["pictures"]
    assert first["images"]["explanations"] == first["explanations"]["pictures"]
    assert f"{first['images']['corruptions']} corrupted" in shown
    assert f"{first['images']['explanations']} explained, " in shown
    assert f"--minutes {MINUTES:g} --strangers discs`" in shown


def test_a_report_of_another_bundle_makes_no_card(audited, reports):
    foreign = reports[0] | {"files": {contract.PREDICT: "1" * 64}}
    with pytest.raises(CardError, match="audit this bundle itself"):
        card(audited[0].manifest, foreign)


def test_the_card_has_short_lines_and_metadata_that_model_hubs_read(audited):
    text = audited[0].read(contract.CARD).decode()
    _, metadata, body = text.split("---\n", 2)
    (model,) = yaml.safe_load(metadata)["model-index"]
    assert model["name"] == audited[0].manifest.name
    prose = [line for line in body.splitlines() if not line.startswith(("|", "`"))]
    assert max(map(len, prose)) <= 100


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"name": "its.pth", "sha256": "0" * 64}, f"its.pth (sha256 `{'0' * 12}…`)"),
        (f"its.pth sha256 {'0' * 64}", f"its.pth sha256 {'0' * 64}"),  # of an older bundle
    ],
)
def test_the_card_names_the_weights_that_a_training_began_with(weights, words, audited, reports):
    manifest = audited[0].manifest
    began = replace(manifest, provenance={**manifest.provenance, "weights": weights})
    assert f"from the weights {words}" in " ".join(card(began, reports[0]).split())


def test_a_model_that_guesses_is_the_first_finding(reports):
    labels = np.arange(30) % 3
    guesses = accuracy(np.zeros(30, np.int64), labels, ("blue", "green", "red"), seed=0)
    first = findings.findings(reports[0] | {"test": guesses})[0]
    assert first.startswith("guessing: the model is no better than guessing: accuracy 0.333")
    assert not findings.findings(reports[0])[0].startswith("guessing")
