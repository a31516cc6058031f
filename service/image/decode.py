"""Bytes → pixels: uint8 (H, W, 3), RGB, 0…255, as the image is displayed.

`decode` reads JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF, of several frames the first, and HEIC where
the extra is installed. It applies EXIF orientation (one in XMP alone turns nothing, as in browsers;
an HEIC is turned by its own boxes), lays transparency over white, scales 16-bit samples to 8 and
converts palettes, grey and CMYK.
Colour profiles are applied if `colour` is "srgb", which a manifest says: a network sees what its
training saw.

Damaged bytes raise a `RequestError`, whatever the decoders raise. Most images are plain JPEGs: in
colour or grey, without EXIF, one to a file. libjpeg-turbo (simplejpeg) unpacks them in a fifth to
two thirds of Pillow's time, to the same pixels bit for bit; all others are Pillow's.

JPEGs are unpacked in their full size. libjpeg can make them 2, 4 or 8 times smaller in less memory,
but not to the pixels that training's resize gives: from 512×512 px, an eighth differs by up to 4 of
255 in a network's input of 32×32 px.
"""

import io
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import simplejpeg
from PIL import AvifImagePlugin, ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from service.errors import ImageTooLarge, RequestError, UndecodableImage, UnsupportedFormat
from service.image import boxes, budget, header, heic
from service.image.colour import MODES, Colour, differs, profile_of_jpeg, to_srgb
from service.image.kinds import FORMATS, is_heic, unreadable
from service.image.resize import Pixels

# For files that an operator names, such as a data set. Bodies of requests have their own limit,
# CANDOR_MAX_PIXELS.
MAX_LOCAL_PIXELS = 100_000_000
MEGA = 1_000_000

STRIP_PIXELS = 2**18  # that are converted at once
# A JPEG of one scan with no more pixels is quick, unless its body is large (docs/benchmarks.md).
QUICK_PIXELS = 256 * 256

Result = TypeVar("Result")

_JPEG = b"\xff\xd8\xff"
# Markers of a JPEG; the data of its scans have no such bytes (ITU-T T.81, B.1.1).
_SCAN, _SEGMENTS, _MOST_SEGMENTS = b"\xff\xda", bytes(range(0xE0, 0xF0)), 64
# A JPEG with these is no plain one: EXIF may turn it, and an MPF index means several images.
_NOT_PLAIN = (b"Exif\0\0", b"MPF\0")
# Texts in which Pillow finds an orientation, too: XMP, and ImageMagick's in a PNG.
_OTHER_ORIENTATIONS = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_BMP_COMPRESSION, _BMP_RUNS = 30, (1, 2)  # a byte of the header; RLE8 and RLE4
_TILE = (322, 323)  # tags of a TIFF: width and length of a tile
_TILE_PIXELS = 2**20
_PLAIN_COLOUR_SPACES = ("YCbCr", "Gray", "RGB")
# The pixels of an image by its EXIF orientation (Exif 3.0, 4.6.5): from rows as stored to rows as
# displayed.
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: np.rot90,
}
# Pillow's own limit would only warn; `max_pixels` is checked before anything is unpacked.
Image.MAX_IMAGE_PIXELS = None
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # requests run beside each other
# Of texts in a PNG, unpacked with its header: 64 MB of them would fit into 63 kB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * PngImagePlugin.MAX_TEXT_CHUNK
# Pillow warns of odd metadata, which changes no pixel.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Decoded(NamedTuple):
    """A decoded image: `pixels` uint8 (H, W, 3) RGB as displayed, and its file's `format`."""

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
    """An image of which only the header is read: `width` × `height` pixels as they are stored.

    `bytes_a_pixel`: the peak of memory until it is fitted to the network. `decode` unpacks it,
    once, or raises UndecodableImage if its bytes are damaged. If it `is_quick`, either takes less
    than a millisecond.
    """

    width: int
    height: int
    bytes_a_pixel: float
    decode: Callable[[], Decoded]
    is_quick: bool = False

    @property
    def pixel_count(self) -> int:
        """Its pixels, as the header announces them."""
        return self.width * self.height


