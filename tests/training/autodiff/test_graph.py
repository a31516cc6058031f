"""Whole graphs: gradients and class activation maps against torch."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training.autodiff import DifferentiationError, Graph, cam_graph, gradient_graph
from training.export.ours import export_core
from training.networks.ours import Network


class Branching(Network):
    """Shared values, a residual, a concatenation, a strided convolution: what makes totals of gradients."""

    cam_layer = texture_layer = "late"

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.late = nn.Sequential(nn.Conv2d(12, 8, 3, stride=2), nn.GELU())
        self.head = nn.Linear(8, 4)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def features(self, x):
        a = torch.relu(self.norm(self.first(x)))
        b = a + torch.sigmoid(self.second(a))
        return self.late(torch.cat([a, b], 1)).mean((2, 3))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Branching().eval()


@pytest.fixture(scope="module")
def core(network):
    return export_core(network, 8).model


def run(model, **feeds):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(
        zip(
            [output.name for output in session.get_outputs()], session.run(None, feeds), strict=True
        )
    )


@pytest.mark.parametrize("rows", [1, 5])
def test_the_gradient_is_torchs(rows, network, core):
    x = torch.randn(
        rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows), requires_grad=True
    )
    target = torch.arange(rows) % 4
    logits = network(x)
    (expected,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), x)
    found = run(gradient_graph(core), x=x.detach().numpy(), target=target.numpy())
    assert np.allclose(found["logits"], logits.detach().numpy(), atol=1e-5)
    difference = np.abs(found["gradient"] - expected.numpy())
    assert difference.max() < 1e-6 * 10, (difference.max(), difference.mean())


def test_minus_one_is_the_predicted_class(network, core):
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    predicted = network(x).argmax(1).numpy()
    model = gradient_graph(core)
    given = run(model, x=x.numpy(), target=predicted)["gradient"]
    assert np.array_equal(run(model, x=x.numpy(), target=np.full(3, -1))["gradient"], given)


def test_the_cam_is_torchs(network, core):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    kept = []
    handle = network.late.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = network(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), kept[0])
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)
    found = run(cam_graph(core, "activation"), x=x.numpy(), target=np.array([2, 2]))
    assert np.allclose(found["cam"], expected.detach().numpy(), atol=1e-6)
    assert np.allclose(found["activation_gradient"], gradient.numpy(), atol=1e-6)
    assert np.allclose(found["activation"], kept[0].detach().numpy(), atol=1e-5)


def test_weights_are_shared_bit_for_bit(core):
    given = {tensor.raw_data for tensor in core.graph.initializer if len(tensor.raw_data) > 64}
    assert given <= {tensor.raw_data for tensor in gradient_graph(core).graph.initializer}


def test_the_graph_that_was_given_is_not_changed(core):
    before = core.SerializeToString(deterministic=True)
    gradient_graph(core)
    cam_graph(core, "activation")
    assert core.SerializeToString(deterministic=True) == before


def test_names_that_are_ours_may_be_theirs():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "gradient"], ["target"]),
        helper.make_node("Relu", ["target"], ["cam"]),
        helper.make_node("MatMul", ["cam", "gradient/ArgMax_1"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(np.eye(3, dtype=np.float32), name)
        for name in ("gradient", "gradient/ArgMax_1")
    ]
    graph = helper.make_graph(
        nodes,
        "clash",
        [info("x", TensorProto.FLOAT, ["N", 3])],
        [info("logits", TensorProto.FLOAT, ["N", 3])],
        weights,
    )
    model = gradient_graph(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    found = run(model, x=np.array([[1, -2, 3]], np.float32), target=np.array([-1]))
    assert found["gradient"].tolist() == [[0, 0, 1]]


def test_a_target_that_the_answer_does_not_depend_on_is_refused(core):
    graph = Graph(core)
    with pytest.raises(DifferentiationError, match="the answer does not depend on features"):
        graph.gradient({"x": "seed"}, ["features"])


def test_no_file_of_this_machine_is_named(core):
    for model in (core, gradient_graph(core)):
        assert b".py" not in model.SerializeToString()
        assert not model.metadata_props
        onnx.checker.check_model(model, full_check=True)


def test_shapes_are_known_behind_a_group_normalization():
    tensors = {
        "scale": np.ones(4, np.float32),
        "bias": np.zeros(4, np.float32),
        "W": np.ones((4, 4, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["normed"], num_groups=2),
        helper.make_node("Conv", ["normed", "W"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "normed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    built = Graph(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )
    assert built.shape("normed") == built.shape("y") == (None, 4, 6, 6)
    assert [node.op_type for node in built.model.graph.node] == ["GroupNormalization", "Conv"]
