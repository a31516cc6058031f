"""HEIC, where the extra is installed: read within limits, in a process of its own."""

import io
import struct
import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from service.errors import ImageTooLarge, RequestError, UndecodableImage, UnsupportedFormat
from service.image import boxes, decode, header, heic, kinds
from support.images import draw
from support.servers import ROOT

MOST = 10_000_000
SIZE = 64  # libx265 takes nothing smaller


def made(pixels, mode="RGB", **options):
    """An HEIC of `pixels`, uint8 or uint16 (H, W, …)."""
    buffer = io.BytesIO()
    height, width = pixels.shape[:2]
    options = {"quality": 95, "chroma": "444", **options}
    pillow_heif.encode(mode, (width, height), pixels.tobytes(), buffer, **options)
    return buffer.getvalue()


PIXELS = draw("red", size=SIZE, width=96)
HEIC = made(PIXELS)


def decoded(body, colour="as-sent"):
    return decode.decode(body, MOST, colour).pixels.astype(int)


def distance(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected.astype(int)).mean()


def test_an_heic_comes_back_nearly():
    image = decode.decode(HEIC, MOST)
    assert (image.format, image.width, image.height) == ("HEIC", 96, 64)
    assert distance(image.pixels.astype(int), PIXELS) < 5


@pytest.mark.parametrize("tile_size", [None, 64])
@pytest.mark.parametrize("mode", ["RGB;16", "RGBA;16"])
def test_more_bits_and_tiles_come_back_too(mode, tile_size):
    alpha = np.full((SIZE, 96, 1), 255, np.uint8)
    samples = np.dstack([PIXELS, alpha]) if "A" in mode else PIXELS
    deep = (samples.astype(np.uint16)) * 257
    body = made(deep, mode, **({"tile_size": tile_size} if tile_size else {}))
    assert boxes.first_image(body)[2:] == (6, "A" in mode)
    assert distance(decoded(body), PIXELS) < 5


def test_grey_of_more_bits_is_scaled():
    grey = PIXELS[..., 0]
    body = made(grey.astype(np.uint16) * 257, "L;16")
    assert distance(decoded(body), np.dstack([grey] * 3)) < 5


def test_transparency_lies_over_white():
    samples = np.dstack([PIXELS, np.full((SIZE, 96), 255, np.uint8)])
    samples[:32, :, 3] = 0
    found = decoded(made(samples, "RGBA"))
    assert (found[:28] > 250).all()
    assert distance(found[36:], PIXELS[36:]) < 5


