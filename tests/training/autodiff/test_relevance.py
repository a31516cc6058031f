"""The rules of relevance equal torch's gradient in float64 where the same things are constants."""

import math
import operator

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from support.transformer import SIDE, Transformer, exported
from training.autodiff import gradient_graph, has_relevance, relevance_graph

TOKENS, WIDTH = 36, 48  # of an image as tokens: their number, and the pixels of each


class Classifier(nn.Module):
    """A linear layer, `inner`, and another linear layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.embed, self.head = nn.Linear(WIDTH, 8), nn.LazyLinear(3)

    def forward(self, x, inner=None):
        tokens = self.embed(x.reshape(-1, TOKENS, WIDTH))
        return self.head((inner or self.inner)(tokens).flatten(1))


def centred(x):
    return x - x.mean(-1, keepdim=True)


def layer_norm(x):
    return centred(x) / (centred(x).pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().detach()


def group_norm(x):
    return layer_norm(x.reshape(-1, 6, 6 * 8)).reshape(x.shape)


def rms_norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def shared(product, a, b):
    """Relevance of a product: a half for either factor."""
    return (product(a, b.detach()) + product(a.detach(), b)) / 2


def ratio(function):
    return lambda x: x * (function(x) / x).detach()


def times(x, gate):
    return x * gate.detach()


def tanh_of(x):
    return 1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def attention(x, product=torch.matmul):
    return product(torch.softmax(product(x, x.transpose(-2, -1)) / 3, -1), x)


# A function, and one with the gradient that the rules give it; opsets.
CASES = {
    "layer norm": (lambda x: functional.layer_norm(x, (8,)), layer_norm),
    "group norm": (lambda x: functional.group_norm(x, 6), group_norm),
    "RMS norm": (rms_norm, lambda x: times(x, rms_norm(x) / x)),
    "unit vectors": (functional.normalize, lambda x: x / x.norm(dim=1, keepdim=True).detach()),
    "GELU": (functional.gelu, ratio(functional.gelu)),
    "GELU by tanh": (lambda x: 0.5 * x * tanh_of(x), lambda x: times(0.5 * x, tanh_of(x))),
    "SiLU": (functional.silu, ratio(functional.silu)),
    "Hardswish": (functional.hardswish, ratio(functional.hardswish)),
    "Mish": (functional.mish, ratio(functional.mish)),
    "ELU": (functional.elu, ratio(functional.elu)),
    "tanh": (torch.tanh, ratio(torch.tanh)),
    "a sigmoid that is no gate": (torch.sigmoid, torch.sigmoid),
    "ReLU": (torch.relu, torch.relu),
    "attention": (attention, lambda x: attention(x, lambda a, b: shared(torch.matmul, a, b))),
    "product": (
        lambda x: x[..., :4] * x[..., 4:],
        lambda x: shared(operator.mul, x[..., :4], x[..., 4:]),
    ),
    "gated linear unit": (functional.glu, lambda x: times(x[..., :4], x[..., 4:].sigmoid())),
    "the gates of a recurrent network": (
        lambda x: x[..., :4].sigmoid() * x[..., 4:].tanh(),
        lambda x: times(ratio(torch.tanh)(x[..., 4:]), x[..., :4].sigmoid()),
    ),
}


def run(model, x, target):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "target": target})


def images(rows):
    return np.random.default_rng(1).standard_normal((rows, 3, SIDE, SIDE)).astype(np.float32)


def expected(forward, x, target):
    """x times the gradient of the target's logit, in float64."""
    exact = torch.from_numpy(x).double().requires_grad_()
    logits = forward(exact)
    (gradient,) = torch.autograd.grad(
        logits.gather(1, torch.from_numpy(target)[:, None]).sum(), exact
    )
    return logits.detach().numpy(), (exact * gradient).detach().numpy()


