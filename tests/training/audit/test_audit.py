"""The audit's figures are right where the answer is known, and its findings name what was planted."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.robust import PGD
from jsonschema import Draft202012Validator, ValidationError
from scipy.special import softmax
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from service.bundle import folder as contract
from service.bundle.manifest import Digest
from service.predictions import PredictionOptions, predict
from service.runtime.engine import Engine
from support.servers import ROOT
from training.audit import board, comparison, findings, schema
from training.audit.card import CardError, card
from training.audit.measures import (
    attacks,
    calibration,
    corruptions,
    edits,
    labels,
    out_of_distribution,
    sets,
    slices,
)
from training.audit.measures.accuracy import interval, macro_f1
from training.audit.measures.explanations import border_share
from training.audit.measures.familiarity import auroc

pytestmark = pytest.mark.timeout(600)  # two whole audits, whichever test comes first


@pytest.fixture(scope="module")
def made(bundle):
    return Engine(bundle, "cpu")


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    shares = np.tile([0.8, 0.2], (10, 1))
    right = np.array([0] * 8 + [1] * 2)
    assert calibration.error(shares, right) == pytest.approx(0.0)
    assert calibration.error(shares, np.zeros(10, np.int64)) == pytest.approx(0.2)
    assert calibration.log_loss(shares, right) == pytest.approx(
        -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    )


def test_macro_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    assert macro_f1(said, truth, 5) == pytest.approx(f1_score(truth, said, average="macro"))


def test_an_interval_of_a_share_is_as_wide_as_theory_says():
    right = np.arange(1000) % 10 > 0
    low, high = interval(lambda rows: right[rows].mean(), 1000, seed=0)
    assert low < 0.9 < high
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.09 / 1000), rel=0.15)


def test_measured_sets_are_the_served_ones(made, dataset):
    found = made.predict(dataset.test.pixels)
    shares = made.manifest.calibration.probabilities(found.logits)
    for by_class, kind in ((False, "marginal"), (True, "by_class")):
        held = sets.members(
            shares, np.asarray(getattr(made.manifest.prediction_sets, kind)["0.90"])
        )
        for row, members in zip(found.rows(), held, strict=True):
            served = predict(
                row, made.manifest, PredictionOptions(3, "0.90", by_class)
            ).prediction_set
            assert set(served.labels) == {
                made.manifest.labels[index] for index in np.flatnonzero(members)
            }


def test_an_area_of_one_half_is_a_guess():
    rng = np.random.default_rng(0)
    assert auroc(rng.normal(size=2000), rng.normal(size=2000)) == pytest.approx(0.5, abs=0.03)
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0


def test_strangers_fit_the_network_and_scrambling_keeps_every_pixel(made, dataset):
    found = out_of_distribution.out_of_distribution(
        dataset.test.pixels, made.manifest.input, 5, seed=0
    )
    assert set(found) == {"noise", "scrambled", "textures", "digits"}
    assert all(
        pixels.shape == (5, 32, 32, 3) and pixels.dtype == np.uint8 for pixels in found.values()
    )
    for before, after in zip(dataset.test.pixels, found["scrambled"], strict=False):
        assert not np.array_equal(before, after)
        assert np.array_equal(
            np.sort(before.reshape(-1, 3), axis=0), np.sort(after.reshape(-1, 3), axis=0)
        )


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_stays_within_its_radius(attack, made, dataset):
    pixels, truth = dataset.test.pixels[:8], dataset.test.labels[:8]
    for radius in (1, 3):
        found = attacks.attacked_by(attack, made, pixels, truth, radius / 255, seed=0)
        assert np.abs(found.astype(int) - pixels).max() <= radius
        assert not np.array_equal(found, pixels)


def test_attacks_through_the_bundle_succeed_as_often_as_captums(made, run, dataset):
    pixels, truth, radius = dataset.test.pixels, dataset.test.labels, 16 / 255
    ours = attacks.attacked_by(attacks.ATTACKS[1], made, pixels, truth, radius, seed=0)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in (made.manifest.input.mean, made.manifest.input.std)
    )
    torch.manual_seed(0)
    pgd = PGD(
        lambda x: run.network((x - mean) / std),
        torch.nn.CrossEntropyLoss(reduction="none"),
        lower_bound=0.0,
        upper_bound=1.0,
    )
    start = torch.from_numpy(np.moveaxis(pixels, -1, 1).astype(np.float32) / 255)
    asked = {
        "radius": radius,
        "step_size": radius / 8,
        "step_num": 20,
        "target": torch.from_numpy(truth),
        "random_start": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, of the gradient that it asks for itself
        theirs = pgd.perturb(start, **asked)
    with torch.no_grad():
        fooled = (run.network((theirs - mean) / std).argmax(1).numpy() != truth).mean()
    assert (made.predict(ours).logits.argmax(1) != truth).mean() >= fooled


@pytest.mark.parametrize("name", sorted(corruptions.CORRUPTIONS))
def test_a_corruption_spoils_more_the_more_severe_it_is_and_always_alike(name, dataset):
    pixels = dataset.test.pixels[:6]
    damage = []
    for severity in (1, 3, 5):
        spoilt = corruptions.corrupted(name, severity, pixels, seed=0)
        assert spoilt.shape == pixels.shape
        assert np.array_equal(spoilt, corruptions.corrupted(name, severity, pixels, seed=0))
        damage.append(np.abs(spoilt.astype(int) - pixels).mean())
    assert damage[0] > 0
    assert damage[2] > damage[0] or name == "saturation", "whose severities go both ways"


def test_a_slice_that_is_served_worse_is_found_and_no_other(made):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (900, 8, 8, 3), np.uint8) // 2 + np.repeat(
        rng.integers(0, 100, (900, 1, 1, 1)), 3, -1
    ).astype(np.uint8)
    truth = rng.integers(0, 3, 900)
    dark = slices.grouped("brightness", pixels) == "low"
    said = np.where(rng.uniform(size=900) < np.where(dark, 0.5, 0.05), (truth + 1) % 3, truth)
    found = {
        (s["property"], s["slice"]): s
        for s in slices.slices(pixels, said, truth, made.manifest, seed=0)["slices"]
    }
    assert found["brightness", "low"]["p_value"] < 0.01
    assert found["brightness", "low"]["excess"] < -0.15
    assert found["background_uniformity", "low"]["p_value"] > 0.05


def test_edits_change_what_they_say_and_nothing_else(dataset):
    pixels = dataset.test.pixels[:4]
    assert np.array_equal(edits.mirror(edits.mirror(pixels)), pixels)
    assert np.array_equal(edits.hue(edits.hue(edits.hue(pixels))), pixels)
    assert np.ptp(edits.grey(pixels), axis=-1).max() == 0
    assert np.array_equal(edits.border(pixels)[:, 4:-4, 4:-4], pixels[:, 4:-4, 4:-4])


def test_exchanged_labels_are_the_first_suspects(made):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    shares = softmax(6 * np.eye(3)[truth] + rng.normal(size=(300, 3)) / 2, axis=1)
    given = truth.copy()
    given[:5] = (truth[:5] + 1) % 3
    found = labels.label_issues(shares, given, np.arange(300).astype(np.str_), made.manifest)
    assert {int(entry["name"]) for entry in found[:5]} == set(range(5))


def test_a_map_that_is_spread_evenly_has_a_border_share_of_one():
    assert border_share(np.ones((32, 32), np.float32)) == pytest.approx(1.0)
    inside = np.zeros((32, 32), np.float32)
    inside[16, 16] = 1
    assert border_share(inside) == 0.0


@pytest.fixture(scope="module")
def audited(bundle, drawn, tmp_path_factory):
    """The bundle, audited by the command; and a second time, beside the first."""
    root, made = tmp_path_factory.mktemp("audited"), []
    for name, more in (("first", []), ("second", ["--compare", str(root / "first")])):
        asked = [
            sys.executable,
            "-m",
            "training",
            "audit",
            str(bundle.folder),
            "--data",
            str(drawn),
            "--out",
            str(root / name),
            *more,
        ]
        done = subprocess.run(
            asked, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        made.append(contract.load(root / name))
    return made


@pytest.fixture(scope="module")
def reports(audited):
    return [json.loads(each.read(contract.REPORT)) for each in audited]


def test_the_command_audits_a_bundle_twice_to_the_same_report(audited, reports):
    first, second = reports
    assert first == {name: section for name, section in second.items() if name != "comparison"}
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


@pytest.mark.parametrize("method", ["integrated_gradients", "grad_cam", "occlusion"])
def test_every_map_notices_a_broken_network(reports, method):
    assert reports[0]["explanations"]["cascade"][method]["1.0"] < 0.9


def test_two_models_stand_side_by_side_in_report_and_card(audited, reports):
    section, shown = reports[1]["comparison"], audited[1].read(contract.CARD).decode()
    manifest = audited[0].manifest
    assert section["with"] == {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": manifest.files[contract.PREDICT].sha256,
    }
    assert all(row["this"] == row["other"] for row in section["figures"]), "it is the same network"
    told = {row["figure"] for row in section["figures"]}
    assert {
        "accuracy",
        "calibration error",
        "area under ROC, noise",
        "pgd20, radius 8/255: accuracy",
        "grad cam: deletion",
    } <= told
    assert (
        f"| figure | {manifest.name} | {manifest.name} {manifest.version} | difference |" in shown
    )
    assert "| +0.0000 |" in shown


def test_tensorboard_shows_figures_plots_and_card(audited, reports, tmp_path):
    board.show(tmp_path, audited[0], reports[0])
    (run,) = tmp_path.iterdir()
    found = EventAccumulator(str(run)).Reload()
    assert found.Scalars("accuracy")[0].value == pytest.approx(reports[0]["test"]["accuracy"])
    assert len(found.Tags()["scalars"]) == len(list(comparison.figures(reports[0])))
    assert set(found.Tags()["images"]) == {"reliability", "confusion", "corruptions", "attacks"}
    assert found.Tags()["tensors"] == ["card/text_summary"]


def test_only_a_report_of_the_same_graph_data_and_seed_is_compared_with(audited, bundle, reports):
    fingerprint = reports[0]["data"]["fingerprint"]
    assert comparison.report_of(audited[0], fingerprint, 0) == reports[0]
    assert comparison.report_of(audited[0], fingerprint, 1) is None
    assert comparison.report_of(audited[0], "0" * 64, 0) is None
    assert comparison.report_of(bundle, fingerprint, 0) is None, (
        "what the export measured is no audit"
    )
    foreign = audited[0].manifest.files | {contract.PREDICT: Digest("1" * 64, 1)}
    swapped = replace(audited[0], manifest=replace(audited[0].manifest, files=foreign))
    assert comparison.report_of(swapped, fingerprint, 0) is None


def test_a_report_keeps_to_the_schema_and_the_schema_refuses_what_it_does_not_know(reports):
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


def test_figures_of_another_bundle_make_no_card(audited, reports):
    foreign = reports[0] | {"files": {contract.PREDICT: "1" * 64}}
    with pytest.raises(CardError, match="audit this bundle itself"):
        card(audited[0].manifest, foreign)
