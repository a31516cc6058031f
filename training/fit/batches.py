"""The images of each training step, as a function of the seed and the number of the step alone.

A resumed run therefore sees what an uninterrupted one would have seen. Batches are uint8
(N, 3, H, W), RGB, and class indices int64 (N,).

Images are shifted and mirrored. Holes of the mean colour (Hide-and-Seek) make the network look at
all of a thing; they also make its answers meaningful when an explanation covers a part. With
`augmix` some images are corrupted, so that the network learns to recognise such images.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from training.data import Pixels
from training.data.augment import Batch, corrupt, crop, cut_holes, mirror, recolour, shift
from training.data.images import Images, Stored
from training.fit.recipes import FINETUNE_TRANSLATE, Recipe

# Each purpose draws from a generator of its own: one that is switched off leaves the others alone.
ORDER, SHIFT, FLIP, HOLES = range(4)
PURPOSES = 4
# added to the step: the seeds of the four purposes leave no gap for a fifth
AUGMIX_STEP, COLOUR_STEP = 1_000_000, 2_000_000


@dataclass(frozen=True)
class Batches:
    """Training batches of `recipe` over `images`, in another order each epoch.

    With random parts (`Recipe.crop`), `images` are whole, stretched to one shape.

    The images that do not fill a batch at the end of an epoch are left out.
    """

    images: Images
    labels: Int64[Tensor, " count"]
    recipe: Recipe
    mean_colour: UInt8[Tensor, "3 1 1"]
    ahead: "dict[int, Future[Pixels]]" = field(default_factory=dict)
    decoder: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @classmethod
    def of(cls, images: Images, recipe: Recipe) -> "Batches":
        """The batches of `images`."""
        mean, _ = images.moments()
        colour = torch.from_numpy((255 * mean).round().astype(np.uint8)).view(3, 1, 1)
        return cls(images, torch.from_numpy(images.labels), recipe, colour)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one epoch, at least one."""
        return max(1, len(self.labels) // self.recipe.batch)

    def step(self, step: int) -> tuple[Batch, Int64[Tensor, " rows"]]:
        """The images and class indices of `step`, counted from 0, over all processes."""
        recipe, epoch, index = self.recipe, step // self.steps_per_epoch, self._index(step)
        pixels = planes(self._pixels(step))
        finetuning = epoch >= recipe.epochs
        translate = min(recipe.translate, FINETUNE_TRANSLATE) if finetuning else recipe.translate
        if recipe.crop:
            # shifts and parts never occur together: both say which part of an image is seen
            aspects = torch.from_numpy(self.images.aspects[index])
            size = recipe.train_size or recipe.size
            pixels = crop(pixels, aspects, size, recipe.crop, self._generator(step, SHIFT))
        elif translate:
            pixels = shift(pixels, translate, self._generator(step, SHIFT))
        if recipe.flip:
            pixels = mirror(pixels, self._flips(epoch)[index])
        if recipe.colour:
            pixels = recolour(pixels, recipe.colour, self._generator(step + COLOUR_STEP, HOLES))
        if recipe.holes and not finetuning:
            pixels = cut_holes(pixels, recipe.holes, self.mean_colour, self._generator(step, HOLES))
        if recipe.augmix:
            pixels = corrupt(pixels, recipe.augmix, self._generator(step + AUGMIX_STEP, HOLES))
        return pixels, self.labels[index]

    def _index(self, step: int) -> Int64[Tensor, " rows"]:
        epoch, part = divmod(step, self.steps_per_epoch)
        generator = self._generator(epoch, ORDER)
        if self.recipe.balance == "sampling":
            shares = 1 / torch.bincount(self.labels)[self.labels]
            order = torch.multinomial(shares, len(shares), replacement=True, generator=generator)
        else:
            # a new order each epoch, so that other images are left out at its end
            order = torch.randperm(len(self.labels), generator=generator)
        return order[part * self.recipe.batch : (part + 1) * self.recipe.batch]

    def _pixels(self, step: int) -> Pixels:
        """The images of `step`; those in files are decoded while the step before it computes."""
        if not isinstance(self.images.held, Stored):
            return self.images.rows(self._index(step).numpy())
        decoded = self.ahead.pop(step, None) or self._decode(step)
        self.ahead.clear()
        self.ahead[step + 1] = self._decode(step + 1)
        return decoded.result()

    def _decode(self, step: int) -> "Future[Pixels]":
        return self.decoder.submit(self.images.rows, self._index(step).numpy())

    def _flips(self, epoch: int) -> Bool[Tensor, " count"]:
        # half of the images are mirrored in even epochs, the other half in odd ones: two epochs
        # show every image both ways (Jordan, arXiv 2404.00498)
        first = torch.randint(0, 2, (len(self.labels),), generator=self._generator(0, FLIP)).bool()
        return ~first if epoch % 2 else first

    def _generator(self, number: int, purpose: int) -> torch.Generator:
        seed = (self.recipe.seed * 1_000_003 + number) * PURPOSES + purpose
        return torch.Generator().manual_seed(seed)


def planes(pixels: Pixels) -> Batch:
    """Images as networks take them, with the channels first."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
