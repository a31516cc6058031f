"""A name becomes a network with features, a head and layers for maps, or a sentence."""

import pytest
import torch
from torch import nn

from training.networks.catalogue import build, normalisation, runs_on
from training.networks.wrapped import NetworkError

SMALL = "support.networks:small"


@pytest.mark.parametrize(
    ("name", "cam_layer", "texture_layer"),
    [
        (SMALL, "network.5", "network.1"),
        ("resnet18", "network.layer4", "network.bn1"),
        ("shufflenet_v2_x0_5", "network.conv5", "network.conv1.1"),
    ],
)
def test_a_foreign_network_gets_a_head_and_layers_for_maps(name, cam_layer, texture_layer):
    network = build(name, 5, {}, 64).eval()
    assert (network.cam_layer, network.texture_layer) == (cam_layer, texture_layer)
    x, maps = torch.randn(2, 3, 64, 64), []
    for layer in (cam_layer, texture_layer):
        network.get_submodule(layer).register_forward_hook(lambda *call: maps.append(call[2]))
    logits = network(x)
    assert logits.shape == (2, 5)
    assert torch.equal(logits, network.head(network.features(x)))
    assert all(map_.ndim == 4 and map_.shape[-1] > 1 for map_ in maps)
    assert not any(getattr(module, "inplace", False) for module in network.modules())


def test_efficientnet_lite0_takes_any_size_and_drops_paths_in_training_alone():
    network = build("efficientnet_lite0", 5, {"drop_path": 0.5}, 64).eval()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        assert network.features(x).shape == (4, 1280)
        assert not torch.equal(network.train()(x), network(x))
    assert runs_on(network, 48)
    assert not runs_on(build("seed_cnn", 5, {}), 48)


def test_a_head_that_only_training_sees_does_not_learn():
    network = build("support.networks:two_heads", 5, {}, 32)
    still = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert still == {"network.second.weight", "network.second.bias"}
    assert network.train()(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("resnet19", 64, r"resnet19 is no network .*resnet18.*pip install 'candor\[timm\]'"),
        ("squeezenet1_1", 64, "squeezenet1_1 has no linear layer at its end"),
        ("vit_b_32", 64, "does not run on images of 64 × 64 pixels .*choose another --size"),
        ("support.networks:with_softmax", 32, "no softmax behind it"),
        ("support.networks:without_maps", 32, "class activation maps need"),
        ("support.networks:no_network", 32, "returns str: it must return a torch.nn.Module"),
        ("support.networks:nothing", 32, "cannot be imported"),
        ("nowhere:small", 32, "cannot be imported"),
        ("os:getcwd", 32, "fails .*it must take the number of classes"),
        ("candor_net", 64, "candor_net sees 32 × 32 pixels, not 64"),
    ],
)
def test_a_network_that_cannot_be_trained_is_a_sentence(name, size, sentence, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    # the transformer's weights are drawn for nothing: 88 million numbers
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor)
    with pytest.raises(NetworkError, match=sentence):
        build(name, 8, {}, size)


def test_the_normalisation_is_that_of_the_published_weights():
    assert normalisation("efficientnet_lite0").mean == pytest.approx((127 / 255,) * 3)
    assert normalisation("resnet18").std == (0.229, 0.224, 0.225)
    assert normalisation("candor_net") is None
    assert normalisation(SMALL) is None
