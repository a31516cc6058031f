"""The network of a bundle for torch: predict.onnx from x to the logits, operator by operator.

It knows the operators of the embedded bundles. Pools and norms are folded as they are in the file,
which is faster than the network as it was trained; `as_trained` has them unfolded.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from training.networks.folding import pooled_filters
from training.networks.ours import CandorNet

# Of a norm: the exporter folds it into that of the convolution before it.
_FOLDED_BIAS = re.compile(r"norms\.(\d+)\.bias")
Values = dict[str, Tensor]


class TorchGraph(torch.nn.Module):
    """The logits (N, K) of x, float32 (N, 3, H, W)."""

    def __init__(self, predict: bytes) -> None:
        """Reads predict.onnx.

        Raises:
            KeyError: it has an operator that is not known here.
        """
        super().__init__()
        model = onnx.load_model_from_string(predict)
        self._nodes = [(_RULES[node.op_type], node, _attributes(node)) for node in _core(model)]
        self._constants = {
            each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
            for each in model.graph.initializer
        }

    def forward(self, x: Tensor) -> Tensor:
        """Runs the operators."""
        values = {**self._constants, "x": x}
        for rule, node, given in self._nodes:
            inputs = [values[name] for name in node.input if name]
            values[node.output[0]] = rule(given, *inputs)
        return values["logits"]


def as_trained(predict: bytes) -> CandorNet:
    """The candor_net of predict.onnx as it was trained, its pools and norms behind convolutions.

    Raises:
        KeyError: it is no candor_net.
    """
    model = onnx.load_model_from_string(predict)
    folded = {
        each.name.removeprefix("network."): numpy_helper.to_array(each).copy()
        for each in model.graph.initializer
    }
    network = CandorNet(len(folded["head.weight"]))
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            values = folded.get(_FOLDED_BIAS.sub(r"convolutions.\1.weight_bias", name))
            if values is None and tensor.requires_grad:
                raise KeyError(name)
            if values is not None:  # else the scale of a norm, which is 1
                tensor.copy_(torch.from_numpy(_unpooled(values, tensor.shape)))
    return network.eval()


def _unpooled(filters: np.ndarray, shape: torch.Size) -> np.ndarray:
    """The filters of `shape` that `filters` were pooled from, if they were."""
    if filters.shape == shape:
        return filters
    out, channels, height, width = shape
    units = np.eye(height * width, dtype=np.float32).reshape(-1, 1, height, width)
    pooled = pooled_filters(units, filters.shape[-1] - width + 1).reshape(len(units), -1)
    found = filters.reshape(out * channels, -1) @ np.linalg.pinv(pooled)
    return found.reshape(shape).astype(np.float32)


def _core(model: ModelProto) -> list[NodeProto]:
    """The operators between x and the logits, in their order."""
    needed, found = {"logits"}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output) and "x" not in node.output:
            found.append(node)
            needed.update(node.input)
    return found[::-1]


def _attributes(node: NodeProto) -> Mapping[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _conv(
    given: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(
        padded, weight, bias, tuple(given.get("strides", (1, 1))), groups=given.get("group", 1)
    )


def _average(given: Mapping[str, Any], x: Tensor) -> Tensor:
    return functional.avg_pool2d(
        x,
        tuple(given["kernel_shape"]),
        tuple(given.get("strides", (1, 1))),
        tuple(given.get("pads", (0, 0)))[:2],
        count_include_pad=bool(given.get("count_include_pad", 0)),
    )


def _mean(given: Mapping[str, Any], x: Tensor, axes: Tensor) -> Tensor:
    return x.mean(tuple(axes.tolist()), keepdim=bool(given.get("keepdims", 1)))


def _gemm(
    _given: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    return functional.linear(x, weight, bias)  # of the embedded bundles: transB, no factors


_RULES: Mapping[str, Callable[..., Tensor]] = {
    "Add": lambda _, a, b: a + b,
    "AveragePool": _average,
    "Clip": lambda _, x, low, high: x.clamp(low, high),
    "Conv": _conv,
    "Gelu": lambda _, x: functional.gelu(x),
    "Gemm": _gemm,
    "Identity": lambda _, x: x,
    "ReduceMean": _mean,
}