def open_header(body: bytes, max_pixels: int, colour: Colour = "as-sent") -> Opened:
    """Reads the header of the image in `body` and unpacks nothing.

    Raises:
        UnsupportedFormat: the bytes are of none of `kinds.FORMATS`, or of a rare kind of one.
        ImageTooLarge: the header announces more than `max_pixels`.
        UndecodableImage: the bytes begin like an image and cannot be decoded, or have too many
            parts.
    """
    if not header.is_quick(body):
        header.check(body)
    if heic.AVAILABLE and is_heic(body):
        return _open_heic(body, max_pixels, colour)
    size = _plain_jpeg_size(body)
    if size is None or (colour == "srgb" and _has_other_colours(body)):
        return _open_with_pillow(body, max_pixels, colour)
    check_size(*size, max_pixels)
    cost = _jpeg_bytes(body, "RGB")
    small = math.prod(size) <= QUICK_PIXELS and len(body) <= header.LARGE_BYTES
    is_quick = small and cost == budget.PLAIN_BYTES
    return Opened(*size, cost, lambda: _decode_plain_jpeg(body, max_pixels), is_quick)


def _has_other_colours(body: bytes) -> bool:
    profile = profile_of_jpeg(body)
    return profile is not None and (differs(profile, "RGB") or differs(profile, "L"))


def decode(body: bytes, max_pixels: int, colour: Colour = "as-sent") -> Decoded:
    """Unpacks the image in `body`.

    Raises:
        UnsupportedFormat: the bytes are of none of `kinds.FORMATS`, or of a rare kind of one.
        ImageTooLarge: the header announces more than `max_pixels`.
        UndecodableImage: the bytes begin like an image and cannot be decoded.
    """
    return open_header(body, max_pixels, colour).decode()


def encode(pixels: Pixels, kind: str) -> bytes:
    """Writes `pixels` as a file of the format `kind`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _plain_jpeg_size(body: bytes) -> tuple[int, int] | None:
    """The width and height of a plain JPEG, in pixels; None for any other bytes."""
    if not body.startswith(_JPEG) or any(mark in body for mark in _NOT_PLAIN):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(body)
    except ValueError:
        return None
    return (width, height) if space in _PLAIN_COLOUR_SPACES else None


def _plain_jpeg_pixels(body: bytes) -> Pixels | None:
    """The pixels of a plain JPEG; None if it is damaged."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(body, "RGB"))
    except ValueError:
        return None


def _decode_plain_jpeg(body: bytes, max_pixels: int) -> Decoded:
    pixels = _plain_jpeg_pixels(body)
    if pixels is None:
        # Pillow reads some damaged files, and words the error for the others.
        return _open_with_pillow(body, max_pixels).decode()
    return Decoded(pixels, "JPEG")


def _open_heic(body: bytes, max_pixels: int, colour: Colour) -> Opened:
    first = boxes.first_image(body)
    check_size(first.width, first.height, max_pixels)
    return Opened(
        first.width,
        first.height,
        heic.cost(body, first) / max(first.pixels, 1),
        lambda: Decoded(_rgb(heic.image(body, first), colour), heic.KIND),
    )


def _open_with_pillow(body: bytes, max_pixels: int, colour: Colour = "as-sent") -> Opened:
    try:
        image = _guarded(len(body), lambda: Image.open(io.BytesIO(body), formats=FORMATS))
    except UnidentifiedImageError:
        raise _unidentified(body, max_pixels) from None
    check_size(image.width, image.height, max_pixels)
    _check_rare(image, body)
    kind, size, cost = str(image.format), image.size, _bytes_a_pixel(image, body)
    # Held until it is unpacked, and no longer: libwebp's canvases end with it.
    held = [image]
    del image

    def unpacked() -> Decoded:
        return Decoded(_rgb(held.pop(), colour), kind)

    return Opened(*size, cost, lambda: _guarded(len(body), unpacked))


def _check_rare(image: Image.Image, body: bytes) -> None:
    """Checks that Pillow decodes the opened image in C, within memory, to samples of 8 or 16 bits.

    Raises:
        UnsupportedFormat: it does not.
    """
    problem = None
    # Pillow reads runs in Python, a tile of a TIFF into a buffer of any size that the file names.
    if image.format == "BMP" and body[_BMP_COMPRESSION] in _BMP_RUNS:
        problem = "a BMP of runs (RLE)"
    elif image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        width, height = (tags.get(tag, 0) for tag in _TILE)
        if width * height > max(image.width * image.height, _TILE_PIXELS):
            problem = f"a TIFF with tiles of {width}×{height} px"
        elif image.mode in ("F", "I"):
            problem = "a TIFF of 32 bits a sample"
    if problem:
        raise UnsupportedFormat(f"{problem} is not supported: save it as PNG")


