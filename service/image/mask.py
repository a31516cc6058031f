"""Bytes → labels uint16 (H, W): the segments of an image as a caller draws them.

A mask is a PNG file as large as the image is displayed, that is, after its EXIF orientation; an
orientation of the mask's own is applied, too. It is grey, of up to 16 bits, or has a palette.
Pixels of one value, or of one place in the palette, are one segment, whether they touch or not.
Damaged bytes raise an `InvalidParameter`, whatever the decoder raises.
"""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import InvalidParameter, UndecodableImage
from service.image import header
from service.image.resize import MaskLabels

# Pillow's names for grey of 1 bit, of 2 to 8 and of 16 bits, and for a palette.
MODES = ("1", "L", "I;16", "P")
KIND = "a PNG file, greyscale or with a palette, each value a segment"


def decode(body: bytes, width: int, height: int) -> MaskLabels:
    """The labels of an image of `width` × `height` pixels.

    Raises:
        InvalidParameter: the bytes are no such mask, are damaged, or have another size.
    """
    try:
        header.check(body)
        return _labels(Image.open(io.BytesIO(body), formats=("PNG",)), width, height)
    except (InvalidParameter, MemoryError):
        raise
    except UnidentifiedImageError:
        raise InvalidParameter(
            f"the mask of {len(body):,} bytes is no PNG, or cut off: send {KIND}"
        ) from None
    except UndecodableImage as error:
        raise InvalidParameter(f"the mask cannot be used: {error}") from None
    # Decoders leak SyntaxError, ValueError, struct.error and more on damaged bytes.
    except Exception as error:  # noqa: BLE001
        raise InvalidParameter(
            f"the mask of {len(body):,} bytes is damaged or cut off ({error}): send it whole"
        ) from None


def _labels(image: Image.Image, width: int, height: int) -> MaskLabels:
    # Checked first: until here nothing is unpacked, so a small file cannot fill the memory.
    if image.width * image.height != width * height:
        raise _wrong_size(image, width, height)
    if image.mode not in MODES:
        raise InvalidParameter(
            f"the mask has the channels {image.mode}; a single channel is required: send {KIND}"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.size != (width, height):
        raise _wrong_size(upright, width, height)
    return np.asarray(upright).astype(np.uint16)


def _wrong_size(image: Image.Image, width: int, height: int) -> InvalidParameter:
    return InvalidParameter(
        f"the mask is {image.width}×{image.height} px and the image, as it is displayed, "
        f"{width}×{height} px: send a mask of the image's size"
    )