def check(model, forward, x, target, tolerance=2e-5):
    logits, relevance = run(model, x, target)
    exact_logits, exact = expected(forward, x, target)
    assert np.abs(logits - exact_logits).max() < 1e-4
    difference = np.abs(relevance - exact).max() / np.abs(exact).max()
    assert difference < tolerance, difference


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("case", CASES)
def test_a_rule_equals_torchs_gradient_with_the_same_constants(case, opset, tmp_path):
    function, relevant = CASES[case]
    torch.manual_seed(0)
    network = Classifier(function).eval()
    network(torch.zeros(1, 3, SIDE, SIDE))
    model = exported(network, tmp_path, opset).model
    oracle = network.double()
    check(relevance_graph(model), lambda x: oracle(x, relevant), images(2), np.array([0, 2]))


def exact_block(block, x):
    y = exact_norm(block.norms[0], x)
    attention, heads = block.attention, block.attention.num_heads
    projected = functional.linear(y, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected.chunk(3, -1))
    weights = torch.softmax(
        shared(torch.matmul, q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1]), -1
    )
    mixed = shared(torch.matmul, weights, v).transpose(1, 2).flatten(2)
    x = x + attention.out_proj(mixed)
    first, _, second = block.mlp
    return x + second(ratio(functional.gelu)(first(exact_norm(block.norms[1], x))))


def exact_norm(norm, x):
    return layer_norm(x) * norm.weight + norm.bias


def exact_forward(network, x):
    x = network.embed(x).flatten(2).transpose(1, 2)
    if network.token is not None:
        x = torch.cat([network.token.expand(len(x), -1, -1), x], 1)
    x = x + network.position
    for block in network.blocks:
        x = exact_block(block, x)
    x = exact_norm(network.norm, x)
    return network.head(x[:, 0] if network.token is not None else x.mean(1))


@pytest.mark.parametrize("opset", [16, 17], ids=["norm spelled out", "norm"])
@pytest.mark.parametrize("class_token", [False, True])
def test_the_relevance_of_a_transformer_equals_that_of_torch(class_token, opset, tmp_path):
    torch.manual_seed(0)
    network = Transformer(class_token=class_token).eval()
    model = exported(network, tmp_path, opset).model
    assert has_relevance(model)
    exact = network.double()
    check(relevance_graph(model), lambda x: exact_forward(exact, x), images(3), np.array([0, 2, 1]))


def test_where_no_rule_differs_relevance_is_x_times_the_gradient(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    ).eval()
    network(torch.zeros(1, 3, SIDE, SIDE))
    model = exported(network, tmp_path).model
    x, target = images(2), np.array([-1, 1])
    logits, relevance = run(relevance_graph(model), x, target)
    plain, gradient = run(gradient_graph(model), x, target)
    assert np.array_equal(logits, plain)
    assert np.array_equal(relevance, x * gradient)
    assert not has_relevance(model)


@pytest.mark.parametrize("inner", ["ReLU", "SiLU", "gated linear unit", "group norm"])
def test_relevance_is_for_attention_and_norms_of_features(inner, tmp_path):
    network = Classifier(CASES[inner][0]).eval()
    network(torch.zeros(1, 3, SIDE, SIDE))
    assert not has_relevance(exported(network, tmp_path).model)


@pytest.mark.parametrize("case", ["layer norm", "SiLU", "ReLU", "product", "gated linear unit"])
def test_without_biases_all_of_the_logit_is_handed_back(case, tmp_path):
    torch.manual_seed(0)
    network = Classifier(CASES[case][0]).eval()
    network(torch.zeros(1, 3, SIDE, SIDE))
    nn.init.zeros_(network.embed.bias)
    nn.init.zeros_(network.head.bias)
    model = exported(network, tmp_path).model
    logits, relevance = run(relevance_graph(model), images(4), np.full(4, 1))
    assert np.abs(relevance.sum((1, 2, 3)) - logits[:, 1]).max() < 1e-4 * np.abs(logits).max()
