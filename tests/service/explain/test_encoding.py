"""Maps and overlays in each coding are what they were, as exactly as it says."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.explain import ask, explain
from service.explain.encoding import MEDIA_TYPES, coded, picture
from service.explain.maps.cam import scaled
from support.images import draw

OVERLAY = draw("red", 224)


@pytest.fixture(scope="module")
def answer(engine):
    pixels = draw("red")
    logits = engine.predict(pixels[None]).logits[0]
    return explain(engine, pixels, ask(engine.manifest, "grad_cam", None, {}), logits)


def content(document):
    return base64.b64decode(document["data"])


def test_base64_is_exact(answer):
    values = np.frombuffer(content(coded(answer, "base64")), "<f4").reshape(answer.map.shape)
    assert np.array_equal(values, answer.map)


def test_half_precision_is_near_at_any_scale(answer):
    document = coded(answer, "npy16")
    values = np.load(io.BytesIO(content(document))).astype(np.float32) * np.abs(answer.map).max()
    assert values == pytest.approx(answer.map, abs=5e-4 * np.abs(answer.map).max().item())


def test_grey_is_near_on_the_range(answer):
    document = coded(answer, "png16")
    low, high = document["range"]
    with Image.open(io.BytesIO(content(document))) as image:
        grey = np.asarray(image, np.float64)
    assert low + grey * (high - low) / 65_535 == pytest.approx(answer.map, abs=(high - low) / 1e5)


def test_cells_are_what_the_map_is_scaled_from(answer):
    document = coded(answer, "cells")
    cells = np.frombuffer(content(document), "<f4").reshape(document["cells"])
    assert scaled(cells[None], answer.map.shape)[0] == pytest.approx(answer.map, abs=1e-6)
    assert len(document["data"]) < 100


@pytest.mark.parametrize(
    "values", [np.zeros((3, 5), np.float32), np.full((2, 2), -1e-9, np.float32)]
)
def test_equal_values_stay_equal(values, answer):
    flat = replace(answer, map=values)
    document = coded(flat, "png16")
    assert document["range"] == [values.min(), values.max()]
    assert np.isfinite(np.load(io.BytesIO(content(coded(flat, "npy16"))))).all()


@pytest.mark.parametrize(("form", "most"), [("png", 0), ("png8", 12), ("webp", 4), ("jpeg", 4)])
def test_an_overlay_is_near_in_every_format(form, most):
    with Image.open(io.BytesIO(picture(OVERLAY, form))) as image:
        assert Image.MIME[image.format] == MEDIA_TYPES[form]
        drawn = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(drawn - OVERLAY).mean() <= most


@pytest.mark.parametrize("shape", [(1, 1), (300, 257), (3, 70_000)])
def test_a_png_has_the_pixels_of_the_overlay(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    opened = Image.open(io.BytesIO(picture(pixels)))
    assert (opened.format, opened.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(opened), pixels)
