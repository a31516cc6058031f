"""Every rule alone equals central differences in float64, and runs on ONNX Runtime in float32.

Where a case names a function of torch, the gradient equals that of torch. Where onnx-ad, another
project, has a rule for the case, the gradient equals that of onnx-ad.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ad
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional

from training.autodiff import DifferentiationError, Graph
from training.autodiff.registry import EXPANSIONS, RULES
from training.autodiff.rules.borrowed import LINEAR
from training.export.exact import Exact

STEP = 1e-6
FLOAT = TensorProto.FLOAT


@dataclass
class Case:
    """One operator: `x` is the shape of the tensor to differentiate, `inputs` follow it.

    Among the inputs arrays are constants, "x" stands for x again, and "" for no input.
    """

    operator: str
    x: tuple[int, ...] = (2, 4, 6, 5)
    inputs: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    against: Callable[[torch.Tensor], torch.Tensor] | None = None
    positive: bool = False
    scale: float = 1.0  # of x
    first: bool = True  # x is the first input
    opset: int = 20
    outputs: int = 1
    exact: bool = True  # onnx.reference computes it, in float64
    label: str = ""

    @property
    def name(self):
        return f"{self.operator}{'-' if self.label else ''}{self.label}"

    def model(self):
        node_inputs, weights = (["x"] if self.first else []), []
        for number, value in enumerate(self.inputs):
            if isinstance(value, np.ndarray):
                weights.append(numpy_helper.from_array(value, f"w{number}"))
                node_inputs.append(f"w{number}")
            else:
                node_inputs.append(value or "")
        names = ["y", *(f"y{n}" for n in range(1, self.outputs))]
        node = helper.make_node(
            self.operator, node_inputs, names, name="the_node", **self.attributes
        )
        given = helper.make_tensor_value_info("x", FLOAT, list(self.x))
        output = helper.make_tensor_value_info("y", FLOAT, None)
        graph = helper.make_graph([node], "case", [given], [output], weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10
        )

    def gradient_model(self):
        graph = Graph(self.model())
        shape = list(graph.shape("y"))
        gradient = graph.gradient({"y": "seed"}, ["x"])["x"]
        return graph.finish(
            {"seed": (FLOAT, shape)},
            {"y": ("y", FLOAT, shape), "gradient": (gradient, FLOAT, list(self.x))},
        )


def weights(*shape, seed=7):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(*values):
    return np.array(values, np.int64)


def tensor(array):
    return torch.from_numpy(array).double()


W = weights(6, 4, 3, 2)
PHASED = weights(5, 4, 4, 4)
HALVING = weights(5, 4, 3, 3)
GROUPED = weights(8, 2, 3, 3)
UP = weights(4, 3, 3, 3)
VARIANCE = np.abs(weights(4)) + 0.5

SMOOTH = [
    *(
        Case(name)
        for name in (
            "Identity",
            "Dropout",
            "Neg",
            "Exp",
            "Tanh",
            "Sigmoid",
            "Softplus",
            "Softsign",
            "Sin",
            "Cos",
            "Mish",
        )
    ),
    *(Case(name, positive=True) for name in ("Log", "Sqrt", "Reciprocal")),
    *(
        Case(name, (2, 5), scale=0.3)
        for name in ("Acos", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan")
    ),
    Case("Acosh", (2, 5), positive=True, scale=4),
    *(
        Case(name)
        for name in (
            "Abs",
            "Elu",
            "Celu",
            "Selu",
            "LeakyRelu",
            "ThresholdedRelu",
            "HardSigmoid",
            "HardSwish",
            "Relu",
            "Softmax",
            "LogSoftmax",
        )
    ),
    Case("Erf", against=torch.erf, exact=False),
    Case("Gelu", against=functional.gelu, exact=False),
    Case(
        "Gelu",
        attributes={"approximate": "tanh"},
        against=lambda x: functional.gelu(x, approximate="tanh"),
        label="tanh",
    ),
    Case(
        "Softmax",
        attributes={"axis": 1},
        against=lambda x: functional.softmax(x, 1),
        label="channels",
    ),
    Case("Elu", attributes={"alpha": 0.7}, label="alpha"),
    Case("Celu", attributes={"alpha": 0.7}, label="alpha"),
    Case("HardSwish", against=functional.hardswish, label="torch"),
    Case("Selu", against=functional.selu, label="torch"),
    Case("Mish", against=functional.mish, label="torch"),
    Case(
        "PRelu",
        inputs=(weights(4, 1, 1),),
        against=lambda x: functional.prelu(x, tensor(weights(4))),
    ),
    Case(
        "Clip",
        inputs=(np.array(-0.5, np.float32), np.array(0.8, np.float32)),
        against=lambda x: x.clamp(-0.5, 0.8),
    ),
    Case("Clip", inputs=(np.array(-0.5, np.float32),), label="below only"),
    Case("Clip", label="unbounded"),
    Case("Cast", attributes={"to": FLOAT}),
]
BINARY = [
    *(
        Case(name, inputs=(weights(2, 4, 6, 5),))
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")
    ),
    *(Case(name, inputs=("x",), label="itself") for name in ("Add", "Mul", "Sum")),
    *(
        Case(name, (4, 1, 5), (weights(2, 4, 6, 5),), label="broadcast")
        for name in ("Add", "Sub", "Mul", "Div", "Max")
    ),
    *(
        Case(name, (4, 1, 5), (weights(2, 4, 6, 5), "x"), first=False, label="second")
        for name in ("Sub", "Mul", "Min")
    ),
    Case("Div", (4, 1, 5), (weights(2, 4, 6, 5), "x"), positive=True, first=False, label="below"),
    Case("Pow", inputs=(np.array(2, np.float32),)),
    Case("Pow", inputs=(np.array(1.7, np.float32),), positive=True, label="fraction"),
    Case("Pow", inputs=(np.array(3, np.int64),), label="integer"),
    Case("Mod", (3, 4), (np.array(0.7, np.float32),), {"fmod": 1}),
    Case("Where", inputs=(weights(2, 4, 6, 5) > 0, "x", weights(6, 1)), first=False),
    Case("Where", inputs=(weights(2, 4, 6, 5) > 0, weights(6, 1), "x"), first=False, label="else"),
]
SHAPES = [
    Case("Reshape", inputs=(integers(2, -1, 5),)),
    Case("Flatten"),
    Case("Flatten", attributes={"axis": 2}, label="axis"),
    Case("Transpose", attributes={"perm": [0, 2, 3, 1]}, against=lambda x: x.permute(0, 2, 3, 1)),
    Case("Transpose", label="reversed"),
    Case("Squeeze", (2, 1, 3), (integers(1),)),
    Case("Unsqueeze", (2, 3), (integers(1, 3),)),
    Case("Expand", (2, 1, 5), (integers(3, 2, 4, 1),)),
    Case("Tile", (2, 3), (integers(2, 3),), against=lambda x: x.repeat(2, 3)),
    Case("Concat", inputs=(weights(2, 3, 6, 5), "x"), attributes={"axis": 1}),
    Case("Split", inputs=(integers(1, 3),), attributes={"axis": 1}, outputs=2),
    Case("Slice", inputs=(integers(1), integers(3), integers(2))),
    Case(
        "Slice",
        inputs=(integers(0, -1), integers(10, -100), integers(2, 3), integers(2, -1)),
        against=lambda x: x[:, :, ::2].flip(3),
        label="steps",
    ),
    Case(
        "Gather",
        inputs=(np.array(2, np.int64),),
        attributes={"axis": 1},
        against=lambda x: x[:, 2],
        label="scalar",
    ),
    Case("Gather", inputs=(integers(3, 0, 2, 1),), attributes={"axis": 1}, label="permutation"),
    Case(
        "Gather",
        inputs=(np.array([[0, 1], [1, -1]]),),
        attributes={"axis": 2},
        against=lambda x: x[:, :, [[0, 1], [1, -1]]],
        label="repeated",
    ),
    Case(
        "Pad",
        inputs=(integers(0, 0, 1, 2, 0, 0, 0, -1),),
        against=lambda x: functional.pad(x, (2, -1, 1, 0)),
        exact=False,
    ),
    Case(
        "Pad",
        inputs=(integers(0, 0, 1, 2, 0, 0, 3, 1),),
        attributes={"mode": "reflect"},
        against=lambda x: functional.pad(x, (2, 1, 1, 3), "reflect"),
        label="reflect",
    ),
    Case(
        "Pad",
        inputs=(integers(0, 0, 1, 2, 0, 0, 3, 1),),
        attributes={"mode": "edge"},
        against=lambda x: functional.pad(x, (2, 1, 1, 3), "replicate"),
        label="edge",
    ),
    Case("DepthToSpace", attributes={"blocksize": 2}),
    Case(
        "DepthToSpace",
        attributes={"blocksize": 2, "mode": "CRD"},
        against=lambda x: functional.pixel_shuffle(x, 2),
        label="crd",
    ),
    Case("SpaceToDepth", (1, 2, 4, 6), attributes={"blocksize": 2}),
    Case(
        "Resize",
        inputs=("", "", integers(2, 4, 12, 7)),
        attributes={"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        against=lambda x: functional.interpolate(x, (12, 7), mode="bilinear"),
    ),
    Case(
        "Resize",
        inputs=("", np.array([1, 1, 2, 2], np.float32)),
        attributes={
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
        against=lambda x: functional.interpolate(x, scale_factor=2),
        label="nearest",
    ),
]
INDICES = [
    Case(
        "GatherElements",
        (2, 4, 3),
        (np.array([[[0, 3, -1], [0, 1, 3]], [[2, 2, 2], [2, 0, 1]]]),),
        {"axis": 1},
        against=lambda x: x.gather(
            1, torch.tensor([[[0, 3, 3], [0, 1, 3]], [[2, 2, 2], [2, 0, 1]]])
        ),
    ),
    Case(
        "GatherND",
        (2, 4, 3),
        (np.array([[0, 1], [1, 3], [0, 1]]),),
        against=lambda x: x[[0, 1, 0], [1, 3, 1]],
    ),
    Case(
        "ScatterND",
        (4, 3),
        (np.array([[2], [0]]), weights(2, 3)),
        against=lambda x: x.index_copy(0, torch.tensor([2, 0]), tensor(weights(2, 3))),
    ),
    Case(
        "ScatterND",
        (2, 3),
        (weights(4, 3), np.array([[2], [0]]), "x"),
        first=False,
        label="updates",
    ),
    Case(
        "ScatterND",
        (2, 3),
        (weights(4, 3), np.array([[2], [2]]), "x"),
        {"reduction": "add"},
        first=False,
        label="added",
    ),
    Case(
        "ScatterElements",
        (3, 4),
        (np.array([[0, 3], [1, 1], [2, 0]]) % 4, weights(3, 2)),
        {"axis": 1, "reduction": "add"},
        against=lambda x: x.scatter_add(
            1, torch.tensor([[0, 3], [1, 1], [2, 0]]), tensor(weights(3, 2))
        ),
        label="added",
    ),
    Case(
        "ScatterElements",
        (3, 2),
        (weights(3, 4), np.array([[0, 3], [1, 2], [2, 0]]), "x"),
        {"axis": 1},
        first=False,
        label="updates",
    ),
    Case("TopK", (3, 6), (integers(2),), {"axis": 1}, outputs=2),
    Case("TopK", (3, 6), (integers(2),), {"axis": 0, "largest": 0}, outputs=2, label="smallest"),
]
REDUCTIONS = [
    Case("ReduceProd", (3, 2, 4), (integers(1, -1),), {"keepdims": 0}, opset=18),
    Case("ReduceProd", (3, 2, 4), attributes={"axes": [1]}, opset=13, label="13"),
    Case("CumSum", (2, 5), (np.array(1),), {"exclusive": 1}),
    Case("CumSum", (2, 5), (np.array(0),), {"reverse": 1}, label="reverse"),
    Case("Trilu", (2, 4, 5), (np.array(-1),), {"upper": 0}),
    Case("Trilu", (2, 4, 5), label="upper"),
    *(
        Case(name, attributes={"axes": [1, 3]}, opset=13, label="13")
        for name in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceL2",
            "ReduceL1",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
    ),
    *(
        Case(name, inputs=(integers(1, -1),), attributes={"keepdims": 0}, opset=18)
        for name in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceL2",
            "ReduceL1",
            "ReduceSumSquare",
            "ReduceLogSumExp",
            "ReduceSum",
        )
    ),
    Case("ReduceMean", opset=18, label="all"),
    Case("ReduceSum", attributes={"noop_with_empty_axes": 1}, label="none"),
]
CONVOLUTIONS = [
    Case(
        "Conv",
        inputs=(W, weights(6)),
        against=lambda x: functional.conv2d(x, tensor(W), tensor(weights(6))),
    ),
    Case("Conv", inputs=(W,), attributes={"pads": [1, 1, 1, 0]}, label="pads"),
    Case("Conv", inputs=(W,), attributes={"pads": [3, 2, 3, 2]}, label="wide pads"),
    Case(
        "Conv",
        inputs=(W,),
        attributes={"strides": [2, 3], "pads": [1, 0, 1, 1]},
        against=lambda x: functional.conv2d(
            functional.pad(x, (0, 1, 1, 1)), tensor(W), stride=(2, 3)
        ),
        label="strides",
    ),
    Case("Conv", inputs=(W,), attributes={"dilations": [2, 1]}, label="dilations"),
    Case(
        "Conv",
        inputs=(GROUPED,),
        attributes={"group": 2, "pads": [1, 1, 1, 1]},
        against=lambda x: functional.conv2d(x, tensor(GROUPED), padding=1, groups=2),
        label="groups",
    ),
    Case(
        "Conv",
        inputs=(GROUPED,),
        attributes={"group": 2, "strides": [2, 2]},
        against=lambda x: functional.conv2d(x, tensor(GROUPED), stride=2, groups=2),
        exact=False,
        label="strided groups",
    ),
    Case(
        "Conv",
        (2, 4, 8, 6),
        (PHASED,),
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        against=lambda x: functional.conv2d(x, tensor(PHASED), stride=2, padding=1),
        label="phases",
    ),
    Case(
        "Conv",
        (2, 4, 7, 8),
        (PHASED,),
        {"strides": [2, 2], "pads": [0, 2, 1, 0]},
        label="uneven phases",
    ),
    Case(
        "Conv",
        (2, 4, 8, 7),
        (HALVING,),
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        against=lambda x: functional.conv2d(x, tensor(HALVING), stride=2, padding=1),
        label="halving",
    ),
    Case("Conv", (2, 4, 9, 9), (HALVING,), {"strides": [2, 2]}, label="halving without pads"),
    Case(
        "Conv",
        (2, 4, 9, 10),
        (weights(5, 4, 7, 5),),
        {"strides": [2, 2], "pads": [3, 2, 3, 2]},
        label="halving, wide",
    ),
    Case(
        "Conv",
        (2, 4, 7, 8),
        (HALVING,),
        {"strides": [2, 2], "pads": [0, 1, 2, 2]},
        label="windows on padding alone",
    ),
    Case(
        "Conv",
        (2, 4, 7, 8),
        (weights(5, 4, 1, 1),),
        {"strides": [2, 2]},
        label="every second element",
    ),
    Case("Conv", (2, 4, 6, 9), (weights(5, 4, 3, 3),), {"strides": [3, 3]}, label="patches"),
    Case(
        "Conv",
        (2, 4, 7, 8),
        (weights(5, 4, 2, 2),),
        {"strides": [2, 2]},
        label="patches that leave a line",
    ),
    Case(
        "Conv",
        inputs=(weights(4, 1, 3, 3),),
        attributes={"group": 4, "pads": [1, 1, 1, 1]},
        label="depthwise",
    ),
    Case(
        "Conv",
        inputs=(W,),
        attributes={"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        label="same upper",
    ),
    Case("Conv", inputs=(W,), attributes={"auto_pad": "SAME_LOWER"}, label="same lower"),
    Case("Conv", inputs=(W,), attributes={"auto_pad": "VALID"}, label="valid"),
    Case("Conv", (2, 4, 9), (weights(3, 4, 3),), {"pads": [1, 0]}, label="1d"),
    Case(
        "ConvTranspose",
        inputs=(UP,),
        attributes={"strides": [2, 2], "pads": [1, 1, 1, 1]},
        against=lambda x: functional.conv_transpose2d(x, tensor(UP), stride=2, padding=1),
    ),
    Case(
        "ConvTranspose",
        inputs=(UP,),
        attributes={"strides": [2, 2], "output_padding": [1, 0]},
        label="output padding",
    ),
]
POOLS = [
    Case(
        "LpPool",
        (1, 2, 5, 6),
        attributes={"kernel_shape": [3, 2], "strides": [2, 2], "p": 3},
        against=lambda x: functional.lp_pool2d(x.abs(), 3, (3, 2), 2),
    ),
    Case(
        "LpPool",
        (1, 2, 5, 6),
        attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        against=lambda x: functional.avg_pool2d(x**2, 3, 1, 1).mul(9).sqrt(),
        exact=False,
        label="pads",
    ),
    Case(
        "GlobalLpPool",
        (2, 3, 4, 4),
        attributes={"p": 2},
        against=lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
        exact=False,
    ),
    Case(
        "MaxPool",
        attributes={"kernel_shape": [2, 2], "strides": [2, 2]},
        against=lambda x: functional.max_pool2d(x, 2),
    ),
    Case(
        "MaxPool",
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        against=lambda x: functional.max_pool2d(x, 3, 2, 1),
        label="overlapping",
    ),
    Case("MaxPool", attributes={"kernel_shape": [3, 2]}, label="stride one"),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "strides": [3, 3]}, label="gaps"),
    Case(
        "MaxPool",
        (1, 2, 8, 8),
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        against=lambda x: functional.max_pool2d(x, 3, 2, ceil_mode=True),
        label="ceil",
    ),
    Case(
        "MaxPool",
        (1, 2, 9, 8),
        attributes={"kernel_shape": [2, 2], "dilations": [2, 2], "strides": [2, 2]},
        label="dilated",
    ),
    Case("MaxPool", (1, 2, 9), attributes={"kernel_shape": [3], "strides": [2]}, label="1d"),
    Case(
        "MaxPool",
        (1, 2, 6, 7),
        attributes={"kernel_shape": [6, 7]},
        against=lambda x: functional.max_pool2d(x, (6, 7)),
        label="whole",
    ),
    Case(
        "MaxPool",
        (1, 2, 13, 12),
        attributes={"kernel_shape": [7, 5], "strides": [2, 3], "pads": [3, 2, 3, 2]},
        against=lambda x: functional.max_pool2d(x, (7, 5), (2, 3), (3, 2)),
        label="axis by axis",
    ),
    Case(
        "MaxPool",
        (1, 2, 12, 14),
        attributes={
            "kernel_shape": [6, 6],
            "strides": [5, 5],
            "pads": [1, 1, 1, 1],
            "ceil_mode": 1,
        },
        against=lambda x: functional.max_pool2d(x, 6, 5, 1, ceil_mode=True),
        label="axis by axis, ceil",
    ),
    Case(
        "MaxPool",
        (1, 1, 4, 5, 6),
        attributes={"kernel_shape": [3, 3, 3], "dilations": [1, 2, 1]},
        label="axis by axis, 3d",
    ),
    Case(
        "AveragePool",
        attributes={"kernel_shape": [2, 2], "strides": [2, 2]},
        against=lambda x: functional.avg_pool2d(x, 2),
    ),
    Case(
        "AveragePool",
        attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        against=lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        label="pads left out",
    ),
    Case(
        "AveragePool",
        attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        against=lambda x: functional.avg_pool2d(x, 3, 1, 1),
        label="pads counted",
    ),
    Case(
        "AveragePool",
        attributes={"kernel_shape": [2, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1},
        label="uneven",
    ),
    Case(
        "AveragePool",
        (2, 4, 7, 7),
        attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
        against=lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        label="strided",
    ),
    Case("GlobalAveragePool", against=lambda x: x.mean((2, 3), keepdim=True)),
    Case("GlobalMaxPool", against=lambda x: x.amax((2, 3), keepdim=True)),
]
PRODUCTS = [
    Case("MatMul", (3, 4), (weights(4, 5),)),
    Case("MatMul", (2, 3, 4), (weights(4, 5),), label="wide"),
    Case("MatMul", (4, 5), (weights(2, 3, 4), "x"), first=False, label="right"),
    Case("MatMul", (2, 1, 4, 5), (weights(3, 6, 4), "x"), first=False, label="right broadcast"),
    Case("MatMul", (2, 4, 4), ("x",), label="square"),
    *(
        Case(
            "Gemm",
            (4, 3) if a else (3, 4),
            (weights(5, 4) if b else weights(4, 5), weights(5)),
            {"transA": a, "transB": b, "alpha": 0.5, "beta": 2.0},
            label=f"{a}{b}",
        )
        for a in (0, 1)
        for b in (0, 1)
    ),
    *(
        Case(
            "Gemm",
            (5, 4) if b else (4, 5),
            (weights(4, 3) if a else weights(3, 4), "x", weights(5)),
            {"transA": a, "transB": b},
            first=False,
            label=f"right {a}{b}",
        )
        for a in (0, 1)
        for b in (0, 1)
    ),
    Case(
        "Gemm", (5,), (weights(3, 4), weights(4, 5), "x"), {"beta": 0.3}, first=False, label="bias"
    ),
    Case(
        "Einsum",
        (2, 3, 4),
        (weights(2, 4, 5),),
        {"equation": "bij,bjk->bki"},
        against=lambda x: torch.einsum("bij,bjk->bki", x, tensor(weights(2, 4, 5))),
    ),
]
PRODUCTS += [
    Case(
        "Einsum",
        (2, 3, 4),
        (weights(4, 5),),
        {"equation": "...j,jk"},
        against=lambda x: x @ tensor(weights(4, 5)),
        label="implicit",
    ),
    Case(
        "Einsum",
        (2, 3, 4),
        (),
        {"equation": "...ij->...ji"},
        against=lambda x: x.mT,
        label="ellipsis",
    ),
]
GRID = weights(2, 3, 4, 2) * 0.7
GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}  # torch's order of ONNX's gates


def layer_of_torch(operator, given, directions, **options):
    """The outputs h of torch's layer of 2 units with the weights of an ONNX node."""
    layer = getattr(nn, operator)(3, 2, bidirectional=directions == 2, **options).double()
    for direction, end in enumerate(["_l0", "_l0_reverse"][:directions]):
        for name, array in zip(("weight_ih", "weight_hh"), given, strict=False):
            getattr(layer, name + end).data = reordered(operator, array[direction])
        both = np.split(given[2][direction], 2)
        for name, array in zip(("bias_ih", "bias_hh"), both, strict=True):
            getattr(layer, name + end).data = reordered(operator, array)
    states = [tensor(array) for array in given[4:]]
    before = states[0] if len(states) == 1 else tuple(states) or None
    return lambda x: layer(x, before)[0].unflatten(2, (directions, 2)).transpose(1, 2)


