"""The card says the formula of the probabilities, and which strangers the score was tuned with."""

from dataclasses import replace

import pytest

from training.audit.reliability_card import calibration, reliability


@pytest.mark.parametrize(
    ("power", "factors", "formula"),
    [
        (0.0, (), "softmax(logits / 0.700)"),
        (0.2, (), "T = 0.700 · H^0.200, H the entropy"),
        (0.2, (0.5, 2.0, 1.0), "T = 0.700 · H^0.200 · F, H the entropy"),
        (0.0, (0.5, 2.0, 1.0), "T = 0.700 · F, F the mean over classes of a factor"),
    ],
)
def test_the_formula_names_every_factor(power, factors, formula, bundle):
    manifest = replace(
        bundle.manifest, temperature=0.7, entropy_power=power, class_temperatures=factors
    )
    assert formula in calibration(manifest)


def test_strangers_that_nothing_was_tuned_with_are_marked(bundle):
    entry = {"pictures": 9, "auroc": 0.8, "auroc_interval": [0.7, 0.9], "rate": 0.5}
    entry |= {"rate_interval": [0.3, 0.7]}
    section = {
        "test_familiar": 0.95,
        "strangers": {"theirs": entry | {"tuned": False}, "noise": entry | {"tuned": True}},
        "left_out": {"cat": entry},
    }
    plain = {"ece": 0.01, "ece_before": 0.1, "log_loss": 0.3, "log_loss_before": 0.5}
    shown = reliability(
        bundle.manifest, {"calibration": plain, "prediction_sets": {}, "familiarity": section}
    )
    assert "| theirs | **no** | 9 | 0.800 (0.700–0.900) | 50% (30%–70%) |" in shown
    assert "| noise | yes |" in shown
    assert "50% pass as familiar" in shown
