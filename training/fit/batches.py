"""The images of each step, as a function of the seed and the number of the step alone: a resumed run sees what it would have seen.

Batches are uint8 (N, 3, S, S) and int64 (N,). Augmentation: a shift by up to `translate` pixels over mirrored borders, and an
alternating flip: half the images are mirrored in even epochs, the other half in odd ones (Jordan 2024), so that two epochs see
each image both ways; and blocks of the mean colour, as Hide-and-Seek hides them (Singh and Lee, arXiv 1811.02545): a network that has
seen images with holes looks at all of a thing, and what it says when a block is taken away is no answer to a stranger's question; and
spoilt images, for a network that shall bear them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import AugMix

from training.data.read import Images
from training.fit.recipes import SETTLED_TRANSLATE, Recipe

BLOCKS = 8  # a side
TOGETHER = 25  # images that are mixed with the same spoilt ones
SPOILING = 1_000_000  # added to the step, whose four generators have other purposes
NOISE = 0.15  # the largest standard deviation, of pixels in 0…1


@dataclass(frozen=True)
class Batches:
    """Training batches of `recipe` over `images`; incomplete last batches are left out, other images each epoch."""

    pixels: UInt8[Tensor, "count 3 size size"]
    labels: Int64[Tensor, " count"]
    recipe: Recipe
    mean_colour: UInt8[Tensor, "3 1 1"]

    @classmethod
    def of(cls, images: Images, recipe: Recipe) -> "Batches":
        """The batches of `images`, whose pixels are uint8 (N, S, S, 3)."""
        pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).contiguous()
        colour = torch.from_numpy(images.pixels.mean((0, 1, 2)).round().astype(np.uint8)).view(
            3, 1, 1
        )
        return cls(pixels, torch.from_numpy(images.labels), recipe, colour)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one epoch."""
        return max(1, len(self.labels) // self.recipe.batch)

    def step(self, step: int) -> tuple[UInt8[Tensor, "rows 3 size size"], Int64[Tensor, " rows"]]:
        """The global batch of `step`, counted from 0."""
        epoch, part = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.labels), generator=self._generator(epoch, 0))
        index = order[part * self.recipe.batch : (part + 1) * self.recipe.batch]
        pixels = self.pixels[index]
        settling = epoch >= self.recipe.epochs
        translate = (
            min(self.recipe.translate, SETTLED_TRANSLATE) if settling else self.recipe.translate
        )
        if translate:
            pixels = shift(pixels, translate, self._generator(step, 1))
        if self.recipe.flip:
            pixels = mirror(pixels, self._flips(epoch)[index])
        if self.recipe.hide and not settling:
            pixels = hide(pixels, self.recipe.hide, self.mean_colour, self._generator(step, 3))
        if self.recipe.spoil:
            pixels = spoil(pixels, self.recipe.spoil, self._generator(step + SPOILING, 3))
        return pixels, self.labels[index]

    def _flips(self, epoch: int) -> Bool[Tensor, " count"]:
        first = torch.randint(0, 2, (len(self.labels),), generator=self._generator(0, 2)).bool()
        return ~first if epoch % 2 else first

    def _generator(self, number: int, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.recipe.seed * 1_000_003 + number) * 4 + purpose)


def shift(
    pixels: UInt8[Tensor, "rows 3 size size"], most: int, generator: torch.Generator
) -> UInt8[Tensor, "rows 3 size size"]:
    """Each image moved by −most…most pixels each way, the border mirrored."""
    rows, size = len(pixels), pixels.shape[-1]
    padded = functional.pad(pixels.float(), (most,) * 4, mode="reflect").to(torch.uint8)
    offsets = torch.randint(0, 2 * most + 1, (2, rows, 1), generator=generator)
    lines, columns = offsets + torch.arange(size)
    row = torch.arange(rows)[:, None, None]
    return padded[row, :, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def hide(
    pixels: UInt8[Tensor, "rows 3 size size"],
    share: float,
    colour: UInt8[Tensor, "3 1 1"],
    generator: torch.Generator,
) -> UInt8[Tensor, "rows 3 size size"]:
    """In a `share` of the images, up to half of the 8 × 8 blocks replaced by `colour`."""
    rows, size = len(pixels), pixels.shape[-1]
    chosen = torch.rand(rows, 1, 1, generator=generator) < share
    hidden = torch.rand(rows, 1, 1, generator=generator) / 2
    blocks = (torch.rand(rows, BLOCKS, BLOCKS, generator=generator) < hidden) & chosen
    block = torch.arange(size) * BLOCKS // size
    return torch.where(blocks[:, block][:, :, block][:, None], colour, pixels)


def spoil(
    pixels: UInt8[Tensor, "rows 3 size size"], share: float, generator: torch.Generator
) -> UInt8[Tensor, "rows 3 size size"]:
    """A `share` of the images as AugMix mixes them, another `share` with noise of up to NOISE (an image may get both).

    AugMix: Hendrycks et al., arXiv 1912.02781, as torchvision has it and without its consistency loss; images that lie beside each other
    share its draws.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mix = AugMix()
        parts = [
            mix(part) if torch.rand(()) < share else part for part in torch.split(pixels, TOGETHER)
        ]
        mixed = torch.cat(parts).float()
        strength = (
            NOISE
            * 255
            * torch.rand(len(pixels), 1, 1, 1)
            * (torch.rand(len(pixels), 1, 1, 1) < share)
        )
        return (mixed + strength * torch.randn(mixed.shape)).round().clamp(0, 255).to(torch.uint8)


def mirror(
    pixels: UInt8[Tensor, "rows 3 size size"], which: Bool[Tensor, " rows"]
) -> UInt8[Tensor, "rows 3 size size"]:
    """Images left and right exchanged where `which`."""
    return torch.where(which[:, None, None, None], pixels.flip(-1), pixels)
