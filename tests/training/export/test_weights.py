"""Weights of EfficientNet-Lite0 become an ONNX file that predicts as the torch network does."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner

from training.__main__ import main
from training.export.foreign import weights_of
from training.export.weights import CLASSES, SIZE, export, network_with
from training.networks.efficientnet_lite import EfficientNetLite0
from training.networks.weights import WeightsError, read


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights at random, with statistics of batch norms that are not those of a start."""
    torch.manual_seed(0)
    network = EfficientNetLite0(CLASSES)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(network.state_dict(), path)
    return path


def test_the_file_predicts_as_the_network_and_names_its_weights(weights, tmp_path):
    file = tmp_path / "lite0.onnx"
    done = CliRunner().invoke(main, ["export-weights", str(weights), "--out", str(file)])
    assert done.exit_code == 0, done.output
    model = onnx.load(file)
    assert {node.op_type for node in model.graph.node} == {
        *("Conv", "Clip", "Add", "ReduceMean", "Gemm")
    }
    assert weights_of(file) == {"weights": read(weights).provenance}
    x = np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        theirs = network_with(read(weights))(torch.from_numpy(x)).numpy()
    ours = session.run(["logits"], {"x": x})[0]
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_metadata_of_others_names_no_weights(weights, tmp_path):
    model = export(weights)
    model.metadata_props[0].value = "the best ones"
    onnx.save(model, tmp_path / "theirs.onnx")
    assert weights_of(tmp_path / "theirs.onnx") == {}


def test_weights_of_another_network_or_of_other_classes_are_rejected(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"head.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="another network"):
        export(path)
    torch.save(EfficientNetLite0(2).state_dict(), path)
    with pytest.raises(WeightsError, match="another head than one of 1,000 classes"):
        export(path)
