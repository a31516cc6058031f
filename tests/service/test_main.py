"""python -m service without a server: JSON, files, and one sentence for a mistake."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from support.commands import run
from support.images import draw, encode
from support.masks import IMAGE, MASK, stripes


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encode(draw(size=48, width=64)))
    return path


def test_predict_prints_json(tmp_path, image):
    done = run(tmp_path, "predict", image, "--top-k", "2")
    result = json.loads(done.stdout)
    assert len(result["top"]) == 2
    assert result["image"] == {"width": 64, "height": 48, "format": "PNG"}


def test_explain_writes_the_overlay(tmp_path, image):
    out = tmp_path / "map.png"
    done = run(
        tmp_path,
        "explain",
        image,
        "--method",
        "integrated_gradients",
        "--set",
        "steps=4",
        "--target",
        "cat",
        "--out",
        out,
    )
    result = json.loads(done.stdout)["explanation"]
    assert result["parameters"] == {"steps": 4, "tolerance": 0.05, "baseline": "mean"}
    assert result["target"]["label"] == "cat"
    width, height = Image.open(io.BytesIO(out.read_bytes())).size
    assert width == 256  # magnified, and a legend below
    assert height > 192 + 50


def test_explain_writes_the_overlay_alone(tmp_path, image):
    out = tmp_path / "map.png"
    assert run(tmp_path, "explain", image, "--no-legend", "--out", out).returncode == 0
    assert Image.open(io.BytesIO(out.read_bytes())).size == (64, 48)


def test_explain_writes_the_raw_map(tmp_path, image):
    out = tmp_path / "map.npy"
    assert run(tmp_path, "explain", image, "--out", out).returncode == 0
    assert np.load(out, allow_pickle=False).shape == (32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "the methods are saliency"),
        (["--target", "unicorn"], "name a label"),
        (["--method", "integrated_gradients", "--set", "steps=0"], "from 1 to 512"),
        (["--out", "map.bmp"], "ends neither in .png"),
    ],
)
def test_a_mistake_ends_with_a_sentence(tmp_path, image, arguments, message):
    given = arguments if "--out" in arguments else [*arguments, "--out", tmp_path / "map.png"]
    done = run(tmp_path, "explain", image, *given)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_image_ends_with_a_sentence(tmp_path):
    path = tmp_path / "noise.jpg"
    path.write_bytes(b"noise")
    done = run(tmp_path, "predict", path)
    assert done.returncode == 1
    assert "JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF are supported" in done.stderr


def test_the_command_line_takes_a_mask(tmp_path):
    image, mask, other = tmp_path / "image.png", tmp_path / "mask.png", tmp_path / "other.png"
    image.write_bytes(IMAGE)
    mask.write_bytes(MASK)
    other.write_bytes(encode(stripes(10, 10)))
    arguments = (
        "explain",
        image,
        "--method",
        "feature_ablation",
        "--out",
        tmp_path / "map.npy",
        "--mask",
    )
    assert json.loads(run(tmp_path, *arguments, mask).stdout)["explanation"]["parameters"][
        "mask"
    ] == {"segments": 4}
    assert len(np.unique(np.load(tmp_path / "map.npy", allow_pickle=False))) == 4
    rejected = run(tmp_path, *arguments, other)
    assert rejected.returncode == 1
    assert "the mask is 10×10 px" in rejected.stderr


def test_the_help_shows_examples_and_settings(tmp_path):
    for arguments, message in (
        (["--help"], "python -m service explain cat.jpg"),
        (["serve", "--help"], "CANDOR_MAX_PIXELS"),
        (["explain", "--help"], "--set steps=64"),
    ):
        assert message in run(tmp_path, *arguments).stdout
