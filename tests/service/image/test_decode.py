"""Images of every kind become plain RGB; anything else is refused with a request error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageTooLarge, RequestError, UndecodableImage, UnsupportedFormat
from service.image import decode, resize
from service.image.resize import Input
from support.images import draw, encode, header_of, saved

MOST = 50_000_000
SPEC = Input(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def decoded(body):
    return decode.decode(body, MOST).pixels.astype(int)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_images_come_back_as_they_were(kind, options):
    image = decode.decode(encode(draw(), kind, **options), MOST)
    assert np.array_equal(image.pixels, draw())
    assert (image.format, image.width, image.height) == (kind, 32, 32)


def test_a_jpeg_comes_back_nearly():
    assert np.abs(decoded(encode(draw(), "JPEG", quality=95)) - draw().astype(int)).mean() < 8


def test_grey_becomes_three_equal_channels():
    grey = draw()[:, :, 0]
    assert np.array_equal(decoded(encode(grey)), np.stack([grey] * 3, axis=2))


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65_535, 32 * 32).reshape(32, 32).astype(np.uint16)
    expected = np.rint(ramp / 257)
    assert np.abs(decoded(saved(Image.fromarray(ramp)))[:, :, 0] - expected).max() <= 1


def test_a_palette_is_looked_up():
    image = Image.fromarray(draw()).quantize(64)
    assert np.array_equal(decoded(saved(image)), np.asarray(image.convert("RGB")))


def test_a_transparent_palette_lies_over_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert (decoded(saved(image, transparency=0)) == 255).all()


def test_transparency_lies_over_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:] = (200, 0, 0, 255)
    pixels[:, 1] = (0, 0, 0, 127)
    found = decoded(encode(pixels))
    assert (found[:, 0] == 255).all()
    assert (found[:, 2:] == (200, 0, 0)).all()
    assert np.abs(found[:, 1] - 128).max() <= 1


def test_cmyk_is_converted():
    cmyk = Image.fromarray(draw()).convert("CMYK")
    assert np.abs(decoded(saved(cmyk, "JPEG", quality=95)) - draw().astype(int)).mean() < 8


@pytest.mark.parametrize(
    ("orientation", "back"),
    [
        (1, lambda p: p),
        (3, lambda p: p[::-1, ::-1]),
        (6, lambda p: np.rot90(p, -1)),
        (8, lambda p: np.rot90(p, 1)),
        (2, lambda p: p[:, ::-1]),
    ],
)
def test_exif_orientation_is_applied(orientation, back):
    stored = draw(width=48)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(
        decoded(saved(Image.fromarray(stored), exif=exif)), back(stored).astype(int)
    )


def test_a_sixteen_bit_image_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    assert np.array_equal(
        decoded(saved(Image.fromarray(stored), exif=exif))[:, :, 0],
        np.rot90(np.arange(6).reshape(2, 3), -1),
    )


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(draw(colour)) for colour in ("red", "blue")]
    body = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(decoded(body), draw("red").astype(int))


def test_the_size_is_checked_before_anything_is_unpacked():
    with pytest.raises(
        ImageTooLarge, match=r"40000×40000 px \(1,600 MP\); the limit is 50 MP: send a smaller one"
    ):
        decode.decode(header_of(40_000, 40_000) + b"\0" * 100, MOST)


@pytest.mark.parametrize(
    ("body", "looks"),
    [
        (saved(Image.fromarray(draw()), "GIF"), "a GIF"),
        (saved(Image.fromarray(draw()), "BMP"), "a BMP"),
        (saved(Image.fromarray(draw()), "TIFF"), "a TIFF"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"hello, this is text", "text"),
        (bytes(range(200, 220)), "no image"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 20, "HEIC"),
    ],
)
def test_other_formats_are_named_and_refused(body, looks):
    with pytest.raises(UnsupportedFormat, match=looks):
        decode.decode(body, MOST)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_cut_off_is_refused(kind):
    body = encode(draw(size=64), kind)
    with pytest.raises(UndecodableImage, match="send it whole"):
        decode.decode(body[: len(body) // 2], MOST)


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_images_raise_request_errors_alone(kind, changes):
    body = bytearray(encode(draw(size=24), kind))
    for place, value in changes:
        body[place % len(body)] = value
    try:
        assert decode.decode(bytes(body), 1_000_000).pixels.dtype == np.uint8
    except RequestError as error:
        assert str(error)


def test_an_image_of_the_right_size_is_not_touched():
    assert resize.to_input(draw(), SPEC) is not None
    assert np.array_equal(resize.to_input(draw(), SPEC), draw())


def test_crop_takes_the_middle_of_the_shorter_side():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (resize.to_input(wide, Input(10, SPEC.mean, SPEC.std)) == 200).all()
    assert resize.visible_box(30, 10, Input(10, SPEC.mean, SPEC.std)) == (10, 0, 20, 10)


def test_crop_of_a_larger_short_side_takes_less():
    assert resize.visible_box(256, 256, Input(224, SPEC.mean, SPEC.std, short_side=256)) == (
        16,
        16,
        240,
        240,
    )


def test_stretch_shows_everything():
    spec = Input(8, SPEC.mean, SPEC.std, resize="stretch")
    assert resize.visible_box(30, 10, spec) == (0, 0, 30, 10)
    assert resize.to_input(draw(width=64), spec).shape == (8, 8, 3)


def test_pad_shows_everything_in_proportion_with_the_mean_around():
    spec = Input(30, SPEC.mean, SPEC.std, resize="pad")
    found = resize.to_input(np.full((10, 30, 3), 255, np.uint8), spec)
    assert resize.visible_box(30, 10, spec) == (0, -10, 30, 20)
    assert (found[10:20] == 255).all()
    assert (found[:10] == 128).all()
    assert (found[20:] == 128).all()
