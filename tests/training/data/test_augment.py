"""Augmentation changes what it promises, in about the share of images that it promises."""

import pytest
import torch

from training.data.augment import (
    MIXED_TOGETHER,
    NOISE,
    corrupt,
    crop,
    cut_holes,
    mirror,
    recolour,
    shift,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shifting_moves_pixels_and_mirrors_the_border():
    pixels = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6)
    moved = shift(pixels, 2, seeded())
    padded = torch.nn.functional.pad(pixels.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    for row in range(2):
        assert any(
            torch.equal(moved[row], padded[row, :, y : y + 6, x : x + 6])
            for y in range(5)
            for x in range(5)
        )


def test_mirroring_turns_the_chosen_images_alone():
    pixels = torch.rand(2, 3, 4, 4).mul(255).to(torch.uint8)
    turned = mirror(pixels, torch.tensor([True, False]))
    assert torch.equal(turned[0], pixels[0].flip(-1))
    assert torch.equal(turned[1], pixels[1])


def test_holes_are_blocks_of_the_mean_colour_in_the_share_of_images():
    pixels = torch.full((400, 3, 32, 32), 200, dtype=torch.uint8)
    colour = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    holes = (cut_holes(pixels, 0.3, colour, seeded()) == colour).all(1)
    blocks = holes.view(400, 8, 4, 8, 4).float().mean((2, 4))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    share = blocks.mean((1, 2))
    assert 0.2 < (share > 0).float().mean() < 0.4
    assert 0.15 < share[share > 0].mean() < 0.35
    assert torch.equal(cut_holes(pixels, 0.0, colour, seeded()), pixels)


def test_corruption_changes_about_the_share_of_images_and_follows_from_its_generator():
    pixels = torch.randint(60, 200, (8 * MIXED_TOGETHER, 3, 32, 32), generator=seeded(1))
    pixels = pixels.to(torch.uint8)
    before = torch.random.get_rng_state()
    corrupted = corrupt(pixels, 0.5, seeded())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(corrupt(pixels, 0.5, seeded()), corrupted)
    untouched = (corrupted == pixels).flatten(1).all(1).float().mean()
    assert 0.1 < untouched < 0.5
    assert torch.equal(corrupt(pixels, 0.0, seeded()), pixels)


def test_noise_has_at_most_its_strength():
    grey = torch.full((400, 3, 32, 32), 128, dtype=torch.uint8)
    corrupted = corrupt(grey, 1.0, seeded()).float() / 255
    deviations = corrupted.flatten(1).std(1)
    assert deviations.max() < 1.1 * NOISE
    assert deviations.max() > 0.8 * NOISE


def ramp(rows, size):
    """Images whose red is the column and whose green is the row, in 0…250."""
    steps = torch.linspace(0, 250, size)
    red, green = steps.expand(size, size), steps.view(-1, 1).expand(size, size)
    return torch.stack([red, green, red]).round().to(torch.uint8).expand(rows, 3, size, size)


def sides(parts, size):
    """Width and height of the parts of a ramp, as shares of it."""
    steps = size - 1
    return (
        (parts[:, channel].amax((1, 2)) - parts[:, channel].amin((1, 2))) / 250 * steps / size
        for channel in (0, 1)
    )


@pytest.mark.parametrize("aspect", [1.0, 0.75, 3.0])
def test_a_crop_shows_a_part_of_the_promised_area_and_shape(aspect):
    parts = crop(ramp(300, 64), torch.full((300,), aspect), 64, 0.4, seeded()).float()
    assert parts.shape == (300, 3, 64, 64)
    width, height = sides(parts, 64)
    shapes = aspect * width / height
    assert 0.7 < shapes.min() < 0.8
    assert 1.25 < shapes.max() < 1.4
    area = width * height
    if aspect < 1.34:
        assert 0.35 < area.min() < 0.5
        assert 0.7 < area.max() < 1.01


def test_parts_are_cut_anywhere_and_keep_their_colours():
    parts = crop(ramp(300, 64), torch.ones(300), 32, 0.4, seeded())
    assert torch.equal(parts[:, 0], parts[:, 2])
    for channel in (0, 1):
        assert parts[:, channel].amin() < 10
        assert parts[:, channel].amax() > 240


def test_recolouring_keeps_shapes_and_stays_within_its_factor():
    pixels = torch.full((200, 3, 4, 4), 100, dtype=torch.uint8)
    pixels[:, :, :2] = 140
    changed = recolour(pixels, 0.2, seeded()).float()
    assert changed.min() >= 100 * 0.8 - 9
    assert changed.max() <= 140 * 1.2 + 9
    assert changed.mean((1, 2, 3)).std() > 5
    assert (changed[:, :, :2] > changed[:, :, 2:]).all()
    assert torch.equal(recolour(pixels, 0.0, seeded()), pixels)
