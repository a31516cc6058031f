"""Images with the indices of their classes, held in memory or decoded whenever they are used.

`Images` is the same to its users in either case; `pixels` reads all of them into memory. Decoding
is shared among threads.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image

from service.errors import RequestError
from service.image import decode, resize
from service.image.colour import Colour
from service.image.decode import MAX_LOCAL_PIXELS
from service.image.resize import Input, InputPixels, Size, pixels_of, sides
from service.workers import host
from training.data import ClassIndices, DataError, Pixels
from training.data.files import File

THREADS = min(host.cores(), 8)  # each may hold an image of MAX_LOCAL_PIXELS
WINDOW = 256  # images that are decoded and not yet used
HELD_SHARE = 0.25  # of memory; splits are copies: for a moment twice as much is held
THUMBNAIL = (8, 9)  # height and width, in pixels
MOST_MEASURED = 2**28  # pixels; more do not change a mean

Thumbnail = UInt8[np.ndarray, "height width 3"]
Thumbnails = UInt8[np.ndarray, "count height width 3"]
Aspects = Float32[np.ndarray, " aspects"]
Channels = Float64[np.ndarray, "3"]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stored:
    """Images that stay in their files and are decoded for each use."""

    files: Sequence[File]
    spec: Input

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: np.ndarray) -> Pixels:
        """The images at `index`, decoded.

        Raises:
            DataError: a file has changed since it was scanned.
        """
        spec, files = self.spec, [self.files[position] for position in index]
        pixels = np.empty((len(files), *spec.shape, 3), np.uint8)
        for row, image in enumerate(in_threads(lambda file: load(file, spec), files)):
            pixels[row] = image
        return pixels


@dataclass(frozen=True)
class Images:
    """Images with the indices of their classes.

    `held` are their pixels, or the files that these are decoded from. `names` (N,) are paths in the
    source, or numbers where the images have no paths. `thumbnails` (N, 8, 9, 3) are small views.
    `files` are the files that the images were read from, if they were, and `aspects` (N,) the width
    of each over its height.
    """

    held: Pixels | Stored
    labels: ClassIndices
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, np.str_))
    thumbnails: Thumbnails = field(default_factory=lambda: np.zeros((0, *THUMBNAIL, 3), np.uint8))
    files: Sequence[File] = ()
    aspects: Aspects = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        if not len(self.names):
            # the way to assign in a frozen dataclass
            object.__setattr__(self, "names", np.arange(len(self.labels)).astype(np.str_))
        if not len(self.aspects):
            object.__setattr__(self, "aspects", np.ones(len(self.labels), np.float32))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> Pixels:
        """The pixels of all images."""
        return self.held[np.arange(len(self))] if isinstance(self.held, Stored) else self.held

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of each image, in pixels."""
        if isinstance(self.held, Stored):
            return self.held.spec.shape
        height, width = self.held.shape[1:3]
        return height, width

    def rows(self, index: np.ndarray) -> Pixels:
        """The pixels of the images at `index`, in its order."""
        return self.held[index]

    def parts(self, rows: int) -> Iterator[Pixels]:
        """The pixels of all images in order, `rows` at a time."""
        for start in range(0, len(self), rows):
            yield self.rows(np.arange(start, min(start + rows, len(self))))

    def take(self, index: np.ndarray) -> "Images":
        """The images at `index`, in its order."""
        held = self.held
        return Images(
            Stored([held.files[position] for position in index], held.spec)
            if isinstance(held, Stored)
            else held[index],
            self.labels[index],
            self.names[index],
            self.thumbnails[index] if len(self.thumbnails) else self.thumbnails,
            [self.files[position] for position in index] if self.files else (),
            self.aspects[index],
        )

    def stretched(self, size: Size, colour: Colour = "as-sent") -> "Images":
        """The whole images, stretched to `size`; without files the same images, in their shape.

        Raises:
            DataError: a file has changed since it was scanned.
        """
        if not self.files:
            height, width = self.shape
            return replace(self, aspects=np.full(len(self), width / height, np.float32))
        spec = Input(size, (0.5,) * 3, (0.5,) * 3, "stretch", colour=colour)
        stored = Stored(self.files, spec)
        return replace(self, held=stored[np.arange(len(self))] if fits(len(self), size) else stored)

    def moments(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of each channel, of pixels in 0…1.

        They are those of evenly spaced images where all have more than MOST_MEASURED pixels.
        """
        step = max(1, len(self) * math.prod(self.shape) // MOST_MEASURED)
        counts = np.zeros((3, 256))
        for part in self.take(np.arange(0, len(self), step)).parts(WINDOW):
            for channel in range(3):
                counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
        shares, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
        mean = shares @ values
        return mean, np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))


class Tagged(NamedTuple):
    """Images with the classes that each has, bool (N, K).

    The `labels` of `images` are 0: one index would not do.
    """

    images: Images
    has: Bool[np.ndarray, "rows classes"]

    def __len__(self) -> int:
        return len(self.images)


def fits(count: int, size: Size) -> bool:
    """True if `count` images of `size` may stay in memory."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun; each reads the source
    limit = (host.memory_limit_bytes() or 0) * HELD_SHARE / processes
    return count * pixels_of(size) * 3 <= limit


def joined(parts: Sequence[Images]) -> Images:
    """The images of all `parts`, in memory if those of one are."""
    stored = [part.held for part in parts if isinstance(part.held, Stored)]
    held: Pixels | Stored = (
        Stored([file for each in stored for file in each.files], stored[0].spec)
        if len(stored) == len(parts)
        else np.concatenate([part.pixels for part in parts])
    )
    return Images(
        held,
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.names for part in parts]),
    )


