"""Folding moves pools and batch norms into convolutions, and the function stays the same."""

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from training.autodiff import prune
from training.export.ours import export_core
from training.fit.recipes import RECIPES
from training.networks.folding import fold, pooled_filters


def exported(*layers):
    """The layers as an ONNX graph from x (N, 3, 17, 17)."""
    network = nn.Sequential(*layers).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, 17, 17),),
            dynamo=True,
            opset_version=20,
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    return program.model_proto


def operators(model):
    return [node.op_type for node in model.graph.node]


def answer(model):
    x = np.random.default_rng(0).standard_normal((3, 3, 17, 17)).astype(np.float32)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]


def norm():
    layer = nn.BatchNorm2d(8)
    torch.manual_seed(0)
    for tensor in (layer.running_mean, layer.weight.data, layer.bias.data):
        tensor.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
def test_convolution_pool_and_norm_become_one_convolution(bias, padding):
    torch.manual_seed(1)
    model = exported(
        nn.Conv2d(3, 8, 3, padding=padding, bias=bias), nn.AvgPool2d(2), norm(), nn.GELU()
    )
    folded = fold(model)
    assert operators(folded) == ["Conv", "Gelu"]
    assert np.abs(answer(folded) - answer(model)).max() < 1e-5


@pytest.mark.parametrize("padding", [0, 1])
def test_a_pool_comes_before_a_convolution_whose_channels_fill_a_block(padding):
    torch.manual_seed(1)
    model = exported(
        nn.Conv2d(3, 32, 1),
        nn.GELU(),
        nn.Conv2d(32, 8, 3, padding=padding),
        nn.AvgPool2d(2),
        norm(),
    )
    folded = fold(model)
    assert operators(folded) == ["Conv", "Gelu", "AveragePool", "Conv"]
    assert [list(tensor.dims) for tensor in folded.graph.initializer if len(tensor.dims) == 4][
        -1
    ] == [8, 32, 3, 3]
    assert np.abs(answer(folded) - answer(model)).max() < 1e-5


def test_a_pool_with_too_much_padding_goes_into_the_weights():
    torch.manual_seed(1)
    model = exported(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 8, 5, padding=2), nn.AvgPool2d(2))
    folded = fold(model)
    assert operators(folded) == ["Conv", "Conv"]
    assert np.abs(answer(folded) - answer(model)).max() < 1e-5


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 8, 1), nn.AvgPool2d(2)),  # one convolution would multiply as much
        (nn.Conv2d(3, 8, 3, stride=2), nn.AvgPool2d(2)),
        (nn.Conv2d(3, 8, 3), nn.AvgPool2d(2, padding=1)),
        (nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, stride=2)),
        (nn.Conv2d(3, 8, 3), nn.GELU(), nn.AvgPool2d(2)),
        (nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)),
    ],
    ids=["pointwise", "strided", "padded", "overlapping", "not linear", "maximum"],
)
def test_layers_stay_where_folding_gains_nothing_or_changes_the_function(layers):
    model = exported(*layers)
    before, expected = operators(model), answer(model)
    folded = fold(model)
    assert operators(folded) == before
    assert np.array_equal(answer(folded), expected)


def test_a_convolution_with_another_reader_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            y = self.convolution(x)
            return functional.avg_pool2d(y, 2).mean((2, 3)) + y.mean((2, 3))

    model = exported(Twice())
    assert "AveragePool" in operators(fold(model))


def test_pooled_filters_are_the_mean_of_shifted_filters():
    filters = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    two = functional.avg_pool2d(functional.conv2d(x, torch.from_numpy(filters)), 2)
    one = functional.conv2d(x, torch.from_numpy(pooled_filters(filters, 2)), stride=2)
    assert (two - one).abs().max() < 1e-5


def test_candor_net_keeps_the_pools_that_save_multiplications():
    network = RECIPES["candor_net"].network_for(10).eval()
    core = export_core(network, 32)
    answering = onnx.ModelProto()
    answering.CopyFrom(core.model)
    del answering.graph.output[1:]  # features and activation
    prune(answering)
    halved = ["AveragePool", "Conv", "Gelu"]
    assert operators(answering) == [
        *["Conv", "Gelu"] * 3,
        *halved,
        "Conv",
        "Gelu",
        *halved,
        *["Conv", "Gelu"] * 2,
        "ReduceMean",
        "Gemm",
    ]
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    session = ort.InferenceSession(
        core.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"x": x.numpy()})
    assert np.abs(logits - network(x).detach().numpy()).max() < 1e-6
