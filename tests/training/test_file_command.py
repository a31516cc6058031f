"""`bundle --onnx` needs no torch, and says its steps with the seconds."""

import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.folder import load
from support.servers import ROOT, environment

SIZE, CLASSES = 24, 4
WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "captum", "scipy")))
from training.__main__ import main
main(sys.argv[1:])
"""


@pytest.fixture
def file(tmp_path):
    info = helper.make_tensor_value_info
    kernel = np.random.default_rng(0).normal(size=(CLASSES, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "k"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "g",
        [info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(kernel, "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_file_becomes_a_bundle_without_torch_and_the_steps_are_said(file, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, "bundle", "--onnx", str(file)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "bundle")],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^ *\d+\.\d s  (.*)$", done.stderr, re.MULTILINE)
    assert steps == [
        f"runs {file} to learn its shapes and its answers",
        "derives the graphs of explanations",
        "runs the graphs, beside the file",
        "proves gradient.onnx in float64",
        "proves cam.onnx",
        "writes the bundle",
        "is done",
    ]
    assert {"exact/logits", "exact/saliency"} <= set(load(tmp_path / "bundle").manifest.parity)
