"""Reference images: the training images that a sent image is compared with.

A bundle holds their features, labels and names, and not the images, which often may not be passed
on. An operator with the data set names its folder with CANDOR_REFERENCE; an image is then served at
the network's input size.
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


class Nearest(NamedTuple):
    """A reference image by its `row`, and the cosine `similarity` of its features to an image's."""

    row: int
    similarity: float


@dataclass(frozen=True)
class Reference:
    """The rows of reference.npz: `labels` and `names`, paths in `folder` if there is one."""

    labels: tuple[str, ...]
    names: tuple[str, ...]
    spec: Input
    folder: Path | None

    @classmethod
    def of(cls, bundle: Bundle, folder: Path | None) -> "Reference":
        """The reference images of `bundle`: no rows if it has none."""
        if not bundle.has(contract.REFERENCE):
            return cls((), (), bundle.manifest.input, None)
        with np.load(io.BytesIO(bundle.read(contract.REFERENCE)), allow_pickle=False) as arrays:
            labels = tuple(bundle.manifest.labels[index] for index in arrays["labels"])
            return cls(labels, tuple(arrays["names"].tolist()), bundle.manifest.input, folder)

    def describe(self, nearest: Nearest) -> dict[str, Any]:
        """A row as JSON values for an answer; `distance` is 1 − cosine, in 0…2."""
        row = nearest.row
        description = {
            "index": row,
            "label": self.labels[row],
            "name": self.names[row],
            "distance": 1 - nearest.similarity,
        }
        return description | ({"picture": f"/reference/{row}"} if self.folder else {})

    def image(self, row: int) -> bytes:
        """The image of a row as a PNG file of the network's input size.

        Raises:
            NotFound: there is no such row, or the folder does not hold its image.
        """
        assert self.folder is not None
        if row >= len(self.names):
            raise NotFound(
                f"there is no reference image {row}; there are {len(self.names)}, counted from 0"
            )
        path = (self.folder / self.names[row]).resolve()
        # The names come from a bundle, which must not read outside the folder.
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise NotFound(
                f"reference image {row}, {self.names[row]}, "
                "is not in the folder that CANDOR_REFERENCE names"
            )
        image = decode.decode(path.read_bytes(), decode.MAX_LOCAL_PIXELS)
        return decode.encode(resize.to_input(image.pixels, self.spec), "PNG")
