"""Bytes → pixels. Pixels are uint8 (H, W, 3), RGB, 0…255, as the picture is displayed.

`decode` takes JPEG, PNG and WebP (the first frame of an animation) and makes plain RGB of every kind of them: EXIF orientation is
applied, transparency is laid over white, 16-bit samples are scaled, palettes, greyscale and CMYK are converted. Colour profiles are
not applied: data sets come without them, and a network sees what its training saw. Whatever the bytes are, only a `RequestError` is
raised.

`fit` is the one resize of training, evaluation and serving; `view` says which part of the sent picture it shows the network, and
`fit_labels` takes what is said about the picture's pixels along.
"""

import io
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int64, UInt8, UInt16
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from service import jpeg
from service.errors import PictureTooLarge, RequestError, UndecodablePicture, UnsupportedFormat
from service.manifest import Input

FORMATS = ("JPEG", "PNG", "WEBP")
MEDIA_TYPES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
TAKEN = "JPEG, PNG and WebP are taken"
MEGA = 1_000_000

Pixels = UInt8[np.ndarray, "height width 3"]
Result = TypeVar("Result")
Labels = UInt16[np.ndarray, "height width"]

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

Image.MAX_IMAGE_PIXELS = None  # the limit is `max_pixels` of decode, checked before anything is unpacked
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata: the pixels are what counts


class Picture(NamedTuple):
    """A decoded picture: `pixels` uint8 (H, W, 3) RGB as displayed, and the `format` that it was sent in."""

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


class Box(NamedTuple):
    """A rectangle in the coordinates of a sent picture, in pixels; it may reach beyond the picture."""

    left: float
    top: float
    right: float
    bottom: float


class Opened(NamedTuple):
    """A picture of which only the header has been read; `decode` unpacks it, or raises UndecodablePicture if its bytes are damaged."""

    pixel_count: int
    decode: Callable[[], Picture]


def open_header(body: bytes, max_pixels: int) -> Opened:
    """The picture that `body` holds, not unpacked yet.

    Raises:
        UnsupportedFormat: the bytes are of no format that is taken.
        PictureTooLarge: the header announces more than `max_pixels`.
        UndecodablePicture: the bytes begin like a picture and cannot be decoded.
    """
    size = jpeg.size_of(body)
    if size is None:
        return _opened(body, max_pixels)
    _check_size(*size, max_pixels)
    return Opened(size[0] * size[1], lambda: _plain(body, max_pixels))


def _plain(body: bytes, max_pixels: int) -> Picture:
    pixels = jpeg.decode(body)
    return _opened(body, max_pixels).decode() if pixels is None else Picture(pixels, "JPEG")


def _opened(body: bytes, max_pixels: int) -> Opened:
    try:
        image = _guarded(len(body), lambda: Image.open(io.BytesIO(body), formats=FORMATS))
    except UnidentifiedImageError:
        raise _unidentified(body, max_pixels) from None
    _check_size(image.width, image.height, max_pixels)
    return Opened(image.width * image.height, lambda: _guarded(len(body), lambda: Picture(_rgb(image), str(image.format))))


def decode(body: bytes, max_pixels: int) -> Picture:
    """The picture that `body` holds, unpacked.

    Raises:
        UnsupportedFormat: the bytes are of no format that is taken.
        PictureTooLarge: the header announces more than `max_pixels`.
        UndecodablePicture: the bytes begin like a picture and cannot be decoded.
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
        raise UndecodablePicture(f"the picture of {body_bytes:,} bytes is damaged or cut off ({error}): send it whole") from None


def fit(pixels: Pixels, spec: Input) -> UInt8[np.ndarray, "size size 3"]:
    """`pixels` as the network's input, uint8 (S, S, 3): scaled bilinearly with antialiasing, by the rule of `spec`."""
    height, width = pixels.shape[:2]
    size = spec.size
    if height == width == size == spec.short_side:
        return pixels
    image = Image.fromarray(pixels)
    if spec.resize == "pad":
        return _padded(image, spec)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=view(width, height, spec)))


def view(width: int, height: int, spec: Input) -> Box:
    """The part of a picture of `width` × `height` that the network sees; with `pad` it reaches beyond the picture."""
    if spec.resize == "stretch":
        return Box(0, 0, width, height)
    side = max(width, height) if spec.resize == "pad" else min(width, height) * spec.size / spec.short_side
    left, top = (width - side) / 2, (height - side) / 2
    return Box(left, top, left + side, top + side)


def fit_labels(labels: Labels, spec: Input) -> Int64[np.ndarray, "size size"]:
    """The label of each pixel of the network's input: that of the nearest pixel of the picture, −1 where `pad` reaches beyond it."""
    height, width = labels.shape
    fitted = np.full((spec.size, spec.size), -1, np.int64)
    if spec.resize == "pad":
        x, y, across, down = _inside(width, height, spec)
        nearest = np.ix_(_nearest(0.0, float(height), down), _nearest(0.0, float(width), across))
        fitted[y : y + down, x : x + across] = labels[nearest]
    else:
        left, top, right, bottom = map(float, view(width, height, spec))
        fitted[:] = labels[np.ix_(_nearest(top, bottom, spec.size), _nearest(left, right, spec.size))]
    return fitted


def _nearest(start: float, end: float, count: int) -> Int64[np.ndarray, " count"]:
    """The pixels that hold the middles of `count` equal parts of start…end."""
    return np.floor(start + (np.arange(count) + 0.5) * (end - start) / count).astype(np.int64)


def _padded(image: Image.Image, spec: Input) -> UInt8[np.ndarray, "size size 3"]:
    left, top, across, down = _inside(image.width, image.height, spec)
    mean = tuple(round(255 * value) for value in spec.mean)
    canvas = Image.new("RGB", (spec.size, spec.size), (mean[0], mean[1], mean[2]))
    canvas.paste(image.resize((across, down), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(canvas)


def _inside(width: int, height: int, spec: Input) -> tuple[int, int, int, int]:
    """Where a padded picture lies in the network's input: left, top, width and height."""
    box = view(width, height, spec)
    scale = spec.size / (box.right - box.left)
    return round(-box.left * scale), round(-box.top * scale), max(1, round(width * scale)), max(1, round(height * scale))


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
        raise PictureTooLarge(
            f"the picture is {width}×{height} px ({width * height / MEGA:,.4g} MP); "
            f"the limit is {max_pixels / MEGA:,.4g} MP: send a smaller one"
        )


def _unidentified(body: bytes, max_pixels: int) -> RequestError:
    if body[12:16] == b"IHDR":
        _check_size(int.from_bytes(body[16:20]), int.from_bytes(body[20:24]), max_pixels)
    starts_well = body[:2] == b"\xff\xd8" or body[:4] == b"\x89PNG" or (body[:4] == b"RIFF" and body[8:12] == b"WEBP")
    if starts_well:
        return UndecodablePicture(f"the picture of {len(body):,} bytes is damaged or cut off: send it whole")
    return UnsupportedFormat(f"the {len(body):,} bytes look like {_looks_like(body)}; {TAKEN}: convert it")


def _looks_like(body: bytes) -> str:
    if b"ftyp" in body[4:12]:
        return "an HEIC, AVIF or MP4 file"
    head = body[:1000].lstrip().lower()
    if b"<svg" in head:
        return "an SVG"
    known = next((name for beginning, name in _BEGINNINGS if body.startswith(beginning)), None)
    return known or ("text" if body[:1000].isascii() and body[:1000].decode("ascii").isprintable() else "no picture")
