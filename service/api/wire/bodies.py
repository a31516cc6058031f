"""Bodies of POST /predict and /explain. Parameters stand beside the images in each of them."""

from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from service.api.payload import MAX_IMAGES
from service.api.wire.fields import Base64, about
from service.explain.maps.segments import LEAST, MOST
from service.image.kinds import MEDIA_TYPES

# A red PNG of 8×8 pixels, for the examples.
IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mO4Y6SBFTEMLQkAdYpNgewyRzAAAAAA"
    "SUVORK5CYII="
)
# Its left half and its right half, as a mask.
MASK = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAFklEQV"
    "R42mNkYGBgYGRgYGBigALyGAACywARmjOBewAAAABJRU5ErkJggg=="
)
_BINARY: dict[str, Any] = {"format": "binary"}
FILE = (
    "An image; the bytes decide its format. Content-Type may be any image type, too: "
    f"{', '.join(MEDIA_TYPES)}."
)
_MASK = (
    "The segments of one image, for the methods that take a mask by GET /methods: a PNG file as "
    "large as the displayed image, greyscale of up to 16 bits or with a palette. Pixels of one "
    f"value are a segment; {LEAST} to {MOST:,} segments must be in the network's view."
)

File = Annotated[str, about(FILE, json_schema_extra=_BINARY)]
Text = Annotated[Base64, about("An image in base64", IMAGE, min_length=1)]


class Form(TypedDict):
    """One or more images as parts of a form."""

    image: Annotated[list[File], about("Images, a part each", min_length=1, max_length=MAX_IMAGES)]
    mask: NotRequired[Annotated[str, about(_MASK, json_schema_extra=_BINARY)]]


class Image(TypedDict):
    """One image."""

    image: Text
    mask: NotRequired[Annotated[Base64, about(_MASK, MASK, min_length=1)]]


class Images(TypedDict):
    """Several images."""

    images: Annotated[list[Text], about("Images", [IMAGE], min_length=1, max_length=MAX_IMAGES)]
