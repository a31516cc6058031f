"""Batches follow from the seed and the step, and show every image as the recipe asks."""

from dataclasses import replace

import numpy as np
import torch

from support.recipes import SMALL
from training.fit.batches import Batches, planes


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


def test_fine_tuning_shows_whole_images_that_hardly_move(dataset):
    recipe = replace(
        SMALL,
        epochs=1,
        finetune_epochs=1,
        translate=8,
        holes=1.0,
        flip=False,
        batch=30,
        ghost_batch=30,
    )
    last = Batches.of(dataset.training, recipe).step(3)[0]
    plain = {
        tuple(image[:, 8:24, 8:24].flatten().tolist()) for image in planes(dataset.training.pixels)
    }
    windows = [
        last[:, :, 8 + down : 24 + down, 8 + right : 24 + right]
        for down in range(-2, 3)
        for right in range(-2, 3)
    ]
    known = [
        any(tuple(window[row].flatten().tolist()) in plain for window in windows)
        for row in range(len(last))
    ]
    assert all(known)