def reordered(operator, array):
    gates = np.split(array, len(GATES[operator]))
    return tensor(np.concatenate([gates[place] for place in GATES[operator]]))


def recurrent(operator, *, direction="forward", initial=False, options=None, **attributes):
    """A layer of 3 inputs and 2 units over 3 steps, compared with that of torch."""
    rows, directions = 2 * len(GATES[operator]), 1 + (direction == "bidirectional")
    shapes = (rows, 3), (rows, 2), (2 * rows,)
    given = [weights(directions, *shape, seed=n) for n, shape in enumerate(shapes)]
    if initial:
        states = range(1 + (operator == "LSTM"))
        given += ["", *(weights(directions, 2, 2, seed=5 + n) for n in states)]
    return Case(
        operator,
        (3, 2, 3),
        tuple(given),
        {"hidden_size": 2, "direction": direction, **attributes},
        against=layer_of_torch(operator, given, directions, **(options or {})),
        exact=False,
        label=f"{direction} {initial}",
    )


EXPANDED = [
    recurrent("RNN", initial=True),
    recurrent("RNN", activations=["Relu"], options={"nonlinearity": "relu"}),
    recurrent("GRU", linear_before_reset=1),
    recurrent("GRU", linear_before_reset=1, direction="bidirectional", initial=True),
    Case("GRU", (3, 2, 3), (weights(1, 6, 3), weights(1, 6, 2)), {"hidden_size": 2}),
    recurrent("LSTM"),
    recurrent("LSTM", direction="bidirectional", initial=True),
    Case(
        "LSTM",
        (3, 2, 3),
        (weights(1, 8, 3), weights(1, 8, 2)),
        {"hidden_size": 2, "direction": "reverse"},
        against=lambda x: layer_of_torch(
            "LSTM", [weights(1, 8, 3), weights(1, 8, 2), np.zeros((1, 16), np.float32)], 1
        )(x.flip(0)).flip(0),
        exact=False,
        label="reverse",
    ),
    *(
        Case(
            "GridSample",
            (2, 3, 5, 6),
            (GRID,),
            {"padding_mode": padding, "align_corners": aligned},
            against=lambda x, padding=padding, aligned=aligned: functional.grid_sample(
                x, tensor(GRID), "bilinear", padding, bool(aligned)
            ),
            label=f"{padding} {aligned}",
        )
        for padding in ("zeros", "border")
        for aligned in (0, 1)
    ),
    *(
        Case(
            "GridSample",
            (2, 3, 4, 2),
            (weights(2, 3, 5, 6), "x"),
            {"padding_mode": padding},
            against=lambda grid, padding=padding: functional.grid_sample(
                tensor(weights(2, 3, 5, 6)), grid, "bilinear", padding, align_corners=False
            ),
            first=False,
            scale=0.7,
            exact=False,
            label=f"grid {padding}",
        )
        for padding in ("zeros", "border")
    ),
    *(
        Case(
            "AffineGrid",
            (2, 2, 3),
            (integers(2, 3, 4, 5),),
            {"align_corners": aligned},
            against=lambda x, aligned=aligned: functional.affine_grid(
                x, [2, 3, 4, 5], align_corners=bool(aligned)
            ),
            exact=False,
            label=str(aligned),
        )
        for aligned in (0, 1)
    ),
]
NORMALIZATIONS = [
    Case(
        "BatchNormalization",
        inputs=(weights(4), weights(4), weights(4, seed=8), VARIANCE),
        against=lambda x: functional.batch_norm(
            x, tensor(weights(4, seed=8)), tensor(VARIANCE), tensor(weights(4)), tensor(weights(4))
        ),
    ),
    Case(
        "LayerNormalization",
        (2, 3, 6),
        (weights(6), weights(6)),
        against=lambda x: functional.layer_norm(x, (6,), tensor(weights(6)), tensor(weights(6))),
    ),
    Case("LayerNormalization", (2, 3, 6), (weights(3, 6),), {"axis": 1}, label="axis"),
    Case(
        "InstanceNormalization",
        inputs=(weights(4), weights(4)),
        against=lambda x: functional.instance_norm(
            x, weight=tensor(weights(4)), bias=tensor(weights(4))
        ),
    ),
    Case(
        "GroupNormalization",
        exact=False,
        inputs=(weights(4), weights(4)),
        attributes={"num_groups": 2},
        opset=21,
        against=lambda x: functional.group_norm(x, 2, tensor(weights(4)), tensor(weights(4))),
    ),
    Case(
        "LpNormalization", attributes={"axis": 1}, against=lambda x: functional.normalize(x, dim=1)
    ),
    Case(
        "LRN",
        (2, 7, 3, 3),
        attributes={"size": 3, "alpha": 0.1},
        against=lambda x: functional.local_response_norm(x, 3, 0.1),
        exact=False,
    ),
]
BORROWED = [
    Case(
        "Col2Im",
        (2, 12, 4),
        (integers(5, 6), integers(2, 2)),
        {"pads": [0, 1, 1, 0], "strides": [3, 4], "dilations": [2, 1]},
        label="uneven",
    ),
    Case(
        "Col2Im",
        (2, 18, 9),
        (integers(5, 5), integers(3, 3)),
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        against=lambda x: functional.fold(x, (5, 5), 3, padding=1, stride=2),
    ),
    Case(
        "DFT",
        (2, 6, 5, 1),
        ("", np.array(1)),
        against=lambda x: torch.view_as_real(torch.fft.fft(x[..., 0], dim=1)),
    ),
    Case(
        "DFT",
        (2, 6, 5, 2),
        ("", np.array(2)),
        {"inverse": 1},
        against=lambda x: torch.view_as_real(torch.fft.ifft(torch.view_as_complex(x), dim=2)),
        label="inverse",
    ),
    Case(
        "DFT",
        (2, 6, 5, 1),
        attributes={"axis": 2, "onesided": 1},
        against=lambda x: torch.view_as_real(torch.fft.rfft(x[..., 0], dim=2)),
        opset=17,
        label="one-sided",
    ),
]
CASES = [
    *(*SMOOTH, *BINARY, *SHAPES, *INDICES, *REDUCTIONS),
    *(*CONVOLUTIONS, *POOLS, *PRODUCTS, *NORMALIZATIONS, *EXPANDED, *BORROWED),
]
STRAIGHT_THROUGH = {"QuantizeLinear", "DequantizeLinear"}


