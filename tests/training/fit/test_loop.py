"""Training: resumable to the same result, the same on two processes as on one."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from support.recipes import SMALL
from support.servers import ROOT
from training.fit import runs
from training.fit.adversarial import attacked
from training.fit.batches import NOISE, TOGETHER, Batches, hide, mirror, shift, spoil
from training.fit.loop import fit, make_fabric, prepare, settle
from training.fit.muon import orthogonal
from training.fit.runs import RunError
from training.networks.ours import CandorNet


def test_a_run_keeps_all_that_an_export_needs(run, recipe, dataset):
    assert run.recipe == recipe
    assert run.subject.fingerprint == dataset.fingerprint
    assert run.input.mean == pytest.approx(
        dataset.training.pixels.reshape(-1, 3).mean(0) / 255, abs=1e-6
    )
    assert run.report["test"]["macro avg"]["f1-score"] > 0.5
    assert not run.network.training


def test_it_learns_to_tell_discs_apart(run, dataset):
    x = (
        torch.from_numpy(dataset.test.pixels).permute(0, 3, 1, 2) / 255
        - torch.tensor(run.subject.mean).view(1, 3, 1, 1)
    ) / torch.tensor(run.subject.std).view(1, 3, 1, 1)
    assert (run.network(x).argmax(1).numpy() == dataset.test.labels).mean() > 0.6


def test_a_settled_network_has_the_mean_of_its_last_weights_and_the_statistics_of_whole_images(
    dataset, drawn, tmp_path
):
    small = replace(SMALL, epochs=1, settle=2, batch=30, ghost_batch=30, hide=0.5)
    trainer = prepare(make_fabric(small, "cpu"), dataset, str(drawn), small, tmp_path)
    group, weights = trainer.network.module.groups[0], []
    while trainer.step < trainer.steps:
        trainer.train_step()
        weights.append(group.convolutions[0].weight.detach().clone())
    settle(trainer, dataset.training)
    assert torch.allclose(
        group.convolutions[0].weight,
        torch.stack(weights[-2 * trainer.batches.steps_per_epoch :]).mean(0),
        atol=1e-6,
    )

    seen = []
    group.norms[0].register_forward_pre_hook(lambda _norm, inputs: seen.append(inputs[0]))
    trainer.logits(dataset.training)
    assert torch.allclose(group.norms[0].running_mean, torch.cat(seen).mean((0, 2, 3)), atol=1e-5)


def test_a_settling_network_sees_whole_images_that_hardly_move(dataset):
    recipe = replace(
        SMALL, epochs=1, settle=1, translate=8, hide=1.0, flip=False, batch=30, ghost_batch=30
    )
    last = Batches.of(dataset.training, recipe).step(3)[0]
    plain = {
        tuple(image[:, 8:24, 8:24].flatten().tolist())
        for image in Batches.of(dataset.training, recipe).pixels
    }
    windows = [
        last[:, :, 8 + down : 24 + down, 8 + right : 24 + right]
        for down in range(-2, 3)
        for right in range(-2, 3)
    ]
    found = [
        any(tuple(window[row].flatten().tolist()) in plain for window in windows)
        for row in range(len(last))
    ]
    assert all(found)


@pytest.mark.parametrize(
    "small",
    [
        replace(SMALL, epochs=1, settle=1),
        replace(SMALL, network="seed_cnn", options={}, optimizer="adam"),
    ],
    ids=lambda r: r.network,
)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(small, dataset, drawn, tmp_path):
    fit(dataset, str(drawn), small, tmp_path / "whole", accelerator="cpu")
    half = prepare(make_fabric(small, "cpu"), dataset, str(drawn), small, tmp_path / "halved")
    for _ in range(half.steps // 2):
        half.train_step()
    runs.save_checkpoint(half.folder, half.state, half.scheduled, half.step, half.seconds)
    fit(dataset, str(drawn), small, tmp_path / "halved", resume=True, accelerator="cpu")
    whole, halved = (load_file(tmp_path / name / runs.WEIGHTS) for name in ("whole", "halved"))
    assert all(torch.equal(whole[name], halved[name]) for name in whole)


def test_a_training_begins_with_the_weights_of_another_run(run, dataset, drawn, tmp_path):
    recipe = replace(run.recipe, epochs=1, adversarial=2.0, rate=0.0, precision="bf16-mixed")
    made = fit(dataset, str(drawn), recipe, tmp_path, start=run)
    for (name, ours), theirs in zip(
        made.network.named_parameters(), run.network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_resuming_nothing_is_refused(dataset, drawn, tmp_path):
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        fit(dataset, str(drawn), SMALL, tmp_path, resume=True, accelerator="cpu")


def test_resuming_another_recipe_is_refused(dataset, drawn, tmp_path):
    started = prepare(make_fabric(SMALL, "cpu"), dataset, str(drawn), SMALL, tmp_path)
    runs.save_checkpoint(started.folder, started.state, started.scheduled, 1, 1.0)
    with pytest.raises(RunError, match="of another recipe"):
        fit(dataset, str(drawn), replace(SMALL, seed=1), tmp_path, resume=True, accelerator="cpu")


def test_an_unfinished_run_is_no_run(tmp_path):
    with pytest.raises(
        RunError,
        match=r"holds no finished run \(recipe.json, weights.safetensors, report.json missing\)",
    ):
        runs.load(tmp_path)


def test_two_processes_have_the_gradient_of_one(drawn, tmp_path):
    program = ROOT / "support" / "gradient_of_a_step.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for command, out in (
        ([], one),
        (["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], two),
    ):
        subprocess.run(
            [sys.executable, *command, program, drawn, out],
            env=environment,
            cwd=tmp_path,
            check=True,
            timeout=240,
            capture_output=True,
        )
    expected, found = load_file(one), load_file(two)
    assert set(expected) == set(found)
    for name, gradient in expected.items():
        difference = (gradient - found[name]).abs().max()
        assert difference <= 1e-5 * gradient.abs().max() + 1e-7, (
            name,
            float(difference),
            float(gradient.abs().max()),
        )


def test_batches_follow_from_seed_and_step_alone(dataset):
    batches = Batches.of(dataset.training, SMALL)
    for first, second in zip(
        batches.step(1), Batches.of(dataset.training, SMALL).step(1), strict=True
    ):
        assert torch.equal(first, second)
    assert not torch.equal(batches.step(0)[0], batches.step(2)[0])


def test_every_image_is_seen_both_ways_in_two_epochs(dataset):
    plain = replace(SMALL, translate=0, batch=90, ghost_batch=90)
    batches = Batches.of(dataset.training, plain)
    seen = [{row.numpy().tobytes() for row in batches.step(step)[0]} for step in (0, 1)]
    pixels = np.moveaxis(dataset.training.pixels, -1, 1)
    for row in pixels:
        ways = {
            np.ascontiguousarray(row).tobytes(),
            np.ascontiguousarray(row[:, :, ::-1]).tobytes(),
        }
        assert ways <= seen[0] | seen[1]
        assert all(len(ways & epoch) == 1 for epoch in seen)


def test_shifting_moves_pixels_and_mirrors_the_border():
    pixels = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6)
    moved = shift(pixels, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(pixels.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    for row in range(2):
        assert any(
            torch.equal(moved[row], padded[row, :, y : y + 6, x : x + 6])
            for y in range(5)
            for x in range(5)
        )


def test_hiding_puts_blocks_of_the_mean_colour_into_some_images():
    pixels = torch.full((400, 3, 32, 32), 200, dtype=torch.uint8)
    colour = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    hidden = (hide(pixels, 0.3, colour, torch.Generator().manual_seed(0)) == colour).all(1)
    blocks = hidden.view(400, 8, 4, 8, 4).float().mean((2, 4))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    share = blocks.mean((1, 2))
    assert 0.2 < (share > 0).float().mean() < 0.4
    assert 0.15 < share[share > 0].mean() < 0.35
    assert torch.equal(hide(pixels, 0.0, colour, torch.Generator().manual_seed(0)), pixels)


def test_spoiling_changes_about_the_share_of_images_and_follows_from_its_generator():
    pixels = torch.randint(
        60, 200, (8 * TOGETHER, 3, 32, 32), generator=torch.Generator().manual_seed(1)
    ).to(torch.uint8)
    before = torch.random.get_rng_state()
    spoilt = spoil(pixels, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(spoil(pixels, 0.5, torch.Generator().manual_seed(0)), spoilt)
    untouched = (spoilt == pixels).flatten(1).all(1).float().mean()
    assert 0.1 < untouched < 0.5
    assert torch.equal(spoil(pixels, 0.0, torch.Generator().manual_seed(0)), pixels)


def test_noise_has_at_most_its_strength():
    grey = torch.full((400, 3, 32, 32), 128, dtype=torch.uint8)
    changed = spoil(grey, 1.0, torch.Generator().manual_seed(0)).float() / 255
    strengths = changed.flatten(1).std(1)
    assert strengths.max() < 1.1 * NOISE
    assert strengths.max() > 0.8 * NOISE


def test_an_attack_stays_within_its_radius_beyond_the_noise_and_raises_the_loss():
    torch.manual_seed(0)
    network = SMALL.network_for(4).eval()
    x, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    radius = torch.tensor([0.05, 0.1, 0.2]).view(1, 3, 1, 1)
    changed = attacked(network, x, labels, radius)
    assert ((changed - x).abs() <= 3 * radius * 1.0001).all()
    losses = [torch.nn.functional.cross_entropy(network(rows), labels) for rows in (x, changed)]
    assert losses[1] > losses[0]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_mirroring_turns_the_chosen():
    pixels = torch.rand(2, 3, 4, 4).mul(255).to(torch.uint8)
    turned = mirror(pixels, torch.tensor([True, False]))
    assert torch.equal(turned[0], pixels[0].flip(-1))
    assert torch.equal(turned[1], pixels[1])


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (9, 9)])
def test_muons_direction_has_singular_values_near_one(shape):
    values = torch.linalg.svdvals(
        orthogonal(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), iterations=6)
    )
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_whitening_makes_patches_uncorrelated():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.randn(200, 3, 34, 34, generator=generator), 3, 1)
    network = CandorNet(3, (8, 8, 8))
    network.prepare(x)
    seen = network.whitening(x)[:, :12].permute(1, 0, 2, 3).flatten(1)
    covariance = seen @ seen.T / seen.shape[1]
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 0.05
    assert covariance.diagonal().max() < 1.1


def test_a_batch_that_ghost_batches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="batch is 50, no multiple of ghost_batch 20"):
        replace(SMALL, batch=50)
