"""A bias that was planted is named by the audit of the network that learnt it, and by no other."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from service.runtime.engine import Engine
from support import images
from training import audit
from training.__main__ import main
from training.audit import findings
from training.audit.measures import colour
from training.data import planted, read
from training.export.bundle import make_bundle
from training.fit.loop import train

CLASSES = ("across", "along", "slanted")


def striped(kind, seed):
    """Grey stripes of one direction, somewhere, with noise: uint8 (32, 32, 3)."""
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


def made(source, share, folder):
    """The folder that the command leaves."""
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
        bundle, dataset, 0, lambda sections: {name: sections[name]() for name in wanted}
    )


def colours_of(pixels):
    """The number of the class whose colour each image has."""
    hues = planted.colours(len(CLASSES))
    means = pixels.mean((1, 2))
    return (means - means.mean(1, keepdims=True)) @ (hues - hues.mean(1, keepdims=True)).T


def test_the_share_has_the_colour_of_its_class_and_the_test_images_any(stripes, recipe, tmp_path):
    found = read.read_splits(str(made(stripes, 0.9, tmp_path / "biased")), recipe.input(), 0)[0]
    own = {split: colours_of(part.pixels).argmax(1) == part.labels for split, part in found.items()}
    assert own["train"].mean() == pytest.approx(0.9 + 0.1 / 3, abs=0.03)
    assert own["test"].mean() == pytest.approx(1 / 3, abs=0.1)


def test_the_same_seed_gives_the_same_images(stripes, recipe, tmp_path):
    folders = [made(stripes, 0.9, tmp_path / name) for name in ("first", "second")]
    first, second = (
        read.read(str(folder), recipe.input(), 30, 0).fingerprint for folder in folders
    )
    assert first == second


def test_a_folder_with_files_is_left_alone(stripes):
    done = CliRunner().invoke(main, ["plant-bias", "--data", str(stripes), "--out", str(stripes)])
    assert done.exit_code == 1
    assert "name an empty or a new folder" in done.output


def test_the_audit_names_the_planted_bias_and_finds_none_where_there_is_none(
    stripes, recipe, tmp_path
):
    brief = replace(recipe, epochs=4)  # after twelve it looks at the stripes after all
    biased, fair = (
        report_on(made(stripes, share, tmp_path / name), brief, tmp_path / f"{name}-made")
        for name, share in (("biased", 0.95), ("fair", 0.0))
    )
    assert any(finding.startswith("colour decides: of ") for finding in biased["findings"]), biased[
        "bias"
    ]["colour"]
    assert not any("colour" in finding for finding in fair["findings"]), fair["findings"]
    assert biased["bias"]["colour"]["colour"] > 0.5 > fair["bias"]["colour"]["colour"]
    assert biased["test"]["accuracy"] < fair["test"]["accuracy"] - 0.2


def test_recoloured_images_have_the_colours_of_their_givers_and_their_own_brightness():
    rng = np.random.default_rng(0)
    grey = rng.integers(90, 166, (6, 16, 16, 1), np.uint8).repeat(3, axis=-1)
    giver = planted.tinted(rng.integers(100, 156, (6, 16, 16, 3), np.uint8), planted.colours(6))
    for own in (grey, giver[::-1]):
        after = colour.recoloured(own, giver)
        wanted, found, before = (
            (pixels @ colour.TO_YCC.T).mean((1, 2)) for pixels in (giver, after, own)
        )
        assert np.abs(found[:, 0] - before[:, 0]).max() < 1
        assert np.abs(found[:, 1:] - wanted[:, 1:]).max() < 2
    assert np.abs(colour.recoloured(giver, giver).astype(int) - giver).max() <= 1


def test_a_blue_thing_on_grey_becomes_a_red_thing_on_grey():
    after = colour.recoloured(images.draw("blue")[None], images.draw("red", seed=1)[None])[0]
    blue = images.draw("blue").astype(int)
    disc = np.ptp(blue, axis=-1) > 60
    assert (after[disc][:, 0] > after[disc][:, 2]).mean() > 0.95
    assert np.ptp(after[~disc].astype(int), axis=-1).mean() < 20


def test_a_network_of_colours_loses_every_conflict_to_them(bundle, dataset):
    found = colour.conflicts(Engine(bundle, "cpu"), dataset.test.pixels, seed=0)
    assert found["colour"] > 0.8, "these discs differ by their colour alone"
    assert found["p_value"] < findings.P_VALUE


def test_what_chance_can_do_is_not_called_a_decision():
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(200):
        wins = rng.uniform(size=60) < 0.5
        names = rng.choice([*"abcdef"], 60).tolist()
        found = colour.told(wins, ~wins, names)
        named += (
            min(entry["p_value"] for entry in (found, *found["by_answer"].values()))
            < findings.P_VALUE
        )
    assert named / 200 <= findings.P_VALUE + 0.03


def test_one_answer_that_colour_decides_is_named_alone():
    rng = np.random.default_rng(0)
    names = np.array(["ship", "cat", "dog"]).repeat(40)
    wins = np.where(names == "ship", rng.uniform(size=120) < 0.9, rng.uniform(size=120) < 0.1)
    sentences = list(findings._colour(colour.told(wins, ~wins, names.tolist())))
    assert len(sentences) == 1
    assert sentences[0].startswith("colour decides for ship: of 40 images")
