"""Kinds of image files: which are decoded, and in words what other bytes are."""

from service.errors import RequestError, UndecodableImage, UnsupportedFormat
from service.image import heic

# By the name that Pillow gives it: media types, and ends of file names.
KINDS = {
    "JPEG": (("image/jpeg",), (".jpg", ".jpeg")),
    "PNG": (("image/png",), (".png",)),
    "WEBP": (("image/webp",), (".webp",)),
    "AVIF": (("image/avif",), (".avif",)),
    "GIF": (("image/gif",), (".gif",)),
    "BMP": (("image/bmp",), (".bmp",)),
    "TIFF": (("image/tiff",), (".tif", ".tiff")),
}
FORMATS = tuple(KINDS)
USUAL = ("JPEG", "PNG", "WEBP")
MEDIA_TYPES = {media: kind for kind, (types, _) in KINDS.items() for media in types}
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = (
    *(suffix for _, suffixes in KINDS.values() for suffix in suffixes),
    *(HEIC_SUFFIXES if heic.AVAILABLE else ()),
)
LISTED = "JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF"
WITHOUT_HEIC = "convert it to JPEG, or install the extra candor[heic] on the server"

_JPEG, _PNG, _RIFF = b"\xff\xd8", b"\x89PNG", b"RIFF"
_BEGINNINGS = (_JPEG, _PNG, b"GIF8", b"BM", b"II*\0", b"MM\0*")
_AVIF = frozenset((b"avif", b"avis"))
_HEIC = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_MOST_BRANDS = 64
_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\0\0\1\0", "an icon"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"8BPS", "a Photoshop file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (b"qoif", "a QOI"),
)
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # frames of a JPEG (ITU-T T.81, table B.1)
_MOST_MARKERS = 1_000


def unreadable(body: bytes) -> RequestError:
    """The error of bytes that Pillow does not identify as one of FORMATS."""
    bits = _jpeg_bits(body)
    if bits not in (None, 8):
        return UnsupportedFormat(
            f"a JPEG of {bits} bits a sample is not supported: save it with 8, or as PNG"
        )
    if is_heic(body):
        return UnsupportedFormat(f"the image is an HEIC (HEIF), which is not read: {WITHOUT_HEIC}")
    is_film = body[4:8] == b"ftyp" and not _brands(body) & _AVIF
    if begins_like_an_image(body) and not is_film:
        return UndecodableImage(
            f"the image of {len(body):,} bytes is damaged or cut off, or of a rare kind: "
            "send it whole, or save it anew"
        )
    return UnsupportedFormat(
        f"the {len(body):,} bytes look like {_looks_like(body)}; {LISTED} are supported: convert it"
    )


def _jpeg_bits(body: bytes) -> int | None:
    """The bits a sample of a JPEG has; None of other bytes, or where they are not found."""
    place = 2
    for _ in range(_MOST_MARKERS if body.startswith(_JPEG) else 0):
        if body[place : place + 1] != b"\xff" or place + 5 > len(body):
            break
        if body[place + 1] in _SOF:
            return body[place + 4]
        place += 2 + max(2, int.from_bytes(body[place + 2 : place + 4]))
    return None


def begins_like_an_image(body: bytes) -> bool:
    """True if `body` begins like a file of KINDS or of their families."""
    is_webp = body.startswith(_RIFF) and body[8:12] == b"WEBP"
    return body.startswith(_BEGINNINGS) or is_webp or body[4:8] == b"ftyp"


def is_heic(body: bytes) -> bool:
    """True if `body` begins like an HEIC, an image of the HEIF family with pixels of HEVC."""
    brands = _brands(body)
    return bool(brands & _HEIC) and not brands & _AVIF


def _brands(body: bytes) -> frozenset[bytes]:
    """The brands of a file in boxes (ISO/IEC 14496-12), of other bytes none."""
    if body[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(body[:4]), 16 + 4 * _MOST_BRANDS, len(body))
    return frozenset(body[start : start + 4] for start in (8, *range(16, end, 4)))


def _looks_like(body: bytes) -> str:
    if body[4:8] == b"ftyp":
        return "an MP4, or another file of its family"
    head = body[:1000]
    if b"<svg" in head.lower():
        return "an SVG"
    for beginning, name in _OTHERS:
        if body.startswith(beginning):
            return name
    return "text" if head.isascii() and head.decode("ascii").isprintable() else "no image"