def turned(orientation):
    """EXIF with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_heic_is_turned_by_its_boxes_once(orientation):
    body = made(PIXELS, exif=turned(orientation))  # the encoder writes boxes of it, too
    upright = np.ascontiguousarray(decode._TURNS.get(orientation, lambda p: p)(PIXELS))
    assert distance(decoded(body), upright) < 5


def test_an_orientation_in_exif_alone_turns_nothing():
    body = bytearray(made(PIXELS, exif=turned(6)))
    body[body.index(b"irot") + 4] = 0
    assert distance(decoded(bytes(body)), PIXELS) < 5


def swapped():
    """A profile whose red is sRGB's green and whose green is its red."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132])
    tags = {bytes(profile[p : p + 4]): p + 4 for p in range(132, 132 + 12 * count, 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red : red + 8], profile[green : green + 8] = (
        profile[green : green + 8],
        profile[red : red + 8],
    )
    return bytes(profile)


def test_a_profile_is_applied_where_colours_are_srgb():
    body = made(PIXELS, icc_profile=swapped(), icc_profile_type="prof")
    assert distance(decoded(body), PIXELS) < 5
    assert distance(decoded(body, "srgb"), PIXELS[..., [1, 0, 2]]) < 5


def test_of_several_images_the_first_is_read():
    frames = [Image.fromarray(draw(colour, size=SIZE)) for colour in ("blue", "red")]
    found = pillow_heif.from_pillow(frames[0])
    found.add_from_pillow(frames[1])
    buffer = io.BytesIO()
    found.save(buffer, quality=95, chroma="444")
    assert distance(decoded(buffer.getvalue()), draw("blue", size=SIZE)) < 5


def with_size(body, width, height):
    """`body`, whose metadata name another size."""
    place = body.index(b"ispe") + 8
    return body[:place] + struct.pack(">II", width, height) + body[place + 8 :]


def test_the_size_is_checked_before_anything_is_decoded():
    with pytest.raises(ImageTooLarge, match="40000×40000 px"):
        decode.open_header(with_size(HEIC, 40_000, 40_000), MOST)


def test_an_image_of_no_size_is_rejected():
    with pytest.raises(UndecodableImage, match="names no size of its first image"):
        decode.open_header(with_size(HEIC, 0, 64), MOST)


@pytest.mark.parametrize("size", [(1, 1), (64, 1)])
def test_a_size_smaller_than_the_stream_costs_no_more_than_it_says(size):
    with pytest.raises(UndecodableImage, match=r"more time, memory or pixels|damaged"):
        decode.decode(with_size(HEIC, *size), MOST)


def test_the_process_ends_at_its_limit_of_memory(monkeypatch):
    monkeypatch.setattr(heic, "BYTES", 2**22)
    with pytest.raises(UndecodableImage, match=r"send it whole|more time, memory or pixels"):
        decode.decode(HEIC, MOST)


def test_the_process_ends_at_its_limit_of_time(monkeypatch):
    monkeypatch.setattr(heic, "WALL_FACTOR", 0.001)
    with pytest.raises(UndecodableImage, match="takes more time, memory or pixels than one of"):
        decode.decode(HEIC, MOST)


def box(name, content=b""):
    return struct.pack(">I", 8 + len(content)) + name + content


FTYP = box(b"ftyp", b"heic\0\0\0\0mif1heic")


@pytest.mark.parametrize(
    "inside",
    [
        box(b"meta", bytes(4) + box(b"free") * 1_001),
        box(b"free") * 1_001,
        box(b"meta", bytes(4) + box(b"iinf", bytes(6) + box(b"infe", bytes(20)) * 1_001)),
        box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", box(b"ispe", bytes(12)) * 1_001))),
    ],
    ids=["metadata", "outside", "items", "properties"],
)
def test_absurd_numbers_of_boxes_are_rejected(inside):
    with pytest.raises(UndecodableImage, match="more than 1,000 markers"):
        header.check(FTYP + inside)


def test_boxes_in_boxes_end():
    nested = b""
    for _ in range(2_000):
        nested = box(b"iprp", nested)
    assert len(list(boxes.walk(FTYP + nested))) < 10


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_an_heic_cut_off_is_rejected(part):
    with pytest.raises(UndecodableImage, match="send it whole"):
        decode.decode(HEIC[: int(part * len(HEIC))], MOST)


def test_damaged_metadata_raise_request_errors_alone():
    rng = np.random.default_rng(0)
    end = HEIC.index(b"mdat")
    for _ in range(2_000):
        body = bytearray(HEIC)
        for place in rng.integers(4, end, 3):
            body[place] = rng.integers(256)
        try:
            decode.open_header(bytes(body), MOST)
        except RequestError as error:
            assert str(error)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_raise_request_errors_alone(seed):
    rng, body = np.random.default_rng(seed), bytearray(HEIC)
    for place in rng.integers(40, len(HEIC), 4):
        body[place] = rng.integers(256)
    try:
        assert decode.decode(bytes(body), MOST).pixels.dtype == np.uint8
    except RequestError as error:
        assert str(error)


def test_another_codec_in_such_a_file_is_named():
    body = HEIC.replace(b"hvc1", b"vvc1").replace(b"hvcC", b"vvcC")
    with pytest.raises(UnsupportedFormat, match=r"an HEIC of this kind is not supported \("):
        decode.decode(body, MOST)


@pytest.mark.parametrize(
    ("brands", "is_heic"),
    [
        (b"heic\0\0\0\0mif1heic", True),
        (b"mif1\0\0\0\0mif1heic", True),
        (b"msf1\0\0\0\0hevc", True),
        (b"mif1\0\0\0\0mif1avifmiaf", False),
        (b"avif\0\0\0\0avifmif1miaf", False),
        (b"isom\0\0\0\0mp41", False),
    ],
)
def test_an_heic_is_known_by_its_brands(brands, is_heic):
    assert kinds.is_heic(box(b"ftyp", brands)) == is_heic


def test_the_memory_is_what_the_metadata_announce():
    opened = decode.open_header(HEIC, MOST)
    first = boxes.FirstImage(96, 64, 3, alpha=False)
    assert opened.bytes_a_pixel * 96 * 64 == pytest.approx(heic.cost(HEIC, first))
    assert not header.is_quick(HEIC)  # a process is started for it: never on the event loop


def test_without_the_extra_a_refusal_says_what_to_do(monkeypatch):
    monkeypatch.setattr(heic, "AVAILABLE", False)
    with pytest.raises(
        UnsupportedFormat,
        match=r"an HEIC \(HEIF\), which is not read: convert it to JPEG, or install the extra "
        r"candor\[heic\] on the server",
    ):
        decode.decode(HEIC, MOST)


def test_the_service_imports_no_decoder_of_heic():
    code = "import sys, service.image.decode; print('pillow_heif' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


PEAK = """
import resource, sys
from service.image import boxes, heic
body = sys.stdin.buffer.read()
first = boxes.first_image(body)
heic.image(body, first)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, heic.cost(body, first))
"""


def test_decoding_takes_no_more_memory_than_is_charged():
    body = made(np.zeros((2048, 2048, 3), np.uint8), enc_params={"preset": "ultrafast"})
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=ROOT, input=body, capture_output=True, check=True
    )
    peak, charged = map(int, done.stdout.split())
    assert charged / 3 < peak < charged
