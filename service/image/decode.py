"""Bytes → pixels. Pixels are uint8 (H, W, 3), RGB, 0…255, as the image is displayed.

`decode` takes JPEG, PNG and WebP (the first frame of an animation) and makes plain RGB of every kind of them: EXIF orientation is
applied, transparency is laid over white, 16-bit samples are scaled, palettes, greyscale and CMYK are converted. Colour profiles are
not applied: data sets come without them, and a network sees what its training saw. Whatever the bytes are, only a `RequestError` is
raised.

`fit` is the one resize of training, evaluation and serving; `view` says which part of the sent image it shows the network, and
`fit_labels` takes what is said about the image's pixels along.
"""

import io
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from service.errors import ImageTooLarge, RequestError, UndecodableImage, UnsupportedFormat
from service.image import jpeg
from service.image.resize import Pixels

FORMATS = ("JPEG", "PNG", "WEBP")
MEDIA_TYPES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
TAKEN = "JPEG, PNG and WebP are taken"
MEGA = 1_000_000

Result = TypeVar("Result")

_BEGINNINGS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\0\0\1\0", "an icon"),
    (b"\x93NUMPY", "a numpy array"),
)

Image.MAX_IMAGE_PIXELS = (
    None  # the limit is `max_pixels` of decode, checked before anything is unpacked
)
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata: the pixels are what counts


class Decoded(NamedTuple):
    """A decoded image: `pixels` uint8 (H, W, 3) RGB as displayed, and the `format` that it was sent in."""

    pixels: Pixels
    format: str

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.pixels.shape[0])


class Opened(NamedTuple):
    """An image of which only the header has been read; `decode` unpacks it, or raises UndecodableImage if its bytes are damaged."""

    pixel_count: int
    decode: Callable[[], Decoded]


def open_header(body: bytes, max_pixels: int) -> Opened:
    """The image that `body` holds, not unpacked yet.

    Raises:
        UnsupportedFormat: the bytes are of no format that is taken.
        ImageTooLarge: the header announces more than `max_pixels`.
        UndecodableImage: the bytes begin like an image and cannot be decoded.
    """
    size = jpeg.size_of(body)
    if size is None:
        return _opened(body, max_pixels)
    _check_size(*size, max_pixels)
    return Opened(size[0] * size[1], lambda: _plain(body, max_pixels))


def _plain(body: bytes, max_pixels: int) -> Decoded:
    pixels = jpeg.decode(body)
    return _opened(body, max_pixels).decode() if pixels is None else Decoded(pixels, "JPEG")


def _opened(body: bytes, max_pixels: int) -> Opened:
    try:
        image = _guarded(len(body), lambda: Image.open(io.BytesIO(body), formats=FORMATS))
    except UnidentifiedImageError:
        raise _unidentified(body, max_pixels) from None
    _check_size(image.width, image.height, max_pixels)
    return Opened(
        image.width * image.height,
        lambda: _guarded(len(body), lambda: Decoded(_rgb(image), str(image.format))),
    )


def decode(body: bytes, max_pixels: int) -> Decoded:
    """The image that `body` holds, unpacked.

    Raises:
        UnsupportedFormat: the bytes are of no format that is taken.
        ImageTooLarge: the header announces more than `max_pixels`.
        UndecodableImage: the bytes begin like an image and cannot be decoded.
    """
    return open_header(body, max_pixels).decode()


def encode(pixels: Pixels, kind: str) -> bytes:
    """`pixels` as a file of the format `kind`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _guarded(body_bytes: int, work: Callable[[], Result]) -> Result:
    """What `work` gives; whatever a decoder raises on damaged bytes becomes our own error."""
    try:
        return work()
    except (RequestError, UnidentifiedImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - decoders leak SyntaxError, ValueError, struct.error and more
        raise UndecodableImage(
            f"the image of {body_bytes:,} bytes is damaged or cut off ({error}): send it whole"
        ) from None


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits scaled to 8; conversion by Pillow would clip it."""
    samples = np.asarray(image).astype(np.uint32)
    scaled = Image.fromarray(((samples * 255 + 32_767) // 65_535).astype(np.uint8))
    scaled.info["exif"] = image.getexif().tobytes()
    return scaled


def _over_white(image: Image.Image) -> Pixels:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image is {width}×{height} px ({width * height / MEGA:,.4g} MP); "
            f"the limit is {max_pixels / MEGA:,.4g} MP: send a smaller one"
        )


def _unidentified(body: bytes, max_pixels: int) -> RequestError:
    if body[12:16] == b"IHDR":
        _check_size(int.from_bytes(body[16:20]), int.from_bytes(body[20:24]), max_pixels)
    starts_well = (
        body[:2] == b"\xff\xd8"
        or body[:4] == b"\x89PNG"
        or (body[:4] == b"RIFF" and body[8:12] == b"WEBP")
    )
    if starts_well:
        return UndecodableImage(
            f"the image of {len(body):,} bytes is damaged or cut off: send it whole"
        )
    return UnsupportedFormat(
        f"the {len(body):,} bytes look like {_looks_like(body)}; {TAKEN}: convert it"
    )


def _looks_like(body: bytes) -> str:
    if b"ftyp" in body[4:12]:
        return "an HEIC, AVIF or MP4 file"
    head = body[:1000].lstrip().lower()
    if b"<svg" in head:
        return "an SVG"
    known = next((name for beginning, name in _BEGINNINGS if body.startswith(beginning)), None)
    return known or (
        "text"
        if body[:1000].isascii() and body[:1000].decode("ascii").isprintable()
        else "no image"
    )
