"""The audit names a planted bias of the network that learnt it, and of no other network."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from support import images
from training import audit
from training.__main__ import main
from training.data import planted, read
from training.export.bundle import make_bundle
from training.fit.loop import train

CLASSES = ("across", "along", "slanted")


def striped(kind, seed):
    """Grey stripes of one direction with noise: uint8 (32, 32, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    place = {"across": y, "along": x, "slanted": (x + y) / np.sqrt(2)}[kind]
    waves = 128 + rng.uniform(30, 60) * np.sin(
        place * rng.uniform(0.7, 1.1) + rng.uniform(0, 2 * np.pi)
    )
    return np.clip(
        (waves + rng.normal(0, 10, (32, 32)))[..., None].repeat(3, axis=2), 0, 255
    ).astype(np.uint8)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    root = tmp_path_factory.mktemp("stripes")
    for split, count, first in (("train", 120, 0), ("test", 60, 10_000)):
        for number, kind in enumerate(CLASSES):
            place = root / split / kind
            place.mkdir(parents=True)
            for row in range(count):
                (place / f"{row}.png").write_bytes(
                    images.encode(striped(kind, first + 1000 * number + row))
                )
    return root


def biased_copy(source, share, folder):
    """The folder that the command writes."""
    done = CliRunner().invoke(
        main, ["plant-bias", "--data", str(source), "--out", str(folder), "--share", str(share)]
    )
    assert done.exit_code == 0, done.output
    return folder


def report_on(source, recipe, folder):
    """The sections of the audit that findings need, for a network trained on `source`."""
    dataset = read.read(str(source), recipe.input(), recipe.held_out, recipe.seed)
    run = train(dataset, str(source), recipe, folder / "run", accelerator="cpu")
    bundle = make_bundle(run, dataset, folder / "bundle", "stripes")
    wanted = ("test", "calibration", "bias")
    return audit.audit(
        bundle, dataset, 0, lambda sections: {name: sections[name]() for name in wanted}, 20.0
    )


def colours_of(pixels):
    """The number of the class whose colour each image has."""
    hues = planted.colours(len(CLASSES))
    means = pixels.mean((1, 2))
    return (means - means.mean(1, keepdims=True)) @ (hues - hues.mean(1, keepdims=True)).T


def test_a_share_of_each_class_has_its_colour_and_test_images_have_any(stripes, recipe, tmp_path):
    splits = read.read_splits(str(biased_copy(stripes, 0.9, tmp_path / "biased")), recipe.input())[
        0
    ]
    own = {
        split: colours_of(part.pixels).argmax(1) == part.labels for split, part in splits.items()
    }
    assert own["train"].mean() == pytest.approx(0.9 + 0.1 / 3, abs=0.03)
    assert own["test"].mean() == pytest.approx(1 / 3, abs=0.1)


def test_the_same_seed_gives_the_same_images(stripes, recipe, tmp_path):
    folders = [biased_copy(stripes, 0.9, tmp_path / name) for name in ("first", "second")]
    first, second = (
        read.read(str(folder), recipe.input(), 30, 0).fingerprint for folder in folders
    )
    assert first == second


def test_a_folder_with_files_is_not_overwritten(stripes):
    done = CliRunner().invoke(main, ["plant-bias", "--data", str(stripes), "--out", str(stripes)])
    assert done.exit_code == 1
    assert "name an empty or a new folder" in done.output


def test_the_audit_finds_the_planted_bias_and_none_in_the_fair_counterpart(
    stripes, recipe, tmp_path
):
    brief = replace(recipe, epochs=4)  # after twelve it relies on the stripes instead
    biased, fair = (
        report_on(biased_copy(stripes, share, tmp_path / name), brief, tmp_path / f"{name}-made")
        for name, share in (("biased", 0.95), ("fair", 0.0))
    )
    assert any(finding.startswith("colour decides: of ") for finding in biased["findings"]), biased[
        "bias"
    ]["colour"]
    assert not any("colour" in finding for finding in fair["findings"]), fair["findings"]
    assert biased["bias"]["colour"]["colour"] > 0.5 > fair["bias"]["colour"]["colour"]
    assert biased["test"]["accuracy"] < fair["test"]["accuracy"] - 0.2
