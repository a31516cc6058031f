"""A training resumes to the same result, and two processes have the gradient of one."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from support.recipes import SMALL
from support.servers import ROOT
from training.fit import runs
from training.fit.fabric import check_parts, make_fabric
from training.fit.loop import load_averaged_weights, train
from training.fit.runs import RunError
from training.fit.trainer import prepare


def test_a_trained_network_distinguishes_discs(run, dataset):
    x = (
        torch.from_numpy(dataset.test.pixels).permute(0, 3, 1, 2) / 255
        - torch.tensor(run.subject.mean).view(1, 3, 1, 1)
    ) / torch.tensor(run.subject.std).view(1, 3, 1, 1)
    assert (run.network(x).argmax(1).numpy() == dataset.test.labels).mean() > 0.6


def test_fine_tuning_ends_with_mean_weights_and_the_statistics_of_whole_images(
    dataset, drawn, tmp_path
):
    small = replace(SMALL, epochs=1, finetune_epochs=2, batch=30, ghost_batch=30, holes=0.5)
    trainer = prepare(make_fabric(small, "cpu"), dataset, str(drawn), small, tmp_path)
    group, weights = trainer.network.module.groups[0], []
    while trainer.step < trainer.steps:
        trainer.train_step()
        weights.append(group.convolutions[0].weight.detach().clone())
    load_averaged_weights(trainer, dataset.training)
    assert torch.allclose(
        group.convolutions[0].weight,
        torch.stack(weights[-2 * trainer.batches.steps_per_epoch :]).mean(0),
        atol=1e-6,
    )

    seen = []
    group.norms[0].register_forward_pre_hook(lambda _norm, inputs: seen.append(inputs[0]))
    trainer.logits(dataset.training)
    assert torch.allclose(group.norms[0].running_mean, torch.cat(seen).mean((0, 2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    "small",
    [
        replace(SMALL, epochs=1, finetune_epochs=1),
        replace(SMALL, network="seed_cnn", options={}, optimizer="adam"),
    ],
    ids=lambda r: r.network,
)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(small, dataset, drawn, tmp_path):
    train(dataset, str(drawn), small, tmp_path / "whole", accelerator="cpu")
    half = prepare(make_fabric(small, "cpu"), dataset, str(drawn), small, tmp_path / "halved")
    for _ in range(half.steps // 2):
        half.train_step()
    runs.save_checkpoint(half.folder, half.state, half.scheduled, half.step, half.seconds)
    train(dataset, str(drawn), small, tmp_path / "halved", resume=True, accelerator="cpu")
    whole, halved = (load_file(tmp_path / name / runs.WEIGHTS) for name in ("whole", "halved"))
    assert all(torch.equal(whole[name], halved[name]) for name in whole)


def test_a_training_begins_with_the_weights_of_another_run(run, dataset, drawn, tmp_path):
    recipe = replace(
        run.recipe, epochs=1, adversarial=2.0, learning_rate_scale=0.0, precision="bf16-mixed"
    )
    result = train(dataset, str(drawn), recipe, tmp_path, start=run)
    for (name, after), before in zip(
        result.network.named_parameters(), run.network.parameters(), strict=True
    ):
        assert torch.equal(after, before), name


def test_more_processes_than_parts_of_a_step_are_rejected():
    check_parts(SMALL, 2)
    with pytest.raises(RunError, match="has 2 parts, and there are 3 processes: start fewer"):
        check_parts(SMALL, 3)


def test_resuming_without_a_checkpoint_is_rejected(dataset, drawn, tmp_path):
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        train(dataset, str(drawn), SMALL, tmp_path, resume=True, accelerator="cpu")


def test_resuming_by_another_recipe_is_rejected(dataset, drawn, tmp_path):
    started = prepare(make_fabric(SMALL, "cpu"), dataset, str(drawn), SMALL, tmp_path)
    runs.save_checkpoint(started.folder, started.state, started.scheduled, 1, 1.0)
    with pytest.raises(RunError, match="of another recipe"):
        train(dataset, str(drawn), replace(SMALL, seed=1), tmp_path, resume=True, accelerator="cpu")


RECIPES = ("SMALL", "TRANSFER")


@pytest.fixture(scope="module")
def gradients(drawn, tmp_path_factory):
    """The folders of the gradients that one process has, and two."""
    program = ROOT / "support" / "gradient_of_a_step.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for command, out in (
        ([], one),
        (["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], two),
    ):
        subprocess.run(
            [sys.executable, *command, program, drawn, out, *RECIPES],
            env=environment,
            cwd=out,
            check=True,
            timeout=240,
            capture_output=True,
        )
    return one, two


@pytest.mark.parametrize("recipe_name", RECIPES)
def test_two_processes_have_the_gradient_of_one(recipe_name, gradients):
    expected, found = (load_file(folder / f"{recipe_name}.safetensors") for folder in gradients)
    assert set(expected) == set(found)
    for name, gradient in expected.items():
        difference = (gradient - found[name]).abs().max()
        assert difference <= 1e-5 * gradient.abs().max() + 1e-7, (
            name,
            float(difference),
            float(gradient.abs().max()),
        )