def draw(case):
    rng = np.random.default_rng(3)
    x = rng.normal(size=case.x)
    return case.scale * (np.abs(x) + 0.3 if case.positive else x)


def reference(model):
    """The model in float64, on ONNX's own reference."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    for tensor in double.graph.initializer:
        if tensor.data_type == FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype(np.float64), tensor.name
                )
            )
    for info in (*double.graph.input, *double.graph.output):
        if info.type.tensor_type.elem_type == FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for attribute in (
        a for node in double.graph.node for a in node.attribute if node.op_type == "Cast"
    ):
        attribute.i = TensorProto.DOUBLE if attribute.i == FLOAT else attribute.i
    return ReferenceEvaluator(double)


def answer(model, x):
    return np.asarray(reference(model).run(None, {"x": x})[0])


def comparison(result, expected):
    difference = np.abs(result - expected)
    return (
        f"largest difference {difference.max():.3g}, mean {difference.mean():.3g}, "
        f"of values up to {np.abs(expected).max():.3g}"
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.exact], ids=lambda case: case.name)
def test_the_gradient_is_the_slope_in_every_direction(case):
    x, rng = draw(case), np.random.default_rng(4)
    forward, backward = case.model(), case.gradient_model()
    seed = rng.normal(size=answer(forward, x).shape)
    _, gradient = reference(backward).run(None, {"x": x, "seed": seed})
    assert gradient.shape == x.shape
    directions = rng.normal(size=(5, *x.shape))
    slopes = [
        ((answer(forward, x + STEP * d) - answer(forward, x - STEP * d)) / (2 * STEP) * seed).sum()
        for d in directions
    ]
    found = np.array([(gradient * d).sum() for d in directions])
    assert np.allclose(found, slopes, rtol=2e-6, atol=2e-5), comparison(found, np.array(slopes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnx_runtime_computes_the_same_gradient(case):
    x = draw(case)
    backward = case.gradient_model()
    session = ort.InferenceSession(backward.SerializeToString(), providers=["CPUExecutionProvider"])
    names = {i.name: i.shape for i in session.get_inputs()}
    seed = np.random.default_rng(4).normal(size=names["seed"])
    feeds = {
        key: value.astype(np.float32)
        for key, value in {"x": x, "seed": seed}.items()
        if key in names
    }
    found = session.run(["gradient"], feeds)[0]
    if case.against:
        leaf = torch.from_numpy(feeds["x"].astype(np.float64)).requires_grad_()
        case.against(leaf).backward(torch.from_numpy(seed.astype(np.float32).astype(np.float64)))
        expected = leaf.grad.numpy()
    else:
        expected = reference(backward).run(
            ["gradient"], {key: value.astype(np.float64) for key, value in feeds.items()}
        )[0]
    assert np.allclose(found, expected, rtol=1e-4, atol=2e-5), comparison(found, expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_proof_computes_the_operator_and_its_slope(case):
    x, rng = draw(case).astype(np.float64), np.random.default_rng(4)
    forward, backward = case.model(), case.gradient_model()
    session = ort.InferenceSession(forward.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["y"], {"x": x.astype(np.float32)})[0]
    exact, direction = Exact(forward, ["y"]), rng.normal(size=x.shape)
    (found,) = exact.run({"x": x})
    assert found.dtype == np.float64
    assert np.allclose(found, expected, rtol=1e-4, atol=2e-5), comparison(found, expected)
    (slope,) = exact.slope({"x": x}, {"x": direction})
    seed = rng.normal(size=found.shape)
    (gradient,) = Exact(backward, ["gradient"]).run({"x": x, "seed": seed})
    # To the constants of the rules, which are float32.
    size = np.linalg.norm(gradient * direction)
    assert abs((gradient * direction).sum() - (slope * seed).sum()) < 1e-6 * size


# What onnx-ad 0.3.0 refuses, in its own words.
REFUSED_BY_ONNX_AD = {
    "Conv-same lower": "auto_pad=SAME_LOWER",
    "Conv-same upper": "auto_pad=SAME_UPPER",
    "Pad-edge": "only constant-mode Pad",
    "Pad-reflect": "only constant-mode Pad",
    "Pow-integer": "integer exponent",
    "Slice-steps": "a step other than 1",
}
# Where onnx-ad 0.3.0 is wrong: its transposed convolution has both pads and an output_shape, by
# which ONNX pads anew, and not where the two sides of an image differ. Its graph of a Pad by less
# than nothing does not run. The tests above find ours equal to finite differences there.
WRONG_IN_ONNX_AD = {
    "AveragePool-uneven",
    "Conv-uneven phases",
    "Conv-windows on padding alone",
    "Pad",
}
IN_FLOAT32 = {"GRU", "LSTM", "RNN"}  # onnx's reference has no Scan that reads backwards


def by_onnx_ad(case):
    """The gradient graph of onnx-ad: x, adj_y (…, seeds) → adj_x (…, seeds), its last output."""
    model = case.model()
    shape = list(Graph(model).shape("y"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, shape))
    return onnx_ad.reverse(model, inputs=["x"], outputs=["y"], layout="onnx")


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name not in {*REFUSED_BY_ONNX_AD, *WRONG_IN_ONNX_AD}],
    ids=lambda case: case.name,
)
def test_the_gradient_is_that_of_onnx_ad(case):
    """An oracle that shares no code with ours, in float64 but for recurrent layers."""
    single = case.operator in IN_FLOAT32
    x, ours, theirs = draw(case), case.gradient_model(), by_onnx_ad(case)
    seed = np.random.default_rng(4).normal(size=Graph(case.model()).shape("y"))
    name, feeds = theirs.graph.output[-1].name, {"x": x, "adj_y": seed[..., None]}
    if single:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # it leaves weights that no node reads
        session = ort.InferenceSession(
            theirs.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {key: value.astype(np.float32) for key, value in feeds.items()}
        expected = session.run([name], feeds)[0][..., 0]
    else:
        expected = Exact(theirs, [name]).run(feeds)[0][..., 0]
    found = Exact(ours, ["gradient"]).run({"x": x, "seed": seed})[0]
    # In float64 the constants of rules are left, which are float32.
    limit = (5e-6 if single else 1e-6) * np.abs(expected).max()
    assert np.abs(found - expected).max() <= limit, comparison(found, expected)


@pytest.mark.parametrize("name", REFUSED_BY_ONNX_AD)
def test_what_onnx_ad_refuses_is_listed(name):
    (case,) = (case for case in CASES if case.name == name)
    with pytest.raises(onnx_ad.UnsupportedOperator, match=REFUSED_BY_ONNX_AD[name]):
        by_onnx_ad(case)


def test_every_rule_is_compared_with_that_of_onnx_ad():
    left_out = {*REFUSED_BY_ONNX_AD, *WRONG_IN_ONNX_AD}
    assert {case.operator for case in CASES if case.name not in left_out} | {"Pad"} == {
        case.operator for case in CASES
    }


def test_without_onnx_ad_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx_ad", None)
    for case in BORROWED:
        message = rf"{case.operator} \(node the_node\): .* install candor\[onnx-ad\]"
        with pytest.raises(DifferentiationError, match=message):
            case.gradient_model()
    with pytest.raises(DifferentiationError, match=r"Det \(node the_node\)") as caught:
        Case("Det", (2, 3, 3)).gradient_model()
    assert "onnx-ad" not in str(caught.value)


def test_an_operator_is_borrowed_only_where_there_is_no_rule_of_ours():
    assert {case.operator for case in BORROWED} == set(LINEAR)
    assert set(onnx_ad.rules.REVERSE).issuperset(LINEAR)
    assert {RULES[operator].__module__ for operator in LINEAR} == {
        "training.autodiff.rules.borrowed"
    }


def test_every_rule_has_a_case():
    tested = {case.operator for case in CASES} | STRAIGHT_THROUGH
    assert {*RULES, *EXPANSIONS} - {"Upsample"} == tested


@pytest.mark.parametrize(
    "case",
    [Case("Det", (2, 3, 3)), Case("Compress", (2, 3), (np.array([True, False]),))],
    ids=lambda case: case.operator,
)
def test_an_operator_without_a_rule_is_named_with_its_node(case):
    with pytest.raises(DifferentiationError, match=rf"{case.operator} \(node the_node\).*no rule"):
        case.gradient_model()


@pytest.mark.parametrize(
    "case",
    [
        Case("Conv", (6, 4, 3, 2), (weights(2, 4, 6, 5), "x"), first=False),
        Case("Gather", (3,), (weights(5, 2), "x"), first=False),
        Case("Pow", (2, 3), (np.array(2, np.float32), "x"), first=False),
        Case("LpNormalization", attributes={"p": 1}),
        Case("Einsum", (3, 4), (), {"equation": "ij->i"}),
        Case("MatMul", (4,), (weights(4, 5),)),
    ],
    ids=lambda case: case.operator,
)
def test_an_error_of_a_rule_names_the_node(case):
    model = case.model()
    if case.operator == "Gather":  # indices that depend on the image
        model.graph.node[0].input[1] = "index"
        model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64))
    graph = Graph(model)
    with pytest.raises(
        DifferentiationError, match=rf"no gradient through {case.operator} \(node the_node\)"
    ):
        graph.gradient({"y": "seed"}, ["x"])


def test_gelu_and_its_gradient_share_the_error_function():
    operators = [node.op_type for node in Case("Gelu").gradient_model().graph.node]
    assert operators.count("Erf") == 1
    assert "Gelu" not in operators
    assert operators.index("Erf") < operators.index(
        "Exp"
    )  # the forward pass needs it, before the reverse pass


def test_gather_adds_up_at_indices_that_are_computed_at_run_time():
    """As torch exports as_strided: a flat Gather with indices that depend on the batch's size."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Sub", ["size", "back"], ["places"]),
        helper.make_node("Gather", ["x", "places"], ["y"], axis=0),
    ]
    info = [
        helper.make_tensor_value_info(name, FLOAT, shape)
        for name, shape in (("x", [6]), ("y", [3]), ("seed", [3]))
    ]
    back = numpy_helper.from_array(integers(1, 4, 1), "back")
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:2], [back]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    graph = Graph(model)
    gradient = graph.gradient({"y": "seed"}, ["x"])["x"]
    made = graph.finish({"seed": (FLOAT, [3])}, {"gradient": (gradient, FLOAT, [6])})
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    x, seed = np.zeros(6, np.float32), np.array([1, 10, 100], np.float32)
    assert session.run(None, {"x": x, "seed": seed})[0].tolist() == [0, 0, 10, 0, 0, 101]


