"""A run becomes a bundle that answers as its network does, proven against Captum."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from service.bundle import folder as contract
from service.bundle.reference import Nearest, Reference
from service.runtime.engine import Engine
from support.servers import ROOT
from support.watch import Watch
from training.__main__ import main
from training.data.read import check_same, read
from training.export.bundle import make_bundle
from training.fit import runs
from training.fit.defaults import recipe_of
from training.fit.loop import train
from training.reliability.familiarity import TEXTURE


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu")


def test_the_bundle_answers_as_the_network_does(engine, run, dataset):
    x = torch.from_numpy(engine.normalise(dataset.test.pixels))
    with torch.no_grad():
        expected, features = run.network(x).numpy(), run.network.features(x).numpy()
    result = engine.predict(dataset.test.pixels)
    assert np.abs(result.logits - expected).max() < 1e-4
    width, lengths = features.shape[1], np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(result.features[:, :width] - features / lengths).max() < 1e-4
    assert np.abs(np.linalg.norm(result.features[:, width:], axis=1) - TEXTURE).max() < 1e-4
    assert result.features.shape[1] == engine.manifest.features


@pytest.mark.parametrize("name", [contract.PREDICT, contract.GRADIENT, contract.CAM])
def test_graphs_have_opset_20_and_name_no_file(name, bundle):
    content = bundle.read(name)
    model = onnx.load_model_from_string(content)
    assert [(o.domain, o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")] == [
        ("", 20)
    ]
    assert b".py" not in content
    assert str(ROOT).encode() not in content


def test_proof_and_parity_are_measured_and_written(bundle):
    measured = bundle.manifest.parity
    methods = {"saliency", "input_x_gradient", "integrated_gradients", "grad_cam"}
    graphs = {
        f"{kind}/{name}"
        for kind in ("exact", "float64")
        for name in ("logits", "saliency", "grad_cam")
    }
    layers = [layer.name for layer in bundle.manifest.layers[1:]]
    earlier = {f"{kind}grad_cam_{layer}" for kind in ("exact/", "") for layer in layers}
    assert set(measured) == methods | graphs | earlier
    for name in methods:
        assert measured[name].against == "captum"
        assert measured[name].relative_difference <= 2e-6
        assert measured[name].cosine >= 0.999
    for name in graphs | earlier:
        assert measured[name].relative_difference <= 1e-5


def test_the_embedded_bundle_holds_its_parity(embedded):
    entries = embedded.manifest.parity
    in_float32 = [entry for name, entry in entries.items() if not name.startswith("bfloat16/")]
    assert {entry.pictures for entry in entries.values()} == {64}
    assert max(entry.relative_difference for entry in in_float32) <= 2e-6
    assert min(entry.cosine for entry in in_float32) >= 0.999
    assert min(entry.cosine for entry in entries.values()) >= 0.99


def test_the_embedded_bundle_has_a_report_and_a_card(embedded):
    report = json.loads(embedded.read(contract.REPORT))["test"]
    assert report["pictures"] == 8000
    assert report["classes"]["macro avg"]["f1-score"] >= 0.90
    assert "Data: cifar10-jpeg" in embedded.read(contract.CARD).decode()


def test_provenance_names_data_recipe_and_versions(bundle, run, dataset):
    provenance = bundle.manifest.provenance
    assert provenance["data"] == {"name": "discs", "fingerprint": dataset.fingerprint}
    assert provenance["recipe"]["seed"] == run.recipe.seed
    assert {"python", "torch", "onnx", "captum"} <= set(provenance["versions"])


def test_a_bundle_of_other_data_is_an_error(dataset, tmp_path):
    from training.data import DataError

    with pytest.raises(DataError, match="name that with --data"):
        check_same(replace(dataset, fingerprint="0" * 64), dataset.fingerprint, tmp_path)


def test_a_network_of_torchvision_becomes_a_bundle_with_all_of_its_parts(drawn, tmp_path):
    recipe = replace(
        recipe_of("shufflenet_v2_x0_5"),
        size=64,
        epochs=1,
        batch=30,
        ghost_batch=30,
        held_out=30,
    )
    images = read(str(drawn), recipe.input(), recipe.held_out, recipe.seed)
    run = train(images, str(drawn), recipe, tmp_path / "run", accelerator="cpu")
    run = replace(run, recipe=replace(recipe, weights={"name": "its.pth", "sha256": "0" * 64}))
    made = make_bundle(run, images, tmp_path / "bundle", "discs")
    assert {contract.GRADIENT, contract.CAM, contract.REFERENCE} <= set(made.manifest.files)
    assert made.manifest.input.size == 64
    assert made.manifest.familiarity.evidence == "neighbours"
    assert made.manifest.provenance["weights"]["name"] == "its.pth"
    assert "from the weights its.pth (000000000000…)" in made.read(contract.CARD).decode()
    measured = made.manifest.parity
    assert measured["saliency"].against == "captum"
    # Batch norms are folded, and their weights rounded.
    for name in ("logits", "saliency", "grad_cam"):
        assert measured[f"float64/{name}"].relative_difference < 1e-2
    engine = Engine(made, "cpu")
    with torch.no_grad():
        expected = run.network(torch.from_numpy(engine.normalise(images.test.pixels))).numpy()
    logits = engine.predict(images.test.pixels).logits
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_network_trained_on_rectangles_becomes_a_bundle_of_rectangles(drawn, recipe, tmp_path):
    wide = replace(recipe, network="support.networks:small", epochs=1, size=(24, 40), crop=0.4)
    images = read(str(drawn), wide.input(), wide.held_out, wide.seed)
    run = train(images, str(drawn), wide, tmp_path / "run", accelerator="cpu")
    assert runs.load(tmp_path / "run").recipe == wide
    made = make_bundle(run, images, tmp_path / "bundle", "discs")
    assert made.manifest.input.size == (24, 40)
    assert made.manifest.parity["float64/saliency"].relative_difference < 1e-5
    assert made.manifest.parity["saliency"].against == "captum"


def test_the_command_line_trains_and_exports_and_calls_nobody(drawn, tmp_path):
    watch = Watch(tmp_path)

    def command(*arguments):
        return subprocess.run(
            watch.command(sys.executable, "-m", "training", *arguments),
            cwd=ROOT,
            env=watch.environment(),
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
        "10",  # more than a guess on any processor
        "--held-out",
        "30",
        "--device",
        "cpu",
    )
    assert fitted.returncode == 0, fitted.stderr
    assert "macro avg" in fitted.stdout
    options = ("--name", "discs", "--half", "--with-pictures")
    done = command("bundle", "--run", folder, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    reference = Reference.of(contract.load(out), None)
    assert reference.describe(Nearest(0, 1.0))["picture"] == "/reference/0"
    with Image.open(drawn / reference.names[0]) as original:
        expected = np.asarray(original.convert("RGB"), float)
    with Image.open(io.BytesIO(reference.image(0))) as view:
        assert np.abs(np.asarray(view, float) - expected).mean() < 12, "a small view of it"
    assert "differs from captum by" in done.stdout
    assert "half/saliency          differs from float32 by" in done.stdout
    assert contract.load(out).manifest.name == "discs"
    assert set(contract.HALVES.values()) <= set(contract.load(out).manifest.files)
    assert watch.calls == []
    assert watch.files == []
    failed = command("bundle", "--run", tmp_path, "--out", out)
    assert failed.returncode == 1
    assert "holds no finished run" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_network_that_guesses_is_bundled_on_request_alone_and_the_bundle_says_so(
    dataset, drawn, recipe, tmp_path
):
    blind = replace(recipe, epochs=1, learning_rate_scale=0.0)
    train(dataset, str(drawn), blind, tmp_path / "run", accelerator="cpu")
    arguments = ["bundle", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "bundle")]
    rejected = CliRunner().invoke(main, arguments)
    assert rejected.exit_code == 1
    assert "is no better than guessing: accuracy 0." in rejected.stderr
    assert "on 30 test images, and always answering blue would have 0.333" in rejected.stderr
    assert "or add --anyway for a bundle that says so" in rejected.stderr
    assert not (tmp_path / "bundle").exists()

    made = CliRunner().invoke(main, [*arguments, "--anyway"])
    assert made.exit_code == 0, made.stderr
    written = contract.load(tmp_path / "bundle")
    remark = written.manifest.provenance["no_better_than_guessing"]
    assert remark.startswith("no better than guessing: accuracy 0.")
    assert f"**Do not rely on it:** it is {remark}." in written.read(contract.CARD).decode()
