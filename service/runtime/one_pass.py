"""Graphs for a prediction with its class activation map in one pass, made of those of a bundle.

A prediction computes the activation of the last layer on its way. With it, the map needs no second
pass: what follows that layer, the head, is differentiated alone.

    explained    predict.onnx, which on request gives `activation/last` float32 (N, C, h, w), too
    head         the end of cam.onnx: an activation (N, C, h, w) and target int64 (N,) → logits
                 float32 (N, K) and, of the target's, activation_gradient float32 (N, C, h, w)

Both have the operators and the weights of the bundle's own.
"""

import onnx
from onnx import TensorProto, helper
from onnx.utils import Extractor

ACTIVATION = "activation/last"
TARGET, LOGITS, GRADIENT = "target", "logits", "activation_gradient"
NAMED = "activation"  # in predict.onnx, and as an output of cam.onnx


def explained_graph(predict: bytes) -> bytes | None:
    """The explained graph, of the file predict.onnx; None if that names no layer."""
    model = onnx.load_model_from_string(predict)
    if not any(NAMED in node.output for node in model.graph.node):
        return None
    model.graph.node.append(helper.make_node("Identity", [NAMED], [ACTIVATION]))
    model.graph.output.append(helper.make_tensor_value_info(ACTIVATION, TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def head_graph(cam: bytes) -> bytes | None:
    """The head, of the file cam.onnx; None if the logits have another way from the image, too."""
    model = onnx.load_model_from_string(cam)
    (layer,) = (node.input[0] for node in model.graph.node if NAMED in node.output)
    (info,) = (output for output in model.graph.output if output.name == NAMED)
    described = model.graph.value_info.add()
    described.CopyFrom(info)
    described.name = layer
    head = Extractor(model).extract_model([layer, TARGET], [LOGITS, GRADIENT])
    if any("x" in node.input for node in head.graph.node):
        return None
    onnx.checker.check_model(head)
    return bytes(head.SerializeToString())
