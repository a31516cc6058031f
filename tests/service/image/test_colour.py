"""Colour profiles are applied where the manifest says so, and only there."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.image import colour, decode
from support.heavy_bodies import chunk
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


# Primaries in XYZ (D50), a row a colour, and the gamma of an RGB space.
SPACES = {
    "Display P3": (
        ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
        2.2,
    ),
    "Adobe RGB": (
        ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
        2.2,
    ),
    "ProPhoto": (
        ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)),
        1.8,
    ),
}
SRGB_TO_XYZ = np.array(
    [[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]]
)
D50 = (0.9642, 1.0, 0.8249)


def fixed(values):
    return struct.pack(f">{len(values)}i", *(round(value * 65_536) for value in values))


def matrix_profile(tags, space=b"RGB ", version=2):
    """An ICC profile of a display, with these tags (ICC.1:2022, 7.2)."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = start + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", version << 24, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(D50) + bytes(48)
    return head + table + data


def gamma_curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def profile_of(name, version):
    primaries, gamma = SPACES[name]
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(D50)}
    for colour_name, primary in zip(b"rgb", primaries, strict=True):
        tags[bytes([colour_name]) + b"XYZ"] = b"XYZ " + bytes(4) + fixed(primary)
        tags[bytes([colour_name]) + b"TRC"] = gamma_curve(gamma)
    return matrix_profile(tags, version=version)


def encoded(linear):
    """sRGB of linear light in 0…1 (IEC 61966-2-1), in 0…255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("name", SPACES)
def test_wide_spaces_become_what_their_primaries_say(name, version, kind):
    pixels = draw("green", size=48)
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    body = encode(pixels, kind, icc_profile=profile_of(name, version), **options)
    primaries, gamma = SPACES[name]
    stored = decode.decode(body, MOST).pixels / 255
    expected = encoded(stored**gamma @ np.array(primaries) @ np.linalg.inv(SRGB_TO_XYZ))
    found = decode.decode(body, MOST, "srgb").pixels
    assert np.abs(found - expected).mean() < 1
    assert np.abs(255 * stored - found).mean() > 3


def test_a_profile_of_grey_is_applied():
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(D50), b"kTRC": gamma_curve(1.0)}
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    body = encode(ramp, "PNG", icc_profile=matrix_profile(tags, b"GRAY"))
    found = decode.decode(body, MOST, "srgb").pixels
    assert np.abs(found[..., 0] - encoded(ramp / 255)).max() < 2
    assert (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("space", [b"GRAY", b"CMYK"])
def test_a_profile_of_another_space_changes_nothing(space):
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(D50), b"kTRC": gamma_curve(1.0)}
    body = encode(draw("red"), "PNG", icc_profile=matrix_profile(tags, space))
    assert np.array_equal(decode.decode(body, MOST, "srgb").pixels, draw("red"))


def test_chunks_that_describe_colours_are_no_profile():
    plain = encode(draw("red"))
    chunks = chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"cICP", bytes([12, 13, 0, 1]))
    body = plain[:33] + chunks + plain[33:]
    assert np.array_equal(decode.decode(body, MOST, "srgb").pixels, draw("red"))
