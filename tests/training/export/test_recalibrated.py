"""A bundle is calibrated again on the images that its training held out, or on others."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from service.bundle import folder as contract
from training.__main__ import main
from training.data import DataError
from training.export.recalibrated import recalibrate


def test_the_held_out_images_of_the_training_give_the_same_calibration(bundle, drawn, tmp_path):
    changed = replace(bundle.manifest, temperature=9.0, prediction_sets=None)
    files = {name: bundle.read(name) for name in changed.files}
    made = contract.write(tmp_path / "changed", changed, files)
    command = ["calibrate", str(made.folder), "--data", str(drawn), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert contract.load(tmp_path / "out").manifest == bundle.manifest
    assert "audit the bundle" in done.stderr


def test_images_of_other_data_are_all_taken(bundle, drawn, tmp_path):
    foreign = replace(bundle.manifest, provenance={})
    made = contract.write(
        tmp_path / "made", foreign, {name: bundle.read(name) for name in foreign.files}
    )
    result, without_int8 = recalibrate(made, str(drawn), tmp_path / "out")
    assert not without_int8
    assert result.manifest.prediction_sets.pictures == 150


def test_data_of_the_same_name_with_other_images_are_refused(bundle, drawn, tmp_path):
    data = bundle.manifest.provenance["data"] | {"fingerprint": "0" * 64}
    manifest = replace(bundle.manifest, provenance=bundle.manifest.provenance | {"data": data})
    made = contract.write(
        tmp_path / "made", manifest, {name: bundle.read(name) for name in manifest.files}
    )
    with pytest.raises(DataError, match="may hold images that the network was trained on"):
        recalibrate(made, str(drawn), tmp_path / "out")
