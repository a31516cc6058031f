"""The class activation map weighs tokens, and the last image whichever way its channels lie."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from service.bundle import folder as contract
from service.image.resize import Input
from support.transformer import GRID, SIDE, SPEC, Transformer, exported
from training.export import layers
from training.export.core import ACTIVATION, graphs
from training.export.ends import Names
from training.export.foreign import read_core


@pytest.mark.parametrize("opset", [16, 17], ids=["norm spelled out", "norm"])
def test_the_map_of_averaged_tokens_sums_to_the_logit(opset, tmp_path):
    torch.manual_seed(0)
    network = Transformer(class_token=False).eval()
    core = exported(network, tmp_path, opset)
    files = graphs(core, SPEC)
    session = ort.InferenceSession(files[contract.CAM])
    x = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)
    target = np.array([0, 1, 2, 1])
    logits, cam = session.run(["logits", "cam"], {"x": x, "target": target})
    assert cam.shape == (4, 1, GRID, GRID)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    assert np.abs(logits - expected).max() < 1e-5
    chosen = expected[range(4), target] - network.head.bias.detach().numpy()[target]
    assert np.abs(cam.sum((1, 2, 3)) - chosen).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ([None, 36, 8], (24, 24), (0, 6, 6)),
        ([None, 197, 8], (224, 224), (1, 14, 14)),
        ([None, 198, 8], (224, 224), (2, 14, 14)),
        ([None, 201, 8], (224, 224), (5, 14, 14)),
        ([None, 33, 8], (64, 128), (1, 4, 8)),
        ([None, 7, 9, 8], (224, 288), (None, 7, 9)),
        ([None, 37, 1, 8], (24, 24), None),
        ([None, 31, 8], (224, 224), None),
        ([None, 1, 8], (224, 224), None),
        ([None, None, 8], (224, 224), None),
    ],
)
def test_the_grid_of_tokens_has_the_proportions_of_the_image(shape, image, expected):
    grid = layers.grid_of("tokens", {"x": [None, 3, *image], "tokens": shape})
    assert (grid and (grid.prefix, grid.height, grid.width)) == expected


# As tf2onnx writes them: the sums over (N, h, w, C), and the convolutions between transposes.
TAILS = {
    "channels last to the end": [
        ("Transpose", ["c"], ["t"], {"perm": [0, 2, 3, 1]}),
        ("Add", ["t", "bias"], ["s"], {}),
        ("Relu", ["s"], ["map"], {}),
        ("ReduceMean", ["map"], ["f"], {"axes": [1, 2], "keepdims": 0}),
    ],
    "a product as a convolution": [
        ("Transpose", ["c"], ["t"], {"perm": [0, 2, 3, 1]}),
        ("MatMul", ["t", "mix"], ["m"], {}),
        ("Relu", ["m"], ["map"], {}),
        ("ReduceMean", ["map"], ["f"], {"axes": [1, 2], "keepdims": 0}),
    ],
    "there and back": [
        ("Transpose", ["c"], ["t"], {"perm": [0, 2, 3, 1]}),
        ("Add", ["t", "bias"], ["s"], {}),
        ("Transpose", ["s"], ["b"], {"perm": [0, 3, 1, 2]}),
        ("Relu", ["b"], ["map"], {}),
        ("ReduceMean", ["map"], ["f"], {"axes": [2, 3], "keepdims": 0}),
    ],
}
PIXELS, WIDE, CLASSES = 12, 5, 3


def turning(path, tail):
    """x → Conv → Relu → Conv → `tail` → f (N, 5) → logits, with convolutions of (N, C, h, w)."""
    rng = np.random.default_rng(0)
    shapes = {
        "first": (3, 3, 3, 3),
        "k": (WIDE, 3, 3, 3),
        "bias": (WIDE,),
        "mix": (WIDE, WIDE),
        "v": (WIDE, CLASSES),
    }
    body = [
        ("Conv", ["x", "first"], ["e"], {"pads": [1, 1, 1, 1]}),
        ("Relu", ["e"], ["d"], {}),
        ("Conv", ["d", "k"], ["c"], {"strides": [2, 3]}),
        *tail,
        ("MatMul", ["f", "v"], ["y"], {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in body],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, PIXELS, PIXELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [
            numpy_helper.from_array(np.zeros(WIDE, np.float32), "nothing"),
            *(
                numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
                for name, shape in shapes.items()
            ),
        ],
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("chosen", [None, "map"], ids=["found", "named"])
def test_the_map_of_the_last_image_sums_to_the_logit_whichever_way_it_lies(name, chosen, tmp_path):
    path = turning(tmp_path / "net.onnx", TAILS[name])
    core = read_core(path, PIXELS, CLASSES, Names(cam_layer=chosen))
    files = graphs(core, Input(PIXELS, (0.5,) * 3, (0.5,) * 3))
    session = ort.InferenceSession(files[contract.CAM])
    x = np.random.default_rng(1).standard_normal((4, 3, PIXELS, PIXELS)).astype(np.float32)
    target = np.array([0, 1, 2, 1])
    logits, cam = session.run(["logits", "cam"], {"x": x, "target": target})
    assert cam.shape == (4, 1, 5, 4)
    assert np.abs(cam.sum((1, 2, 3)) - logits[range(4), target]).max() < 1e-5
    theirs = ort.InferenceSession(path).run(None, {"x": x})[0]
    assert np.abs(logits - theirs).max() < 1e-5


def test_an_early_convolution_is_the_layer_of_a_network_without_tokens(tmp_path):
    tail = [
        ("Relu", ["c"], ["map"], {}),
        ("ReduceMean", ["map"], ["f0"], {"axes": [2, 3], "keepdims": 0}),
        *(("Tanh", [f"f{number}"], [f"f{number + 1}"], {}) for number in range(12)),
        ("Identity", ["f12"], ["f"], {}),
    ]
    core = read_core(turning(tmp_path / "net.onnx", tail), PIXELS, CLASSES, Names())
    (maker,) = [node for node in core.model.graph.node if ACTIVATION in node.output]
    assert maker.op_type == "Relu"


def test_an_image_that_the_logits_do_not_depend_on_is_not_taken(tmp_path):
    tail = [
        ("Transpose", ["c"], ["t"], {"perm": [0, 2, 3, 1]}),
        ("Relu", ["t"], ["map"], {}),
        ("ReduceMean", ["map"], ["g"], {"axes": [1, 2], "keepdims": 0}),
        ("ReduceMean", ["c"], ["h"], {"axes": [2, 3], "keepdims": 0}),
        ("Mul", ["g", "nothing"], ["i"], {}),
        ("Add", ["h", "i"], ["f"], {}),
    ]
    core = read_core(turning(tmp_path / "net.onnx", tail), PIXELS, CLASSES, Names())
    (maker,) = [node for node in core.model.graph.node if ACTIVATION in node.output]
    assert maker.op_type == "Conv"
