"""The training images that others are compared with: the label and the name of each, and the images, where an operator has them.

A bundle holds features of images and no images, for those may often not be passed on. Whoever has the data set names its folder with
CANDOR_REFERENCE; an image is then served as the network sees it.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.errors import NotFound
from service.image import decode, resize
from service.image.resize import Input

MAX_PIXELS = 100_000_000


class Nearest(NamedTuple):
    """A reference image by its `row`, and the `similarity` of its features to those of the image that was sent: a cosine."""

    row: int
    similarity: float


@dataclass(frozen=True)
class Reference:
    """The rows of reference.npz: `labels` and `names`, which are paths in `folder` if there is one."""

    labels: tuple[str, ...]
    names: tuple[str, ...]
    spec: Input
    folder: Path | None

    @classmethod
    def of(cls, bundle: Bundle, folder: Path | None) -> "Reference":
        """That of `bundle`; it has no rows if the bundle has none."""
        if not bundle.has(contract.REFERENCE):
            return cls((), (), bundle.manifest.input, None)
        with np.load(io.BytesIO(bundle.read(contract.REFERENCE)), allow_pickle=False) as arrays:
            labels = tuple(bundle.manifest.labels[index] for index in arrays["labels"])
            return cls(labels, tuple(arrays["names"].tolist()), bundle.manifest.input, folder)

    def told(self, nearest: Nearest) -> dict[str, Any]:
        """What a caller reads of a row; `distance` is 1 − cosine, in 0…2."""
        row = nearest.row
        told = {
            "index": row,
            "label": self.labels[row],
            "name": self.names[row],
            "distance": 1 - nearest.similarity,
        }
        return told | ({"picture": f"/reference/{row}"} if self.folder else {})

    def image(self, row: int) -> bytes:
        """The image of a row as PNG, (S, S).

        Raises:
            NotFound: there is no such row, or no image of it.
        """
        assert self.folder is not None
        if row >= len(self.names):
            raise NotFound(
                f"there is no reference image {row}; there are {len(self.names)}, counted from 0"
            )
        path = (self.folder / self.names[row]).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise NotFound(
                f"reference image {row}, {self.names[row]}, is not in the folder that CANDOR_REFERENCE names"
            )
        return decode.encode(
            resize.to_input(decode.decode(path.read_bytes(), MAX_PIXELS).pixels, self.spec), "PNG"
        )
