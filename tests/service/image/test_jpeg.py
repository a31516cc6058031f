"""Plain JPEGs are unpacked to the very pixels that Pillow gives; what is not plain, or damaged, is left to Pillow."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from service.image import decode, jpeg
from support.images import draw, encode


def by_pillow(body):
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return encode(draw(width=48), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95},
        {"quality": 30, "subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2, "optimize": True},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"comment": b"hello"},
        {"icc_profile": b"profile" * 20},
    ],
    ids=str,
)
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_a_plain_jpeg_has_the_pixels_that_pillow_gives(options, grey):
    pixels = draw(size=37, width=53)
    body = encode(
        pixels[:, :, 0] if grey else pixels,
        "JPEG",
        **({} if grey and "subsampling" in options else options),
    )
    assert jpeg.size_of(body) == (53, 37)
    assert np.array_equal(jpeg.decode(body), by_pillow(body))


@pytest.mark.parametrize(
    "body",
    [
        encode(draw(), "PNG"),
        encode(draw(), "WEBP"),
        with_orientation(6),
        encode(np.zeros((8, 8, 4), np.uint8), "PNG"),
        encode(draw(), "JPEG")[:40],
        b"\xff\xd8\xff" + b"hello",
        b"",
    ],
    ids=["PNG", "WebP", "EXIF", "transparent", "half a header", "text", "nothing"],
)
def test_what_is_not_plain_is_not_taken(body):
    assert jpeg.size_of(body) is None


def test_cmyk_and_several_images_in_one_are_not_plain():
    cmyk, several = io.BytesIO(), io.BytesIO()
    Image.fromarray(draw()).convert("CMYK").save(cmyk, "JPEG")
    Image.fromarray(draw()).save(
        several, "MPO", save_all=True, append_images=[Image.fromarray(draw("blue"))]
    )
    assert jpeg.size_of(cmyk.getvalue()) is None
    assert jpeg.size_of(several.getvalue()) is None


def test_a_turned_jpeg_is_turned_back():
    assert decode.decode(with_orientation(6), 10_000).pixels.shape == (48, 32, 3)
    assert jpeg.size_of(encode(draw(width=48), "JPEG")) == (48, 32)


def test_a_jpeg_cut_off_behind_its_header_is_not_unpacked():
    body = encode(draw(size=64), "JPEG")
    cut = body[: len(body) * 3 // 4]
    assert jpeg.size_of(cut) == (64, 64)
    assert jpeg.decode(cut) is None


@hypothesis_settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0.2, 1),
)
def test_damage_never_gives_other_pixels_than_pillow(seed, changes, share):
    body = bytearray(encode(draw(size=24, seed=seed), "JPEG"))
    for place, value in changes:
        body[place % len(body)] = value
    damaged = bytes(body[: round(share * len(body))])
    if jpeg.size_of(damaged) is not None and (pixels := jpeg.decode(damaged)) is not None:
        assert np.array_equal(pixels, by_pillow(damaged))