def load_image(name: str, content: bytes, spec: Input) -> InputPixels:
    """Decodes and resizes the image file `content`; `name` is for the message.

    Raises:
        DataError: the service would reject the image.
    """
    try:
        image = decode.decode(content, MAX_LOCAL_PIXELS, spec.colour)
        return resize.to_input(image.pixels, spec)
    except RequestError as error:
        raise DataError(f"{name}: {error}") from None


def load(file: File, spec: Input) -> InputPixels:
    """The pixels of `file` as the network sees them.

    Raises:
        DataError: the file cannot be read, or the service would reject the image.
    """
    return resize.to_input(decoded(file, spec.colour), spec)


def decoded(file: File, colour: Colour = "as-sent") -> resize.Pixels:
    """The pixels of `file` in its own size.

    Raises:
        DataError: the file cannot be read, or the service would reject the image.
    """
    try:
        return decode.decode(file.read(), MAX_LOCAL_PIXELS, colour).pixels
    except RequestError as error:
        raise DataError(f"{file.name}: {error}") from None
    except OSError as error:
        raise DataError(f"{file.name}: {error.strerror}") from None


def thumbnail(pixels: InputPixels) -> Thumbnail:
    """`pixels` shrunk to THUMBNAIL; each of its pixels is a mean."""
    height, width = THUMBNAIL
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The results of `function` in the order of `items`, WINDOW of them at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(items), WINDOW):
            yield from pool.map(function, items[start : start + WINDOW])


def drawn_images(count: int, size: Size) -> UInt8[np.ndarray, "count H W 3"]:
    """Synthetic images, uint8 (`count`, H, W, 3): smooth colours with noise, the same every time.

    Graphs are compared on them where no data set is at hand.
    """
    rng = np.random.default_rng(0)
    height, width = sides(size)
    y, x = np.mgrid[:height, :width]
    waves, phases = rng.uniform(0.5, 4, (count, 3, 2)), rng.uniform(0, 2 * np.pi, (count, 3))
    turns = waves[..., 0, None, None] * (x / width) + waves[..., 1, None, None] * (y / height)
    smooth = 127 + 100 * np.sin(2 * np.pi * turns + phases[..., None, None])
    noise = rng.normal(0, 12, (count, height, width, 3))
    return np.asarray(np.clip(np.moveaxis(smooth, 1, -1) + noise, 0, 255), np.uint8)
