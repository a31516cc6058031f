"""Masks that a caller draws are decoded value by value, and bad ones raise our own error alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidParameter
from service.image import mask
from support.images import encode, saved
from support.masks import BAD, MASK, stripes
from support.servers import ROOT


def palette(labels):
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    # One colour for all: the places in the palette are what counts.
    image.putpalette([0, 0, 0] * 256)
    return image


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (encode(stripes()), stripes()),
        (encode(stripes().astype(np.uint16) * 257), stripes().astype(np.uint16) * 257),
        (saved(palette(stripes())), stripes()),
        (saved(Image.fromarray(stripes() > 60)), stripes() > 60),
    ],
    ids=["8 bits", "16 bits", "palette", "1 bit"],
)
def test_every_value_arrives_unchanged(body, expected):
    assert np.array_equal(mask.decode(body, 96, 64), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_mask_is_turned_by_its_own_orientation(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = stripes().astype(kind)
    labels = mask.decode(saved(Image.fromarray(stored), exif=exif), 64, 96)
    assert np.array_equal(labels, np.rot90(stored, -1))


@pytest.mark.parametrize("name", [name for name in BAD if name != "one value"])
def test_a_bad_mask_is_rejected_with_the_remedy(name):
    body, message = BAD[name]
    with pytest.raises(InvalidParameter) as rejected:
        mask.decode(body, 96, 64)
    assert message in str(rejected.value)


@given(
    place=st.integers(0, len(MASK) - 1), value=st.integers(0, 255), cut=st.integers(0, len(MASK))
)
def test_damaged_bytes_raise_our_own_error_alone(place, value, cut):
    damaged = bytearray(MASK[:cut] or b"\0")
    damaged[place % len(damaged)] = value
    try:
        assert mask.decode(bytes(damaged), 96, 64).shape == (64, 96)
    except InvalidParameter as error:
        assert len(str(error)) < 300


def test_the_mask_in_the_documents_fits_its_image():
    labels = mask.decode((ROOT / "docs/images/red-ball-mask.png").read_bytes(), 320, 240)
    assert len(np.unique(labels)) == 4
