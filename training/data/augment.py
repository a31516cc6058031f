"""Augmentation of training images: pure functions of a batch and a random generator.

Batches are uint8 (N, 3, H, W), RGB. All functions but `crop` return a batch of the same shape.
"""

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import AugMix

from service.image.resize import Size, sides

BLOCKS = 8  # a side
MIXED_TOGETHER = 25  # images that share AugMix's random draws
WIDEST = (4 / 3) ** 2  # the widest aspect ratio of a part over the narrowest
NOISE = 0.15  # the largest standard deviation, of pixels in 0…1

Batch = UInt8[Tensor, "rows 3 H W"]


def shift(pixels: Batch, most: int, generator: torch.Generator) -> Batch:
    """Moves each image by −`most`…`most` pixels in both directions; borders are mirrored."""
    rows, _, height, width = pixels.shape
    # torch pads no uint8 by reflection
    padded = functional.pad(pixels.float(), (most,) * 4, mode="reflect").to(torch.uint8)
    offsets = torch.randint(0, 2 * most + 1, (2, rows, 1), generator=generator)
    lines, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    row = torch.arange(rows)[:, None, None]
    return padded[row, :, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def crop(
    pixels: Batch,
    aspects: Float32[Tensor, " rows"],
    size: Size,
    least: float,
    generator: torch.Generator,
) -> UInt8[Tensor, "rows 3 part_height part_width"]:
    """A random part of each image, scaled to `size` with antialiasing.

    The images were stretched from the `aspects` (width over height), and a part has the shape that
    it had before: its share of the area is drawn from `least`…1, its aspect from 3:4…4:3 times that
    of `size`, its place anywhere (Szegedy et al., "Going Deeper with Convolutions",
    arXiv 1409.4842). Where it would be larger than the image it is smaller, in the same shape.
    """
    rows, columns = sides(size)
    share, narrow, across, down = torch.rand(4, len(pixels), generator=generator)
    aspect = columns / rows * WIDEST ** (narrow - 0.5)
    area, ratio = least + (1 - least) * share, aspect / aspects
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    shrink = torch.stack([width, height]).amax(0).clamp(min=1)
    lines, top = _placed(pixels.shape[2], height, shrink, down)
    spans, left = _placed(pixels.shape[3], width, shrink, across)
    parts = [
        functional.interpolate(
            image[None, :, y : y + h, x : x + w], (rows, columns), mode="bilinear", antialias=True
        )
        for image, x, y, w, h in zip(pixels, left, top, spans, lines, strict=True)
    ]
    return torch.cat(parts)


def _placed(
    side: int,
    share: Float32[Tensor, " rows"],
    shrink: Float32[Tensor, " rows"],
    place: Float32[Tensor, " rows"],
) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, " rows"]]:
    """Length and start, in pixels, of a `share` of a side, divided by `shrink`, at `place` 0…1."""
    length = (side * share / shrink).round().long().clamp(1, side)
    return length, ((side - length) * place).round().long()


def recolour(pixels: Batch, most: float, generator: torch.Generator) -> Batch:
    """Multiplies brightness, contrast and saturation of each image by 1 − `most`…1 + `most`."""
    factors = 1 + most * (2 * torch.rand(3, len(pixels), 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = factors
    x: Tensor = pixels.float() * brightness
    x = x.mean((1, 2, 3), keepdim=True).lerp(x, contrast)
    x = x.mean(1, keepdim=True).lerp(x, saturation)
    return x.round().clamp(0, 255).to(torch.uint8)


def mirror(pixels: Batch, chosen: Bool[Tensor, " rows"]) -> Batch:
    """Exchanges left and right of the `chosen` images."""
    return torch.where(chosen[:, None, None, None], pixels.flip(-1), pixels)


def cut_holes(
    pixels: Batch, share: float, colour: UInt8[Tensor, "3 1 1"], generator: torch.Generator
) -> Batch:
    """Replaces up to half of the 8 × 8 blocks of a `share` of the images by `colour`.

    Source: Singh and Lee, "Hide-and-Seek", arXiv 1811.02545.
    """
    rows, _, height, width = pixels.shape
    chosen = torch.rand(rows, 1, 1, generator=generator) < share
    probability = torch.rand(rows, 1, 1, generator=generator) / 2
    holes = (torch.rand(rows, BLOCKS, BLOCKS, generator=generator) < probability) & chosen
    down, across = (torch.arange(side) * BLOCKS // side for side in (height, width))
    return torch.where(holes[:, down][:, :, across][:, None], colour, pixels)


def corrupt(pixels: Batch, share: float, generator: torch.Generator) -> Batch:
    """Applies AugMix to a `share` of the images, and noise of up to NOISE to another `share`.

    The two shares are drawn independently. AugMix (Hendrycks et al., arXiv 1912.02781) is that of
    torchvision, without the consistency loss of the paper.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    # AugMix takes no generator, it draws from torch's global state, which must not change here
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mixed = _augmix(pixels, share).float()
        level = torch.rand(len(pixels), 1, 1, 1)
        chosen = torch.rand(len(pixels), 1, 1, 1) < share
        deviation = NOISE * 255 * level * chosen
        return (mixed + deviation * torch.randn(mixed.shape)).round().clamp(0, 255).to(torch.uint8)


def _augmix(pixels: Batch, share: float) -> Batch:
    mix = AugMix()
    # a call for each image takes ten times as long as one for 25
    parts = torch.split(pixels, MIXED_TOGETHER)
    return torch.cat([mix(part) if torch.rand(()) < share else part for part in parts])
