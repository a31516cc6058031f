"""A run becomes a bundle that is what the network was, proven against Captum, or no bundle."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from service.bundle import folder as contract
from service.bundle.manifest import Parity
from service.runtime.engine import Engine
from support.servers import ROOT
from training.data.read import check_same
from training.export import parity
from training.reliability.familiarity import TEXTURE


@pytest.fixture(scope="module")
def made(bundle):
    return Engine(bundle, "cpu")


def test_the_bundle_answers_as_the_network_does(made, run, dataset):
    x = torch.from_numpy(made.normalise(dataset.test.pixels))
    with torch.no_grad():
        expected, features = run.network(x).numpy(), run.network.features(x).numpy()
    found = made.predict(dataset.test.pixels)
    assert np.abs(found.logits - expected).max() < 1e-4
    width, lengths = features.shape[1], np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(found.features[:, :width] - features / lengths).max() < 1e-4
    assert np.abs(np.linalg.norm(found.features[:, width:], axis=1) - TEXTURE).max() < 1e-4
    assert found.features.shape[1] == made.manifest.features


def test_normalisation_is_inside_the_graph(bundle):
    graph = onnx.load_model_from_string(bundle.read(contract.PREDICT)).graph
    (image,) = graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [
        "N",
        32,
        32,
        3,
    ]


@pytest.mark.parametrize("name", [contract.PREDICT, contract.GRADIENT, contract.CAM])
def test_graphs_have_opset_20_and_name_no_file(name, bundle):
    content = bundle.read(name)
    model = onnx.load_model_from_string(content)
    assert [(o.domain, o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")] == [
        ("", 20)
    ]
    assert b".py" not in content
    assert str(ROOT).encode() not in content


def test_parity_is_measured_and_written(bundle):
    assert set(bundle.manifest.parity) == {
        "saliency",
        "input_x_gradient",
        "integrated_gradients",
        "grad_cam",
    }
    for measured in bundle.manifest.parity.values():
        assert measured.against == "captum"
        assert measured.relative_difference <= 2e-6
        assert measured.cosine >= 0.999


def test_the_embedded_bundle_holds_its_parity(embedded):
    assert {entry.pictures for entry in embedded.manifest.parity.values()} == {64}
    assert max(entry.relative_difference for entry in embedded.manifest.parity.values()) <= 2e-6
    assert min(entry.cosine for entry in embedded.manifest.parity.values()) >= 0.999


def test_the_embedded_bundle_says_how_good_it_is(embedded):
    report = json.loads(embedded.read(contract.REPORT))["test"]
    assert report["pictures"] == 8000
    assert report["classes"]["macro avg"]["f1-score"] >= 0.90
    assert "Data: cifar10-jpeg" in embedded.read(contract.CARD).decode()


def test_a_bundle_of_another_network_is_refused(made, run, dataset):
    other = parity.copy_of(run.network)
    with torch.no_grad():
        other.head.weight.mul_(1.001)
        other.body[0].weight.add_(0.01)
    measured = parity.measure(made, other, dataset.validation.pixels)
    with pytest.raises(parity.ParityError, match="differs from captum: median relative difference"):
        parity.check(measured)


def test_a_wrong_direction_is_refused():
    with pytest.raises(parity.ParityError, match=r"cosine 0.5"):
        parity.check({"saliency": Parity("captum", 64, 1e-7, 0.5)})


@pytest.mark.parametrize("numbers", [(float("nan"), 1.0), (1e-7, float("nan"))])
def test_what_is_no_number_is_refused(numbers):
    with pytest.raises(parity.ParityError, match="nan"):
        parity.check({"saliency": Parity("captum", 64, *numbers)})


def test_comparing_takes_medians_over_images():
    ours = np.ones((3, 1, 2, 2), np.float32)
    theirs = torch.ones(3, 1, 2, 2)
    theirs[0] = -5
    theirs[1, 0, 0, 0] = 2
    found = parity.compare(ours, theirs)
    assert found.relative_difference == pytest.approx(0.5)
    assert (found.pictures, found.against) == (3, "captum")


def test_an_all_zero_map_does_not_divide_by_zero():
    assert (
        parity.compare(
            np.zeros((2, 1, 2, 2), np.float32), torch.zeros(2, 1, 2, 2)
        ).relative_difference
        == 0
    )


def test_provenance_says_how_it_was_made(bundle, run, dataset):
    told = bundle.manifest.provenance
    assert told["data"] == {"name": "discs", "fingerprint": dataset.fingerprint}
    assert told["recipe"]["seed"] == run.recipe.seed
    assert {"python", "torch", "onnx", "captum"} <= set(told["versions"])


def test_other_data_is_refused(dataset, tmp_path):
    from training.data.read import DataError

    with pytest.raises(DataError, match="name that with --data"):
        check_same(replace(dataset, fingerprint="0" * 64), dataset.fingerprint, tmp_path)


def test_the_command_line_trains_exports_and_tells(drawn, tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "training", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    folder, out = tmp_path / "run", tmp_path / "bundle"
    fitted = command(
        "fit",
        "--network",
        "seed_cnn",
        "--data",
        drawn,
        "--out",
        folder,
        "--epochs",
        "2",
        "--held-out",
        "30",
        "--device",
        "cpu",
    )
    assert fitted.returncode == 0, fitted.stderr
    assert "macro avg" in fitted.stdout
    done = command("bundle", "--run", folder, "--out", out, "--name", "discs", "--half")
    assert done.returncode == 0, done.stderr
    assert "differs from captum by" in done.stdout
    assert "half/saliency          differs from float32 by" in done.stdout
    assert contract.load(out).manifest.name == "discs"
    assert set(contract.HALVES.values()) <= set(contract.load(out).manifest.files)
    refused = command("bundle", "--run", tmp_path, "--out", out)
    assert refused.returncode == 1
    assert "holds no finished run" in refused.stderr
    assert "Traceback" not in refused.stderr