@pytest.mark.parametrize("axis", [None, 1], ids=["one scale", "a scale for each channel"])
def test_quantisation_is_differentiated_straight_through(axis):
    """As torch differentiates its fake quantisation: g inside the range, 0 where it clips."""
    scale = np.float32(0.01) if axis is None else np.array([0.01, 0.02, 0.005], np.float32)
    point = np.zeros(np.shape(scale), np.int8) + np.int8(3)
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["y"], **attributes),
    ]
    info = [helper.make_tensor_value_info(name, FLOAT, [40, 3]) for name in ("x", "y", "seed")]
    tensors = [
        numpy_helper.from_array(np.asarray(scale), "scale"),
        numpy_helper.from_array(point, "point"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:2], tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    graph = Graph(model)
    gradient = graph.gradient({"y": "seed"}, ["x"])["x"]
    made = graph.finish({"seed": (FLOAT, [40, 3])}, {"gradient": (gradient, FLOAT, [40, 3])})
    x = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
    leaf = torch.from_numpy(x).requires_grad_()
    if axis is None:
        rounded = torch.fake_quantize_per_tensor_affine(leaf, float(scale), 3, -128, 127)
    else:
        points = torch.from_numpy(point).int()
        rounded = torch.fake_quantize_per_channel_affine(
            leaf, torch.from_numpy(scale), points, axis, -128, 127
        )
    seed = weights(40, 3)
    rounded.backward(torch.from_numpy(seed))
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x, "seed": seed})[0]
    assert 0 < (found == 0).mean() < 1
    assert np.allclose(found, leaf.grad.numpy(), rtol=1e-5), comparison(found, leaf.grad.numpy())


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (recurrent("LSTM", clip=1.0), "it has clip"),
        (
            recurrent("GRU", activations=["HardSigmoid", "Tanh"]),
            "activations are HardSigmoid, Tanh",
        ),
        (Case("GridSample", (1, 1, 2, 2), (GRID,), {"mode": "cubic"}), "only bilinear"),
    ],
    ids=lambda value: value.operator if isinstance(value, Case) else "",
)
def test_a_form_of_an_operator_that_is_not_supported_is_named(case, reason):
    with pytest.raises(
        DifferentiationError, match=rf"{case.operator} \(node the_node\): .*{reason}"
    ):
        case.gradient_model()


