"""A scan gives the same data set whether its images fit into memory or not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.image.resize import Input
from service.workers import host
from support.recipes import SMALL
from training.data import read, scan
from training.data.images import Stored
from training.fit.fabric import make_fabric
from training.fit.loop import train
from training.fit.trainer import prepare

SPEC = Input(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def streamed(drawn, monkeypatch):
    """The data set of `drawn` on a machine without the memory for it."""
    monkeypatch.setattr(host, "memory_limit_bytes", lambda: 100_000)
    return read.read(str(drawn), SPEC, 30, 0)


def test_images_that_do_not_fit_stay_in_their_files(streamed, dataset):
    assert isinstance(streamed.training.held, Stored)
    assert isinstance(dataset.training.held, np.ndarray)
    assert streamed.fingerprint == dataset.fingerprint
    for ours, theirs in (
        (streamed.training, dataset.training),
        (streamed.validation, dataset.validation),
        (streamed.test, dataset.test),
    ):
        assert ours.names.tolist() == theirs.names.tolist()
        assert np.array_equal(ours.labels, theirs.labels)
        assert np.array_equal(ours.pixels, theirs.pixels)


def test_the_limit_is_a_share_of_the_memory_of_all_processes(monkeypatch):
    images = 1000 * 32 * 32 * 3
    monkeypatch.setattr(host, "memory_limit_bytes", lambda: 4 * images)
    assert scan.fits(1000, 32)
    assert not scan.fits(1001, 32)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not scan.fits(1000, 32)
    assert scan.fits(500, 32)


def test_a_machine_that_names_no_memory_holds_nothing(monkeypatch):
    monkeypatch.setattr(host, "memory_limit_bytes", lambda: None)
    assert not scan.fits(1, 32)


def test_a_network_learns_the_same_from_files_as_from_memory(streamed, dataset, drawn, tmp_path):
    recipe = replace(SMALL, epochs=1, finetune_epochs=1, holes=0.5)
    runs = [
        train(data, str(drawn), recipe, tmp_path / name, accelerator="cpu")
        for name, data in (("files", streamed), ("memory", dataset))
    ]
    first, second = (run.network.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_step_decodes_its_batch_and_the_next_alone(streamed, drawn, tmp_path):
    trainer = prepare(make_fabric(SMALL, "cpu"), streamed, str(drawn), SMALL, tmp_path)
    reads = []
    files = trainer.batches.images.held.files
    for position, file in enumerate(files):
        files[position] = file._replace(read=lambda file=file: reads.append(file) or file.read())
    for step in range(3):
        trainer.train_step()
        trainer.batches.ahead[step + 1].result()
        assert len(reads) == (step + 2) * SMALL.batch
