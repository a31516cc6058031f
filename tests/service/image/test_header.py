"""The count of markers and chunks before an image is opened."""

import pytest

from service.errors import InvalidParameter, UndecodableImage
from service.image import decode, header, kinds, mask
from support.heavy_bodies import chunk, gif, jpeg, packed_texts, png, tiff, webp
from support.images import draw, encode

LIMIT = 1_000_000
COMMENT = b"\xff\xfe\x00\x02"
MANY_TAGS = dict.fromkeys(range(40_000, 41_001), 0)
OTHERS = "1,000 markers, chunks, blocks, boxes or tags"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (png(chunk(b"teSt") * 1_001), OTHERS),
        (png(after=chunk(b"teSt") * 1_001), OTHERS),
        (png(chunk(b"IDAT") * 10_001), "10,000 chunks of pixels"),
        (png(packed_texts(17)), "16 chunks of packed text"),
        (jpeg(COMMENT * 1_001), OTHERS),
        (jpeg(b"\xff" * 1_001), OTHERS),
        (jpeg(COMMENT + b"\x00" * 1_001), OTHERS),
        (jpeg(b"\xff\x00" * 1_001), OTHERS),
        (webp(1_001), OTHERS),
        (encode(draw(), "JPEG") + b"\xff\xda" * 101, "100 scans"),
        (gif(1_001), OTHERS),
        (tiff(MANY_TAGS), OTHERS),
    ],
)
def test_absurd_numbers_are_rejected_with_the_limit(body, name):
    with pytest.raises(UndecodableImage, match=f"more than {name}: save it again"):
        header.check(body)


@pytest.mark.parametrize(
    "body",
    [
        png(chunk(b"teSt") * 900),
        png(packed_texts(4)),
        jpeg(COMMENT * 900),
        jpeg(b"\xff" * 900),
        webp(900),
        gif(900),
        tiff(dict.fromkeys(range(40_000, 40_900), 0)),
        encode(draw(size=512), "JPEG", progressive=True),
    ],
)
def test_unusual_files_are_decoded(body):
    header.check(body)
    assert decode.decode(body, LIMIT).pixels.size


@pytest.mark.parametrize("kind", kinds.FORMATS)
@pytest.mark.parametrize("size", [1, 32, 128])
def test_a_usual_small_image_is_quick(kind, size):
    assert header.is_quick(encode(draw(size=size), kind))


@pytest.mark.parametrize(
    "body",
    [bytes(header.LARGE_BYTES + 1), png(chunk(b"teSt") * 30), png(packed_texts(1)), webp(30)],
)
def test_other_files_are_not(body):
    assert not header.is_quick(body)


def test_the_open_of_a_file_of_absurd_numbers_is_rejected():
    with pytest.raises(UndecodableImage, match="markers, chunks"):
        decode.open_header(jpeg(COMMENT * 1_001), LIMIT)


def test_tags_that_name_the_whole_file_again_and_again_are_rejected():
    body = tiff(dict.fromkeys(range(40_000, 40_020), 0), count=2_000)
    with pytest.raises(
        UndecodableImage, match=r"the tags of the TIFF name 160,0.. bytes, and it has 3,"
    ):
        header.check(body)


def test_so_is_a_mask():
    with pytest.raises(InvalidParameter, match="markers, chunks"):
        mask.decode(png(chunk(b"teSt") * 1_001), 8, 8)


@pytest.mark.parametrize("body", [b"", b"\xff\xd8\xff", b"RIFF", b"\x89PNG\r\n\x1a\n\0", b"GIF89a"])
def test_a_cut_off_file_has_no_parts_more(body):
    assert list(header.parts(body)) == []
