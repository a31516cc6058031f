"""Images of every kind become plain RGB; anything else is rejected with a request error."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from service.errors import ImageTooLarge, RequestError, UndecodableImage, UnsupportedFormat
from service.image import decode, kinds
from support.heavy_bodies import chunk, tiff
from support.images import draw, encode, header_of, saved

MOST = 50_000_000


def decoded(body):
    return decode.decode(body, MOST).pixels.astype(int)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        *(
            ("TIFF", {"compression": each})
            for each in ("raw", "tiff_lzw", "tiff_deflate", "packbits")
        ),
    ],
)
def test_lossless_images_come_back_as_they_were(kind, options):
    image = decode.decode(encode(draw(), kind, **options), MOST)
    assert np.array_equal(image.pixels, draw())
    assert (image.format, image.width, image.height) == (kind, 32, 32)


def test_a_jpeg_comes_back_nearly():
    assert np.abs(decoded(encode(draw(), "JPEG", quality=95)) - draw().astype(int)).mean() < 8


@pytest.mark.parametrize(
    ("kind", "options"), [("AVIF", {"quality": 95}), ("TIFF", {"compression": "jpeg"}), ("GIF", {})]
)
def test_other_images_come_back_nearly(kind, options):
    image = decode.decode(encode(draw(size=64), kind, **options), MOST)
    assert np.abs(image.pixels.astype(int) - draw(size=64)).mean() < 12
    assert image.format == kind


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
    result = decoded(encode(pixels))
    assert (result[:, 0] == 255).all()
    assert (result[:, 2:] == (200, 0, 0)).all()
    assert np.abs(result[:, 1] - 128).max() <= 1


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


def test_what_is_transparent_in_sixteen_bits_is_white():
    samples = np.arange(64, dtype=np.uint16).reshape(8, 8) * 257
    found = decoded(saved(Image.fromarray(samples), transparency=5 * 257))
    assert (found[0, 5] == 255).all()
    assert np.array_equal(found[0, [0, 1, 2, 3, 4, 6, 7], 0], [0, 1, 2, 3, 4, 6, 7])


def test_so_it_is_in_colours_of_sixteen_bits():
    rows = np.full((4, 4, 3), 40_000, ">u2")
    rows[:, 2:] = (1_000, 2_000, 3_000)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = (chunk(b"tRNS", struct.pack(">HHH", 1_000, 2_000, 3_000)), chunk(b"IDAT", packed))
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IEND")
    found = decoded(body)
    assert (found[:, 2:] == 255).all()
    assert (found[:, :2] == 40_000 >> 8).all()


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"'
    b"/></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize("exif", [False, True])
def test_an_orientation_in_xmp_turns_nothing(kind, exif):
    of_camera = Image.Exif()
    of_camera[0x010F] = "a camera"
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = {"pnginfo": text}
    else:
        options = {"xmp": XMP}
    body = encode(draw(width=48), kind, **options, **({"exif": of_camera} if exif else {}))
    assert decode.decode(body, MOST).pixels.shape == (32, 48, 3)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "TIFF", "PNG"])
def test_the_orientation_of_exif_is_applied_once(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode.decode(encode(draw(width=48), kind, exif=exif), MOST).pixels.shape == (48, 32, 3)


def test_the_text_in_which_imagemagick_keeps_exif_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    packed = exif.tobytes()
    text.add_text("Raw profile type exif", f"\nexif\n{len(packed):8}\n{packed.hex()}\n", zip=True)
    body = encode(draw(width=48), "PNG", pnginfo=text)
    assert decode.decode(body, MOST).pixels.shape == (32, 48, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_costs_no_pixel(kind, exif):
    body = encode(draw(width=48), kind, exif=exif)
    assert decode.decode(body, MOST).pixels.shape == (32, 48, 3)


def test_a_jpeg_of_twelve_bits_is_whole_and_not_supported():
    body = encode(draw(), "JPEG")
    place = body.index(b"\xff\xc0") + 4
    with pytest.raises(UnsupportedFormat, match="a JPEG of 12 bits a sample is not supported"):
        decode.decode(body[:place] + b"\x0c" + body[place + 1 :], MOST)


def test_what_pillow_would_unpack_in_python_is_rejected():
    body = bytearray(encode(draw()[..., 0], "BMP"))
    body[30] = 1
    with pytest.raises(UnsupportedFormat, match=r"a BMP of runs \(RLE\)"):
        decode.decode(bytes(body), MOST)


def test_a_tile_far_larger_than_the_image_is_rejected():
    body = tiff({322: 2**15, 323: 2**15})
    with pytest.raises(UnsupportedFormat, match="a TIFF with tiles of 32768×32768 px"):
        decode.decode(body, MOST)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_tiff_of_32_bits_a_sample_is_rejected(dtype):
    body = saved(Image.fromarray(np.zeros((8, 8), dtype)), "TIFF")
    with pytest.raises(UnsupportedFormat, match="a TIFF of 32 bits a sample"):
        decode.decode(body, MOST)


def test_the_size_is_checked_before_anything_is_unpacked():
    with pytest.raises(
        ImageTooLarge, match=r"40000×40000 px \(1,600 MP\); the limit is 50 MP: send a smaller one"
    ):
        decode.decode(header_of(40_000, 40_000) + b"\0" * 100, MOST)


@pytest.mark.parametrize(
    ("body", "looks"),
    [
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"hello, this is text", "text"),
        (bytes(range(200, 220)), "no image"),
        (b"\0\0\0\x18ftypisom" + b"\0" * 20, "an MP4"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
    ],
)
def test_other_formats_are_named_and_rejected(body, looks):
    with pytest.raises(UnsupportedFormat, match=looks):
        decode.decode(body, MOST)


@pytest.mark.parametrize("kind", kinds.FORMATS)
def test_an_image_cut_off_is_rejected(kind):
    body = encode(draw(size=64), kind)
    with pytest.raises(UndecodableImage, match="send it whole"):
        decode.decode(body[: len(body) // 2], MOST)


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(kinds.FORMATS),
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
    assert decode._plain_jpeg_size(body) == (53, 37)
    assert np.array_equal(decode._plain_jpeg_pixels(body), by_pillow(body))


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
def test_pillow_gets_what_is_no_plain_jpeg(body):
    assert decode._plain_jpeg_size(body) is None


def test_cmyk_and_several_images_in_one_are_not_plain():
    cmyk, several = io.BytesIO(), io.BytesIO()
    Image.fromarray(draw()).convert("CMYK").save(cmyk, "JPEG")
    Image.fromarray(draw()).save(
        several, "MPO", save_all=True, append_images=[Image.fromarray(draw("blue"))]
    )
    assert decode._plain_jpeg_size(cmyk.getvalue()) is None
    assert decode._plain_jpeg_size(several.getvalue()) is None


def test_a_turned_jpeg_is_turned_back():
    assert decode.decode(with_orientation(6), 10_000).pixels.shape == (48, 32, 3)
    assert decode._plain_jpeg_size(encode(draw(width=48), "JPEG")) == (48, 32)


def test_a_jpeg_cut_off_behind_its_header_is_not_unpacked():
    body = encode(draw(size=64), "JPEG")
    cut = body[: len(body) * 3 // 4]
    assert decode._plain_jpeg_size(cut) == (64, 64)
    assert decode._plain_jpeg_pixels(cut) is None


@hypothesis_settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0.2, 1),
)
def test_a_damaged_jpeg_never_has_other_pixels_than_pillow_gives(seed, changes, share):
    body = bytearray(encode(draw(size=24, seed=seed), "JPEG"))
    for place, value in changes:
        body[place % len(body)] = value
    damaged = bytes(body[: round(share * len(body))])
    if (
        decode._plain_jpeg_size(damaged) is not None
        and (pixels := decode._plain_jpeg_pixels(damaged)) is not None
    ):
        assert np.array_equal(pixels, by_pillow(damaged))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_side_has_a_limit(kind):
    body = encode(np.zeros((1, 16_385 if kind != "WEBP" else 16_383, 3), np.uint8), kind)
    if kind == "WEBP":  # the format itself ends there
        assert decode.decode(body, MOST).width == 16_383
        return
    with pytest.raises(ImageTooLarge, match=r"16385×1 px; the limit of a side is 16,384 px"):
        decode.decode(body, MOST)


SIXTEEN_BITS = np.arange(33 * 21, dtype=np.uint16).reshape(33, 21) * 90


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(draw(size=33, width=21)),
        Image.fromarray(draw(size=33, width=21)).convert("LA"),
        Image.fromarray(draw(size=33, width=21)).convert("RGBA").quantize(9),
        Image.fromarray(SIXTEEN_BITS),
    ],
    ids=lambda image: image.mode,
)
def test_strips_give_the_pixels_of_the_whole_image(image, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = saved(image, exif=exif)
    whole = decoded(body)
    monkeypatch.setattr(decode, "STRIP_PIXELS", 100)
    assert np.array_equal(decoded(body), whole)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    if image.mode == "RGB":
        assert np.array_equal(whole, np.asarray(upright))
    assert whole.shape[1::-1] == upright.size


@pytest.mark.parametrize(
    ("body", "bytes_a_pixel"),
    [
        (encode(draw(), "PNG"), 7.5),
        (encode(draw(), "WEBP"), 16.5),
        (encode(draw(), "AVIF"), 16.5),
        (encode(draw(), "TIFF"), 12.5),
        (encode(draw(), "JPEG"), 7.5),
        (encode(draw(), "JPEG", progressive=True), 10.5),
        (with_orientation(6), 7.5),
        (saved(Image.fromarray(draw()).convert("CMYK"), "JPEG"), 7.5),
        (saved(Image.fromarray(draw()).convert("CMYK"), "JPEG", progressive=True), 12.5),
    ],
)
def test_the_header_gives_the_memory_of_decoding(body, bytes_a_pixel):
    assert decode.open_header(body, MOST).bytes_a_pixel == bytes_a_pixel


@pytest.mark.parametrize(
    ("body", "is_quick"),
    [
        (encode(draw(size=256), "JPEG"), True),
        (encode(draw(size=257), "JPEG"), False),
        (encode(draw(), "JPEG", progressive=True), False),
        (encode(draw(), "JPEG") + bytes(2**16), False),
        (encode(draw(), "PNG"), False),
    ],
    ids=["small", "large", "several scans", "a large body", "PNG"],
)
def test_the_header_says_what_is_unpacked_quickly(body, is_quick):
    assert decode.open_header(body, MOST).is_quick == is_quick


def test_the_scan_of_a_thumbnail_costs_nothing():
    exif = Image.Exif()
    exif[0x927C] = encode(draw(), "JPEG")  # a maker's note
    body = encode(draw(), "JPEG", exif=exif)
    assert body.count(b"\xff\xda") == 2
    assert decode.open_header(body, MOST).bytes_a_pixel == 7.5


def test_texts_of_a_png_cannot_fill_the_memory():
    texts = PngImagePlugin.PngInfo()
    for number in range(6):
        texts.add_text(f"text {number}", "0" * 2**20, zip=True)
    with pytest.raises(UndecodableImage, match="send it whole"):
        decode.decode(saved(Image.fromarray(draw()), pnginfo=texts), MOST)
