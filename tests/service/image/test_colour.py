"""Colour profiles are applied where the manifest says so, and only there."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.image import colour, decode
from support.images import draw, encode, saved

MOST = 10_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped():
    """A profile like sRGB, whose red is sRGB's green and whose green is its red."""
    start = int.from_bytes(SRGB[128:132])
    tags = {SRGB[p : p + 4]: p for p in range(132, 132 + 12 * start, 12)}
    profile = bytearray(SRGB)
    red, green = (tags[name] + 4 for name in (b"rXYZ", b"gXYZ"))
    profile[red : red + 8], profile[green : green + 8] = (
        profile[green : green + 8],
        profile[red : red + 8],
    )
    return bytes(profile)


SWAPPED = swapped()
SEEN = draw("red", size=48)[..., [1, 0, 2]].astype(int)  # as it is meant


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 95}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_a_profile_changes_the_colours_of_every_format(kind, options):
    body = encode(draw("red", size=48), kind, icc_profile=SWAPPED, **options)
    found = decode.decode(body, MOST, "srgb").pixels.astype(int)
    assert np.abs(found - SEEN).mean() < 12
    as_sent = decode.decode(body, MOST).pixels.astype(int)
    assert np.abs(as_sent - draw("red", size=48)).mean() < 12


def test_strips_have_the_colours_of_the_whole(monkeypatch):
    body = encode(draw("red", size=48), "PNG", icc_profile=SWAPPED)
    whole = decode.decode(body, MOST, "srgb").pixels
    monkeypatch.setattr(decode, "STRIP_PIXELS", 100)
    assert np.array_equal(decode.decode(body, MOST, "srgb").pixels, whole)


def test_transparency_stays_as_it_was():
    pixels = np.dstack([draw("red", size=48), np.full((48, 48), 255, np.uint8)])
    pixels[:24, :, 3] = 0
    body = saved(Image.fromarray(pixels), icc_profile=SWAPPED)
    found = decode.decode(body, MOST, "srgb").pixels.astype(int)
    assert (found[:24] == 255).all()
    assert np.abs(found[24:] - SEEN[24:]).mean() < 3


@pytest.mark.parametrize("profile", [SRGB, b"nonsense", SWAPPED[:200]])
def test_a_profile_of_srgb_or_of_nonsense_changes_nothing(profile):
    body = encode(draw("red"), "PNG", icc_profile=profile)
    assert np.array_equal(decode.decode(body, MOST, "srgb").pixels, draw("red"))


def test_a_plain_jpeg_of_srgb_keeps_its_fast_way():
    body = encode(draw("red"), "JPEG", icc_profile=SRGB)
    assert decode.open_header(body, MOST, "srgb").decode.__name__ == "<lambda>"
    assert np.array_equal(
        decode.decode(body, MOST, "srgb").pixels, decode.decode(body, MOST).pixels
    )


def test_a_profile_in_several_segments_is_joined():
    long = SWAPPED + bytes(100_000)
    body = encode(draw("red"), "JPEG", icc_profile=long)
    assert body.count(b"ICC_PROFILE\0") > 1
    assert colour.profile_of_jpeg(body) == long
    assert colour.profile_of_jpeg(encode(draw("red"), "JPEG")) is None


def test_the_bytes_of_a_profile_elsewhere_are_no_profile():
    body = encode(draw("red"), "JPEG", comment=b"ICC_PROFILE\0\1\1" + SWAPPED[:50])
    assert colour.profile_of_jpeg(body) is None


@pytest.mark.parametrize("meant", ["srgb", "as-sent"])
def test_the_manifest_says_which(meant, embedded):
    from dataclasses import replace

    from service.bundle.manifest import Manifest

    spec = replace(embedded.manifest.input, colour=meant)
    manifest = replace(embedded.manifest, input=spec)
    document = manifest.document()
    assert ("colour" in document["input"]) == (meant == "srgb")
    assert Manifest.parse(manifest.canonical()).input == spec
