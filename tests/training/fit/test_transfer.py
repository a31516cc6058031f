"""A network with published weights: its head first, then all layers, the best weights kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from support.networks import small
from support.recipes import TRANSFER
from training.data.images import Images
from training.fit import runs
from training.fit.batches import Batches
from training.fit.fabric import make_fabric
from training.fit.head import fit_head
from training.fit.loop import _progress, train
from training.fit.optimizers import optimizers
from training.fit.stopping import Best
from training.fit.tracking import Tracker
from training.fit.trainer import prepare
from training.networks.weights import Weights


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(1)
    return Weights(**TRANSFER.weights, tensors=small(7).state_dict())


def fit(dataset, drawn, folder, published, **options):
    return train(
        dataset, str(drawn), TRANSFER, folder, published=published, accelerator="cpu", **options
    )


@pytest.fixture(scope="module")
def whole(dataset, drawn, published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    return fit(dataset, drawn, folder, published), folder


def test_a_transferred_run_loads_without_its_published_weights(whole, dataset):
    run, folder = whole
    assert run.recipe == TRANSFER
    assert run.report["test"]["accuracy"] > 0.5
    assert runs.load(folder).network.head.weight.equal(run.network.head.weight)
    assert run.input.mean == pytest.approx(dataset.training.moments()[0], abs=1e-6)


def test_a_resumed_transfer_ends_where_an_uninterrupted_one_does(
    whole, dataset, drawn, published, tmp_path
):
    fabric = make_fabric(TRANSFER, "cpu")
    half = prepare(
        fabric, dataset, str(drawn), TRANSFER, tmp_path, published=published, head_first=True
    )
    progress = _progress(half, Tracker(), dataset.validation)
    for _ in range(half.batches.steps_per_epoch + 2):
        next(progress)
    runs.save_checkpoint(half.folder, half.state, half.scheduled, half.step, half.seconds)
    fit(dataset, drawn, tmp_path, published, resume=True)
    expected, found = (load_file(folder / runs.WEIGHTS) for folder in (whole[1], tmp_path))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_head_fitted_on_features_that_separate_the_classes_is_right():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    pixels = rng.integers(0, 80, (240, 4, 4, 3)).astype(np.uint8)
    pixels[np.arange(240), :, :, labels] += 90
    images, head = Images(pixels, labels), nn.Linear(3, 3)

    def describe(batch):
        return batch.float().mean((2, 3))

    parts = images.take(np.arange(160)), images.take(np.arange(160, 240))
    fitted = fit_head(head, describe, *parts, torch.ones(3))
    held_out = torch.from_numpy(parts[1].pixels).permute(0, 3, 1, 2)
    logits = head(describe(held_out))
    assert fitted.accuracy == 1
    assert (logits.argmax(1).numpy() == parts[1].labels).all()
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(parts[1].labels))
    assert float(loss.detach()) == pytest.approx(fitted.loss, rel=1e-3)


def test_rates_grow_with_depth_and_follow_a_cosine():
    network = TRANSFER.network_for(3)
    (scheduled,) = optimizers(network, TRANSFER)
    rates = {
        id(parameter): (group["initial_lr"], group["weight_decay"])
        for group in scheduled.optimizer.param_groups
        for parameter in group["params"]
    }
    first, last = network.network[0].weight, network.head.weight
    assert rates[id(first)] == pytest.approx((3e-4, 0.05))
    assert rates[id(last)] == pytest.approx((3e-3, 0.05))
    assert rates[id(network.head.bias)] == pytest.approx((3e-3, 0))
    factors = [scheduled.factor(done) for done in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_the_weights_with_the_least_loss_are_kept_and_epochs_since_counted():
    network = nn.Linear(1, 1)
    best = Best(network)
    for value, loss in ((1.0, 0.5), (2.0, 0.4), (3.0, 0.6), (4.0, float("nan"))):
        nn.init.constant_(network.weight, value)
        best.consider(network, loss)
    assert best.network.weight.item() == 2
    assert int(best.waited) == 2


def test_the_training_ends_when_the_loss_no_longer_falls(dataset, drawn, tmp_path):
    recipe = replace(TRANSFER, epochs=9)
    trainer = prepare(make_fabric(recipe, "cpu"), dataset, str(drawn), recipe, tmp_path)
    trainer.best.loss.zero_()
    assert len(list(_progress(trainer, Tracker(), dataset.validation))) == trainer.step
    assert trainer.step == recipe.patience * trainer.batches.steps_per_epoch


def test_sampling_draws_every_class_equally_often():
    labels = np.repeat([0, 1], [180, 20])
    images = Images(np.zeros((200, 8, 8, 3), np.uint8), labels)
    recipe = replace(TRANSFER, balance="sampling", size=8, batch=200, ghost_batch=100)
    seen = torch.cat([Batches.of(images, recipe).step(step)[1] for step in range(10)])
    assert 0.45 < seen.float().mean() < 0.55


def test_the_loss_of_a_rare_class_weighs_more(dataset, drawn, tmp_path):
    trainer = prepare(make_fabric(TRANSFER, "cpu"), dataset, str(drawn), TRANSFER, tmp_path)
    uneven = torch.arange(len(trainer.batches.labels)) % 9 // 4
    trainer.batches = replace(trainer.batches, labels=uneven)
    weights = trainer.class_weights
    counts = torch.bincount(trainer.batches.labels)
    assert float((weights * counts).sum()) == pytest.approx(len(trainer.batches.labels))
    assert torch.allclose(weights * counts, (weights * counts)[0])
