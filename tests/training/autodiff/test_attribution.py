"""The graphs for gradients and class activation maps compute what torch computes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training.autodiff import DifferentiationError, cam_graph, gradient_graph
from training.export.ours import export_core
from training.networks.ours import Network


class Branching(Network):
    """A network with values that are used several times: their gradients are sums."""

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
def test_the_gradient_equals_that_of_torch(rows, network, core):
    x = torch.randn(
        rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows), requires_grad=True
    )
    target = torch.arange(rows) % 4
    logits = network(x)
    (expected,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), x)
    result = run(gradient_graph(core), x=x.detach().numpy(), target=target.numpy())
    assert np.allclose(result["logits"], logits.detach().numpy(), atol=1e-5)
    difference = np.abs(result["gradient"] - expected.numpy())
    assert difference.max() < 1e-5, (difference.max(), difference.mean())


def test_the_target_minus_one_is_the_predicted_class(network, core):
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    predicted = network(x).argmax(1).numpy()
    model = gradient_graph(core)
    expected = run(model, x=x.numpy(), target=predicted)["gradient"]
    assert np.array_equal(run(model, x=x.numpy(), target=np.full(3, -1))["gradient"], expected)


def test_the_class_activation_map_equals_that_of_torch(network, core):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    kept = []
    handle = network.late.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = network(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), kept[0])
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)
    result = run(cam_graph(core, "activation"), x=x.numpy(), target=np.array([2, 2]))
    assert np.allclose(result["cam"], expected.detach().numpy(), atol=1e-6)
    assert np.allclose(result["activation_gradient"], gradient.numpy(), atol=1e-6)
    assert np.allclose(result["activation"], kept[0].detach().numpy(), atol=1e-5)


def test_the_gradient_graph_has_the_weights_bit_for_bit(core):
    weights = {tensor.raw_data for tensor in core.graph.initializer if len(tensor.raw_data) > 64}
    assert weights <= {tensor.raw_data for tensor in gradient_graph(core).graph.initializer}


def test_differentiating_leaves_the_given_graph_unchanged(core):
    before = core.SerializeToString(deterministic=True)
    gradient_graph(core)
    cam_graph(core, "activation")
    assert core.SerializeToString(deterministic=True) == before


def test_a_given_graph_may_use_the_names_of_added_tensors():
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
    result = run(model, x=np.array([[1, -2, 3]], np.float32), target=np.array([-1]))
    assert result["gradient"].tolist() == [[0, 0, 1]]


def test_a_graph_without_the_layer_has_no_class_activation_map(core):
    with pytest.raises(
        DifferentiationError, match="no node of the graph computes the tensor 'nope'"
    ):
        cam_graph(core, "nope")


def test_no_graph_names_a_file_of_the_exporting_machine(core):
    for model in (core, gradient_graph(core)):
        assert b".py" not in model.SerializeToString()
        assert not model.metadata_props
        onnx.checker.check_model(model, full_check=True)
