"""Bytes → labels: an image's segments as a caller draws them, one number a pixel.

A mask is a PNG file as large as the image is displayed, after the image's EXIF orientation; an orientation of its own is applied,
too. Greyscale of up to 16 bits or a palette: pixels of the same value, or of the same place in the palette, are one segment, whether
or not they touch. Whatever the bytes are, only an `InvalidParameter` is raised.
"""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import InvalidParameter
from service.image.resize import MaskLabels

MODES = (
    "1",
    "L",
    "I;16",
    "P",
)  # Pillow's names for greyscale of 1, of 2 to 8 and of 16 bits, and for a palette
KIND = "a PNG file, greyscale or with a palette, each value a segment"


def decode(body: bytes, width: int, height: int) -> MaskLabels:
    """The labels of an image of `width` × `height`, uint16 (H, W).

    Raises:
        InvalidParameter: the bytes are no such mask, are damaged, or are of another size than the image.
    """
    try:
        return _labels(Image.open(io.BytesIO(body), formats=("PNG",)), width, height)
    except (InvalidParameter, MemoryError):
        raise
    except UnidentifiedImageError:
        raise InvalidParameter(
            f"the mask of {len(body):,} bytes is no PNG, or cut off: send {KIND}"
        ) from None
    except Exception as error:  # noqa: BLE001 - decoders leak SyntaxError, ValueError, struct.error and more on damaged bytes
        raise InvalidParameter(
            f"the mask of {len(body):,} bytes is damaged or cut off ({error}): send it whole"
        ) from None


def _labels(image: Image.Image, width: int, height: int) -> MaskLabels:
    if image.width * image.height != width * height:  # before anything is unpacked
        raise _unlike(image, width, height)
    if image.mode not in MODES:
        raise InvalidParameter(
            f"the mask has the channels {image.mode}, and one is taken: send {KIND}"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.size != (width, height):
        raise _unlike(upright, width, height)
    return np.asarray(upright).astype(np.uint16)


def _unlike(image: Image.Image, width: int, height: int) -> InvalidParameter:
    return InvalidParameter(
        f"the mask is {image.width}×{image.height} px and the image, as it is displayed, {width}×{height} px: "
        "send a mask of the image's size"
    )
