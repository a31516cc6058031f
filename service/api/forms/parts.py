"""What the parts of a form mean: images, a mask, parameters.

Images are the parts named 'image'; without them all files of one name, whatever it is: `file`, or
`pictures[0]` and `pictures[1]`. A field of text is a file, too, if it holds an image: as base64, as
a data URL, or as bytes that came without a file name.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from service.api.payload import EncodedImage, Payload, as_file, check_counts
from service.errors import InvalidParameter, MalformedRequest, short
from service.image.kinds import begins_like_an_image

IMAGE, MASK = "image", "mask"
_NUMBER = re.compile(r"[\[\](){}\d_.-]+$")  # at the end of a name


class Part(NamedTuple):
    """A part of a form: its bytes, and the name of the file that it was, else None."""

    name: str
    content: bytes
    file_name: str | None = None

    @property
    def is_file(self) -> bool:
        """True of a file, and of text that holds one."""
        return self.file_name is not None or as_file(self.content) is not self.content

    @property
    def is_left_empty(self) -> bool:
        """True of what browsers send for a choice of files that was left empty."""
        return self.file_name == "" and not self.content

    def file(self) -> EncodedImage:
        """The file that it is."""
        if not self.content:
            return MalformedRequest(f"a part named '{self.name}' is empty (0 bytes): send a file")
        return as_file(self.content)


def field(name: str, text: str) -> Part:
    """A part without a file name, which a parser has decoded: as UTF-8, or else as Latin-1."""
    if not text.isascii() and all(ord(letter) < 256 for letter in text[:16]):  # noqa: PLR2004
        content = text.encode("latin-1", "replace")
        if begins_like_an_image(content):
            return Part(name, content, file_name=name)
    content = text.encode("utf-8", "surrogateescape")
    return Part(name, content, name if begins_like_an_image(content) else None)


def payload_of(parts: Sequence[Part]) -> Payload:
    """The payload that a form holds.

    Raises:
        MalformedRequest: no image, or files of several names.
        InvalidParameter: a parameter or the mask is given twice, or `check_counts` fails.
    """
    parts = [part for part in parts if not part.is_left_empty] or parts
    name = _name_of_images(parts)
    images = [part.file() for part in parts if _stem(part.name) == name]
    fields = _fields(parts, name)
    if not images:
        raise MalformedRequest("the form has no part named 'image': send one or more")
    masks = [part.file() for part in parts if part.name == MASK]
    if len(masks) > 1:
        raise InvalidParameter(f"'mask' is given {len(masks)} times in the form: give it once")
    mask = valid(masks[0]) if masks else None
    payload = Payload(tuple(images), len(images) > 1, fields, mask)
    return check_counts(payload)


def _name_of_images(parts: Sequence[Part]) -> str:
    """'image', or the one name that all files have where there is no such part."""
    if any(part.name == IMAGE for part in parts):
        return IMAGE
    names = {_stem(part.name) for part in parts if part.name != MASK and part.is_file}
    return names.pop() if len(names) == 1 else IMAGE


def _stem(name: str) -> str:
    """`name` without the number at its end."""
    return _NUMBER.sub("", name) or name


def _fields(parts: Sequence[Part], name_of_images: str) -> dict[str, str]:
    fields = []
    for part in parts:
        if part.name == MASK or _stem(part.name) == name_of_images:
            continue
        if part.is_file:
            raise MalformedRequest(
                f"the form has a file named {short(part.name)} beside {short(name_of_images)}: "
                "name images 'image' and a mask 'mask'"
            )
        fields.append((part.name, _unquote(part.content.decode("utf-8", "replace"))))
    return unique(fields, "the form")


def _unquote(value: str) -> str:
    # BentoML's client sends the fields of a form as JSON: text comes in quotes.
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    try:
        return str(orjson.loads(value)) if quoted else value
    except orjson.JSONDecodeError:
        return value


def valid(file: EncodedImage) -> bytes:
    """`file`, or its error raised."""
    if isinstance(file, MalformedRequest):
        raise file
    return file


def unique(pairs: list[tuple[str, str]], place: str) -> dict[str, str]:
    """The parameters in `place` by name.

    Raises:
        InvalidParameter: one is given twice.
    """
    name, times = next(iter(Counter(name for name, _ in pairs).most_common(1)), ("", 0))
    if times > 1:
        raise InvalidParameter(f"{short(name)} is given {times} times in {place}: give it once")
    return dict(pairs)
