"""Engines of networks so small that the right attribution is known in closed form.

Inputs x are float32 (N, 3, 16, 16), images uint8 (16, 16, 3), logits float32 (N, classes).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from service.bundle import folder as contract
from service.bundle.manifest import Bins, Distribution, Familiarity, Manifest
from service.bundle.prediction_sets import PredictionSets
from service.image.resize import Input
from service.runtime.engine import Engine
from training.export.core import Core, graphs

SIZE = 16
SPEC = Input(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
PATCH = np.s_[4:8, 8:12]


# operator, inputs, outputs, and attributes where there are any
Node = tuple[str, list[str], list[str]] | tuple[str, list[str], list[str], dict[str, Any]]


def engine_of(
    folder: Path,
    nodes: Sequence[Node],
    weights: Mapping[str, np.ndarray],
    classes: int = 2,
) -> Engine:
    """The engine of x (N, 3, 16, 16) → `nodes` → logits (N, classes)."""
    core = core_of(nodes, weights, classes)
    manifest = Manifest("toy", tuple("abcdefgh"[:classes]), SPEC)
    return Engine(contract.write(folder / "toy", manifest, graphs(core, SPEC)), "cpu", 1)


def core_of(nodes: Sequence[Node], weights: Mapping[str, np.ndarray], classes: int) -> Core:
    """The core x (N, 3, 16, 16) → `nodes` → logits (N, classes)."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "toy",
        [x],
        [logits],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Core(model, None)


def weights_of(classes: int = 2, seed: int = 0) -> np.ndarray:
    """Random weights of a linear classifier: float32 (classes, 3·S·S)."""
    return (
        np.random.default_rng(seed).normal(size=(classes, 3 * SIZE * SIZE)).astype(np.float32)
        / SIZE
    )


def linear(folder: Path, weights: np.ndarray | None = None) -> Engine:
    """Logits = W · x."""
    matrix = weights_of() if weights is None else weights
    nodes: list[Node] = [
        ("Flatten", ["x"], ["flat"]),
        ("Gemm", ["flat", "W"], ["logits"], {"transB": 1}),
    ]
    return engine_of(folder, nodes, {"W": matrix}, classes=len(matrix))


def thresholded(folder: Path, bias: float) -> Engine:
    """Logits = relu(W · x − bias)."""
    nodes: list[Node] = [
        ("Flatten", ["x"], ["flat"]),
        ("Gemm", ["flat", "W", "b"], ["z"], {"transB": 1}),
        ("Relu", ["z"], ["logits"]),
    ]
    return engine_of(folder, nodes, {"W": weights_of(), "b": np.full(2, -bias, np.float32)})


def product(folder: Path) -> Engine:
    """Logit 0 = (a · x)(b · x), logit 1 = 0·(a · x)."""
    a, b = weights_of()
    nodes: list[Node] = [
        ("Flatten", ["x"], ["flat"]),
        ("Gemm", ["flat", "a"], ["u"], {"transB": 1}),
        ("Gemm", ["flat", "b"], ["v"], {"transB": 1}),
        ("Mul", ["u", "v"], ["uv"]),
        ("Mul", ["u", "zero"], ["none"]),
        ("Concat", ["uv", "none"], ["logits"], {"axis": 1}),
    ]
    return engine_of(folder, nodes, {"a": a[None], "b": b[None], "zero": np.zeros(1, np.float32)})


def patch_weights() -> np.ndarray:
    """float32 (2, 3·S·S): class 0 is the brightness of one patch, class 1 its darkness."""
    weights = np.zeros((2, 3, SIZE, SIZE), np.float32)
    weights[0][:, PATCH[0], PATCH[1]] = 0.1
    weights[1] = -weights[0]
    return weights.reshape(2, -1)


def planted(folder: Path) -> Engine:
    """An engine that looks at one patch alone, through a convolution."""
    nodes: list[Node] = [
        ("Conv", ["x", "K"], ["grey"], {"kernel_shape": [1, 1]}),
        ("Gelu", ["grey"], ["activation"]),
        ("Flatten", ["activation"], ["flat"]),
        ("Gemm", ["flat", "W"], ["logits"], {"transB": 1}),
    ]
    mask = np.zeros((2, SIZE, SIZE), np.float32)
    mask[0][PATCH], mask[1][PATCH] = 0.5, -0.5
    kernel = np.full((1, 3, 1, 1), 0.5, np.float32)
    return engine_of(folder, nodes, {"K": kernel, "W": mask.reshape(2, -1)})


def many_classes(folder: Path, labels: Sequence[str], coverage_threshold: float = 0.5) -> Path:
    """The bundle of a convolution, a pool and a linear layer of random weights, one row a label.

    It has every measure of trust, by made-up figures, and maps of every method.
    """
    classes, rng = len(labels), np.random.default_rng(0)
    nodes: list[Node] = [
        ("Conv", ["x", "K"], ["planes"], {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("Relu", ["planes"], ["activation"]),
        ("GlobalAveragePool", ["activation"], ["pooled"]),
        ("Flatten", ["pooled"], ["flat"]),
        ("Gemm", ["flat", "W"], ["logits"], {"transB": 1}),
    ]
    kernel, weights = rng.normal(size=(8, 3, 3, 3)), 3 * rng.normal(size=(classes, 8))
    core = core_of(
        nodes, {"K": kernel.astype(np.float32), "W": weights.astype(np.float32)}, classes
    )
    manifest = Manifest(
        "many",
        tuple(labels),
        SPEC,
        prediction_sets=PredictionSets(
            2 * classes,
            {"0.95": coverage_threshold},
            {"0.95": tuple([coverage_threshold] * classes)},
        ),
        familiarity=Familiarity("energy", 5.0, 2 * classes),
        distribution=Distribution(
            2 * classes, *(Bins((middle,), (0.5, 0.5)) for middle in (0.5, 8.0, classes / 2))
        ),
    )
    return contract.write(folder / "many", manifest, graphs(core, SPEC)).folder


def image(seed: int = 0) -> np.ndarray:
    """A random image."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
