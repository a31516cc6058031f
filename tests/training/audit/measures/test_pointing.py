"""Maps point at the patch that decides: every method on planted images, and a moved map fails."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.explain import METHODS, Target
from service.runtime.engine import Engine
from support import toys
from training.__main__ import main
from training.audit.measures import pointing
from training.data import patches
from training.data.planted import colours
from training.export.core import graphs, layers_of, name_layers

IMAGES = 12
FLOOR = 0.95
# Of maps whose cells or windows are as large as the patch, which may lie across four of them.
COARSE = {
    "grad_cam, last": 0.75,
    "grad_cam_plus_plus, last": 0.75,
    "layer_cam, last": 0.75,
    "occlusion": 0.6,
}
CHEAP = {"samples": 128, "max_samples": 128}
FAULTS = {
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "transposed": np.transpose,
    "half a patch to the right": lambda values: np.roll(values, 2, 1),
    "half a patch down": lambda values: np.roll(values, 2, 0),
    "negated": np.negative,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle whose logits count the pixels of each colour of the planted patches."""
    centred = colours(6) / 255 - (colours(6) / 255).mean(1, keepdims=True)
    filters = centred / np.square(centred).sum(1, keepdims=True)
    mean, std = (np.array(values) for values in (toys.SPEC.mean, toys.SPEC.std))
    same = 4 * np.eye(6)[:, :, None, None]
    weights = {
        "K": (filters * std)[:, :, None, None],
        "b": filters @ mean - 0.5,  # 0.75 of the colour passes, and no grey
        "S": same,
        "W": 10 * np.eye(6),
    }
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        ("Conv", ["x", "K", "b"], ["z0"]),
        ("Relu", ["z0"], ["a0"]),
        ("AveragePool", ["a0"], ["p0"], pool),
        ("Conv", ["p0", "S"], ["z1"]),
        ("Relu", ["z1"], ["a1"]),
        ("AveragePool", ["a1"], ["p1"], pool),
        ("Conv", ["p1", "S"], ["z2"]),
        ("Relu", ["z2"], ["a2"]),
        ("GlobalAveragePool", ["a2"], ["mean"]),
        ("Flatten", ["mean"], ["flat"]),
        ("Gemm", ["flat", "W"], ["logits"]),
    ]
    core = toys.core_of(nodes, {k: v.astype(np.float32) for k, v in weights.items()}, 6)
    name_layers(core.model, ["a2", "a1", "a0"])
    made = graphs(core, toys.SPEC)
    manifest = Manifest("eye", patches.CLASSES, toys.SPEC, layers=layers_of(made))
    return contract.write(tmp_path_factory.mktemp("eye") / "eye", manifest, made).folder


@pytest.fixture(scope="module")
def eye(folder):
    return Engine(contract.load(folder), "cpu", 1)


@pytest.fixture(scope="module")
def drawn():
    return patches.draw(IMAGES, 0, toys.SIZE)


@pytest.fixture(scope="module")
def maps(eye, drawn):
    """By question, the map of each image."""
    found = {}
    for name, question in pointing.questions(eye.manifest).items():
        given = {key: CHEAP.get(key, value) for key, value in question.parameters.items()}
        found[name] = [
            question.method.compute(eye, image, Target(label), None, **given).map
            for image, label in zip(drawn.pixels, drawn.labels.tolist(), strict=True)
        ]
    return found


def below_floor(maps, drawn, fault=lambda values: values):
    """The questions whose maps point too seldom."""
    found = {
        name: np.mean(
            [
                pointing.scores(fault(values), patch).pointing
                for values, patch in zip(rows, drawn.patches, strict=True)
            ]
        )
        for name, rows in maps.items()
    }
    return {name for name, share in found.items() if share < COARSE.get(name, FLOOR)}


def test_the_network_knows_the_patches(eye, drawn):
    assert np.array_equal(eye.predict(drawn.pixels).logits.argmax(1), drawn.labels)


def test_every_method_points_at_the_patch_at_every_layer_and_by_all_segments(maps, drawn):
    assert below_floor(maps, drawn) == set()
    covered = {name.split(",")[0] for name in maps}
    assert covered == set(METHODS) - {"attn_lrp"}  # which is for transformers
    assert {"layer_cam, last", "layer_cam, middle", "layer_cam, early"} < set(maps)
    assert {"lime, grid", "lime, superpixels"} < set(maps)


@pytest.mark.parametrize("fault", FAULTS)
def test_maps_that_are_moved_turned_or_negated_fail(fault, maps, drawn):
    assert below_floor(maps, drawn, FAULTS[fault]) == set(maps)


def test_maps_that_no_network_made_do_not_point(drawn):
    for opponent in pointing.OPPONENTS.values():
        rows = [opponent(image) for image in drawn.pixels]
        assert below_floor({"occlusion": rows}, drawn)


def test_the_figures_of_a_map_are_those_of_their_definitions():
    patch = np.array([[True, True], [False, False]])
    # Two strongest pixels, one of them right; 2 of 5 positive; ranks 1 and 3 of the right ones.
    found = pointing.scores(np.array([[2, 0], [2, 1]], np.float32), patch)
    assert found == (0.5, 0.4, pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 4))
    assert pointing.scores(np.array([[3, 1], [-5, -9]], np.float32), patch) == (1, 1, 1)


def test_a_map_of_nothing_gets_the_share_of_the_patch():
    patch = np.zeros((4, 4), bool)
    patch[0, :2] = True
    for value in (0, -1):
        found = pointing.scores(np.full((4, 4), value, np.float32), patch)
        assert found == (0.125, 0, 0.125)


def test_a_folder_with_a_bundle_is_measured_and_gets_a_table(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bundle")
    done = CliRunner().invoke(main, ["planted", "--out", str(tmp_path), "--images", "3"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "planted.json").read_text())
    assert (found["pictures"], found["accuracy"], found["seed"]) == (3, 1.0, 0)
    assert found["bundle"] == contract.load(folder).manifest.version
    gradients = found["maps"]["integrated_gradients"]
    assert gradients["pointing"] == 1
    assert gradients["pointing_interval"] == pytest.approx([0.4385, 1], abs=1e-4)
    assert gradients["energy_interval"][0] <= gradients["energy"] <= 1
    assert found["maps"]["rise"]["forward_passes"] == 256  # which are not doubled
    rows = (tmp_path / "planted.md").read_text().splitlines()
    assert "| `kernel_shap`, superpixels | 258 | 1.000 (0.439–1.000)" in "\n".join(rows)
    assert {row.split(" | ")[0] for row in rows[-2:]} <= {"| blob", "| edges", "| `occlusion`"}


def test_a_bundle_of_other_classes_is_rejected(tmp_path):
    toys.linear(tmp_path)
    given = ["planted", "--out", str(tmp_path / "out"), "--bundle", str(tmp_path / "toy")]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 1
    assert "toy is no bundle of planted images: its labels are not those of --data" in done.output
    assert not (tmp_path / "out").exists()