def _bytes_a_pixel(image: Image.Image, body: bytes) -> float:
    if image.format in ("JPEG", "MPO"):
        return _jpeg_bytes(body, image.mode)
    return budget.BYTES_A_PIXEL[str(image.format)]


def _jpeg_bytes(body: bytes, mode: str) -> float:
    if body.count(_SCAN, _metadata_end(body)) <= 1:
        return budget.PLAIN_BYTES
    return budget.CMYK_SCANS_BYTES if mode == "CMYK" else budget.SCANS_BYTES


def _metadata_end(body: bytes) -> int:
    """Where the application segments of a JPEG end: a thumbnail in them has a scan of its own."""
    end = 2
    for _ in range(_MOST_SEGMENTS):
        if body[end : end + 1] != b"\xff" or body[end + 1 : end + 2] not in _SEGMENTS:
            break
        end += 2 + int.from_bytes(body[end + 2 : end + 4])
    return end


def _guarded(body_bytes: int, work: Callable[[], Result]) -> Result:
    """Calls `work`; turns whatever a decoder raises on damaged bytes into UndecodableImage."""
    try:
        return work()
    except (RequestError, UnidentifiedImageError, MemoryError):
        raise
    # Decoders leak SyntaxError, ValueError, struct.error and more.
    except Exception as error:  # noqa: BLE001
        raise UndecodableImage(
            f"the image of {body_bytes:,} bytes is damaged or cut off, or of a rare kind "
            f"({error}): send it whole, or save it anew"
        ) from None


def _rgb(image: Image.Image, colour: Colour) -> Pixels:
    tiles = getattr(image, "tile", [])  # of an image that is not unpacked yet
    if image.mode == "RGB" and any("16" in str(tile.args) for tile in tiles):
        _narrow_transparency(image)
    small = image.width * image.height <= STRIP_PIXELS
    profile = image.info.get("icc_profile") if colour == "srgb" else None
    pixels = _converted(image, profile) if small else _converted_by_strips(image, profile)
    orientation = _orientation(image)
    if orientation not in _TURNS:
        return pixels
    image.close()  # its memory is free before the turned copy is made
    return np.ascontiguousarray(_TURNS[orientation](pixels))


def _orientation(image: Image.Image) -> int:
    """The orientation in EXIF, 1 if that is damaged; Pillow takes others where EXIF has none."""
    for key in _OTHER_ORIENTATIONS:
        image.info.pop(key, None)
    packed = image.info.get("exif")
    try:
        if packed:
            exif = Image.Exif()
            exif.load(packed)
        else:
            exif = image.getexif()
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - of many types; no pixel is lost with it
        return 1


def _converted_by_strips(image: Image.Image, profile: bytes | None) -> Pixels:
    # Whole, each step of a conversion would hold a copy of 4 bytes a pixel.
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = _converted(strip, profile)
    return pixels


def _converted(image: Image.Image, profile: bytes | None) -> Pixels:
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.has_transparency_data:
        return _over_white(to_srgb(image.convert("RGBA"), profile))
    if image.mode not in MODES:
        image = image.convert("RGB")  # a palette has the colours of the profile
    image = to_srgb(image, profile)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scales grey of 16 bits to 8, with what is transparent white."""
    # Pillow's convert() would clip at 255 instead of scaling.
    samples = np.asarray(image).astype(np.uint32)
    scaled = ((samples * 255 + 32_767) // 65_535).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[samples == transparent] = 255
    return Image.fromarray(scaled)


def _narrow_transparency(image: Image.Image) -> None:
    """Brings a transparent colour of 16 bits to the 8 that Pillow unpacks."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)


def _over_white(image: Image.Image) -> Pixels:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Checks the size that a header announces.

    Raises:
        ImageTooLarge: more than `max_pixels`, or a side longer than `budget.MAX_SIDE`.
    """
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image is {width}×{height} px ({width * height / MEGA:,.4g} MP); "
            f"the limit is {max_pixels / MEGA:,.4g} MP: send a smaller one"
        )
    if max(width, height) > budget.MAX_SIDE:
        raise ImageTooLarge(
            f"the image is {width}×{height} px; the limit of a side is {budget.MAX_SIDE:,} px: "
            "send a smaller one"
        )


def _unidentified(body: bytes, max_pixels: int) -> RequestError:
    # Pillow identifies no PNG that is damaged behind its first chunk, IHDR, which holds the size.
    if body[12:16] == b"IHDR":
        check_size(int.from_bytes(body[16:20]), int.from_bytes(body[20:24]), max_pixels)
    return unreadable(body)
