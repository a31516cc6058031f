"""A run keeps all that an export needs, and only a finished one loads."""

import json

import pytest

from support.recipes import SMALL
from training.fit import runs
from training.fit.fabric import make_fabric
from training.fit.recipes import FORMER_NAMES
from training.fit.runs import RunError
from training.fit.trainer import prepare


def test_a_run_keeps_all_that_an_export_needs(run, recipe, dataset):
    assert run.recipe == recipe
    assert run.subject.fingerprint == dataset.fingerprint
    assert run.input.mean == pytest.approx(
        dataset.training.pixels.reshape(-1, 3).mean(0) / 255, abs=1e-6
    )
    assert run.report["test"]["macro_f1"] > 0.5
    assert run.guessing is None
    assert not run.network.training


def test_an_unfinished_run_does_not_load(tmp_path):
    with pytest.raises(
        RunError,
        match=r"holds no finished run \(recipe.json, weights.safetensors, report.json missing\)",
    ):
        runs.load(tmp_path)


def test_a_checkpoint_of_an_earlier_release_resumes_although_fields_were_renamed(
    dataset, drawn, tmp_path
):
    trainer = prepare(make_fabric(SMALL, "cpu"), dataset, str(drawn), SMALL, tmp_path)
    path = tmp_path / runs.RECIPE
    document = json.loads(path.read_text())
    recipe = document["recipe"]
    for former, name in FORMER_NAMES.items():
        recipe[former] = recipe.pop(name)
    path.write_text(json.dumps(document))
    runs.save_checkpoint(trainer.folder, trainer.state, trainer.scheduled, 3, 1.5)
    runs.save_recipe(trainer.folder, SMALL, trainer.subject)
    assert runs.load_checkpoint(trainer.folder, trainer.state, trainer.scheduled) == (3, 1.5)
