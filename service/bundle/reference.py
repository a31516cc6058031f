"""Reference images: the training images that a sent image is compared with.

A bundle holds their features, labels and names. The images often may not be passed on: a bundle
that was made `--with-pictures` has small views of them, in reference.zip. An operator with the data
set names its folder with CANDOR_REFERENCE; an image is then served at the network's input size.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.errors import BundleError, NotFound
from service.image import decode, resize
from service.image.resize import Input

# Of an array when it is unpacked: names of 1,000,000 images take less.
MAX_ARRAY_BYTES = 2**28
PICTURE = "{row}.webp"  # in reference.zip
MAX_PICTURE = 2**20  # bytes of a view, and pixels


class Nearest(NamedTuple):
    """A reference image by its `row`, and the cosine `similarity` of its features to an image's."""

    row: int
    similarity: float


@dataclass(frozen=True)
class Reference:
    """The rows of reference.npz: `labels` and `names`, paths in `folder` if there is one.

    `pictures` are the small views of the bundle, if it has some.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    spec: Input
    folder: Path | None
    pictures: zipfile.ZipFile | None = None
    prefix: str = ""

    @classmethod
    def of(cls, bundle: Bundle, folder: Path | None, prefix: str = "") -> "Reference":
        """The reference images of `bundle`: no rows if it has none; `prefix` is the path of the
        model.
        """
        if not bundle.has(contract.REFERENCE):
            return cls((), (), bundle.manifest.input, None)
        content = bundle.read(contract.REFERENCE)
        # What is damaged may raise anything: ValueError, KeyError, zlib.error, BadZipFile.
        try:
            _check_arrays(content)
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                labels = tuple(_label(bundle, index) for index in arrays["labels"].tolist())
                names = tuple(arrays["names"].tolist())
        except Exception as error:  # noqa: BLE001
            raise BundleError(
                f"{bundle.folder / contract.REFERENCE} has no reference images ({error}): "
                "export the bundle again"
            ) from None
        return cls(
            labels, names, bundle.manifest.input, folder, _pictures(bundle, len(names)), prefix
        )

    @property
    def has_images(self) -> bool:
        """True if the images can be shown."""
        return self.folder is not None or self.pictures is not None

    def describe(self, nearest: Nearest) -> dict[str, Any]:
        """A row as JSON values for an answer; `distance` is 1 − cosine, in 0…2."""
        row = nearest.row
        description = {
            "index": row,
            "label": self.labels[row],
            "name": self.names[row],
            "distance": 1 - nearest.similarity,
        }
        return description | (
            {"picture": f"{self.prefix}/reference/{row}"} if self.has_images else {}
        )

    def image(self, row: int) -> bytes:
        """The image of a row as a PNG file, of the network's input size or a small view.

        Raises:
            NotFound: there is no such row, or the folder does not hold its image.
        """
        if row >= len(self.names):
            raise NotFound(
                f"there is no reference image {row}; there are {len(self.names)}, counted from 0"
            )
        if self.folder is None:
            assert self.pictures is not None
            view = decode.decode(self.pictures.read(PICTURE.format(row=row)), MAX_PICTURE)
            return decode.encode(view.pixels, "PNG")
        path = (self.folder / self.names[row]).resolve()
        # The names come from a bundle, which must not read outside the folder.
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise NotFound(
                f"reference image {row}, {self.names[row]}, "
                "is not in the folder that CANDOR_REFERENCE names"
            )
        image = decode.decode(path.read_bytes(), decode.MAX_LOCAL_PIXELS, self.spec.colour)
        return decode.encode(resize.to_input(image.pixels, self.spec), "PNG")


def _pictures(bundle: Bundle, rows: int) -> zipfile.ZipFile | None:
    """The small views of `bundle`, one for each row; None if it has none.

    Raises:
        BundleError: the file is damaged, or lacks a view.
    """
    if not bundle.has(contract.PICTURES):
        return None
    try:
        # Several threads may read an open archive: it has a lock.
        archive = zipfile.ZipFile(io.BytesIO(bundle.read(contract.PICTURES)))
        sizes = [archive.getinfo(PICTURE.format(row=row)).file_size for row in range(rows)]
    except (zipfile.BadZipFile, KeyError) as error:
        raise BundleError(
            f"{bundle.folder / contract.PICTURES} lacks views of reference images ({error}): "
            "export the bundle again"
        ) from None
    if max(sizes, default=0) > MAX_PICTURE:
        raise BundleError(
            f"{bundle.folder / contract.PICTURES} has a view of {max(sizes):,} bytes; "
            f"the limit is {MAX_PICTURE:,}: export the bundle again"
        )
    return archive


def _check_arrays(content: bytes) -> None:
    """Checks shapes and types of the arrays by their headers, before anything is unpacked.

    Raises:
        ValueError: they are not those of the contract, or too large.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        shapes = {}
        for name, kind, dimensions in (("features", "i", 2), ("labels", "i", 1), ("names", "U", 1)):
            with archive.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                if version != (1, 0):
                    raise ValueError(f"{name} has a header of version {version}, not (1, 0)")
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind != kind or len(shape) != dimensions or size > MAX_ARRAY_BYTES:
                raise ValueError(
                    f"{name} is {dtype} {shape}, {size:,} bytes; the limit is {MAX_ARRAY_BYTES:,}"
                )
            shapes[name] = shape
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"the arrays have different numbers of rows: {shapes}")


def _label(bundle: Bundle, index: int) -> str:
    if not 0 <= index < len(bundle.manifest.labels):
        raise ValueError(f"label {index} is none of {len(bundle.manifest.labels)}")
    return bundle.manifest.labels[index]