def test_arithmetic_in_integers_is_named_with_a_remedy():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "point"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, FLOAT, [2]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    message = r"DynamicQuantizeLinear \(node q\): it computes in integers; give the file in float32"
    with pytest.raises(DifferentiationError, match=message):
        Graph(model).gradient({"y": "seed"}, ["x"])


def test_a_branch_that_reads_the_image_is_not_passed_over():
    """Its node names no input that depends on the image, and yet its output does."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", FLOAT, [3])],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["b"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["b", "x"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, FLOAT, [3]) for name in ("x", "y")]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [info[0], flag], info[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    with pytest.raises(DifferentiationError, match=r"If \(node b\): its condition is known only"):
        Graph(model).gradient({"y": "seed"}, ["x"])


def test_an_integer_has_no_gradient():
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Cast", ["i"], ["y"], to=FLOAT),
    ]
    info = [helper.make_tensor_value_info(name, FLOAT, [2]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "cut", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    with pytest.raises(DifferentiationError, match="does not depend on x"):
        Graph(model).gradient({"y": "seed"}, ["x"])


@pytest.mark.parametrize("opset", [12, 22])
def test_an_opset_outside_13_to_21_is_an_error(opset):
    model = Case("Relu", opset=20).model()
    model.opset_import[0].version = opset
    with pytest.raises(DifferentiationError, match=f"opset {opset}; 13 to 21"):
        Graph(model)


def test_a_max_pool_gives_the_gradient_to_the_first_of_equal_maxima():
    case = Case("MaxPool", (1, 1, 2, 4), attributes={"kernel_shape": [2, 2], "strides": [2, 2]})
    x = np.array([[[[1, 1, 0, 2], [1, 1, 2, 2]]]], np.float32)
    _, gradient = ReferenceEvaluator(case.gradient_model()).run(
        None, {"x": x, "seed": np.array([[[[3.0, 5.0]]]], np.float32)}
    )
    assert gradient.tolist() == [[[[3, 0, 0, 5], [0, 0, 0, 0]]]]


def test_onnx_functions_are_inlined():
    inner = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )
    model = Case("Relu").model()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Twice", "local"
    model.functions.append(inner)
    model.opset_import.append(helper.make_opsetid("local", 1))
    graph = Graph(model)
    gradient = graph.gradient({"y": graph.constant(np.ones((2, 4, 6, 5), np.float32))}, ["x"])["x"]
    result = graph.finish({}, {"gradient": (gradient, FLOAT, [2, 4, 6, 5])})
    onnx.checker.check_model(result, full_check=True)
    assert (ReferenceEvaluator(result).run(None, {"x": draw(Case("Relu"))})[0] == 2).all()


def gradient_at(case, x, seed):
    """The gradient of a case at exactly `x`, on ONNX Runtime."""
    session = ort.InferenceSession(
        case.gradient_model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = {info.name for info in session.get_inputs()}
    feeds = {"x": x, "seed": seed.astype(np.float32)}
    return session.run(["gradient"], {name: feeds[name] for name in feeds if name in names})[0]


TIES = np.array([[1, 3, 3, 2], [2, 2, 2, 2], [-1, 0, -1, -2]], np.float32)
AT_THEIR_CONVENTIONS = [
    (
        Case("Relu", (3,), against=torch.relu, label="at zero"),
        np.array([0, 1, -1], np.float32),
    ),
    (
        Case(
            "HardSigmoid",
            (5,),
            attributes={"alpha": 1 / 6},
            against=functional.hardsigmoid,
            label="at its bounds",
        ),
        np.array([-3, 3, 0, -4, 4], np.float32),
    ),
    (
        Case(
            "ReduceMax",
            (3, 4),
            (integers(1),),
            against=lambda x: x.amax(1, keepdim=True),
            label="at ties",
        ),
        TIES,
    ),
    (
        Case(
            "ReduceMin",
            (3, 4),
            (integers(1),),
            against=lambda x: x.amin(1, keepdim=True),
            label="at ties",
        ),
        TIES,
    ),
    (
        Case(
            "ReduceL2",
            (2, 3),
            (integers(1),),
            against=lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
            label="at zero",
        ),
        np.array([[0, 0, 0], [3, 0, 4]], np.float32),
    ),
    (
        Case(
            "MaxPool",
            (1, 1, 4, 4),
            attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
            against=lambda x: functional.max_pool2d(x, 3, 1, 1),
            label="at ties",
        ),
        np.array([[[[1, 1, 2, 2], [0, 1, 2, 1], [2, 2, 2, 0], [1, 1, 1, 1]]]], np.float32),
    ),
    (
        Case(
            "MaxPool",
            (1, 1, 4, 4),
            attributes={"kernel_shape": [4, 4]},
            against=lambda x: functional.max_pool2d(x, 4),
            label="at ties of a whole image",
        ),
        np.array([[[[1, 1, 0, 0], [0, 1, 1, 2], [2, 1, 2, 0], [1, 1, 1, 1]]]], np.float32),
    ),
    (
        Case(
            "MaxPool",
            (1, 1, 6, 6),
            attributes={"kernel_shape": [6, 5]},
            against=lambda x: functional.max_pool2d(x, (6, 5), 1),
            label="at ties, axis by axis",
        ),
        np.tile(np.array([[0, 1, 1, 0, 2, 2], [2, 1, 2, 0, 1, 1]], np.float32), (1, 1, 3, 1)),
    ),
    (
        Case(
            "Gemm",
            (4, 5),
            (weights(3, 4), "x", weights(5)),
            {"alpha": 0.5, "beta": 2.0},
            against=lambda x: 0.5 * tensor(weights(3, 4)) @ x + 2.0 * tensor(weights(5)),
            first=False,
            label="alpha of B",
        ),
        weights(4, 5, seed=9),
    ),
]


@pytest.mark.parametrize(
    ("case", "x"), AT_THEIR_CONVENTIONS, ids=[case.name for case, _ in AT_THEIR_CONVENTIONS]
)
def test_a_rule_follows_torch_where_a_slope_is_a_convention(case, x):
    leaf = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    outputs = case.against(leaf)
    seed = np.random.default_rng(4).normal(size=outputs.shape)
    outputs.backward(torch.from_numpy(seed))
    gradient = gradient_at(case, x, seed)
    assert np.isfinite(gradient).all()
    assert np.allclose(gradient, leaf.grad.numpy(), atol=1e-6), (gradient, leaf.grad.numpy())


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_the_first_of_equal_inputs_takes_the_gradient(operator):
    x = np.array([1, 2, 3], np.float32)
    seed = np.array([1, 10, 100], np.float32)
    before, after = (Case(operator, (3,), inputs, first=False) for inputs in (("x", x), (x, "x")))
    assert gradient_at(before, x, seed).tolist() == [1, 10, 100]
    assert gradient_at(after, x, seed).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (("x", np.array(-0.5, np.float32), np.array(0.75, np.float32)), [1, 10, 0, 0, 10000]),
        (("x", np.array(-0.5, np.float32)), [1, 10, 0, 1000, 10000]),
        (("x", "", np.array(0.75, np.float32)), [1, 10, 100, 0, 10000]),
    ],
)
def test_a_clip_passes_the_gradient_at_its_bounds(inputs, expected):
    x = np.array([-0.5, 0.75, -0.5001, 0.7501, 0], np.float32)
    seed = np.array([1, 10, 100, 1000, 10000], np.float32)
    assert gradient_at(Case("Clip", (5,), inputs, first=False), x, seed).tolist() == expected
