"""A model in this process gives what the routes give, and shows itself in a notebook."""

import io

import numpy as np
import pytest
from PIL import Image

from service import open_model
from service.errors import InvalidParameter, ManifestError, UndecodableImage
from support.images import draw, encode

PIXELS = draw(size=48, width=64)


@pytest.fixture(scope="module")
def model():
    return open_model("cifar10")


def test_a_path_bytes_and_a_pillow_image_get_the_same_answer(model, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encode(PIXELS))
    answers = [
        model.predict(source, top_k=2).document()
        for source in (path, str(path), path.read_bytes(), Image.fromarray(PIXELS))
    ]
    assert len(answers[0]["top"]) == 2
    assert answers.count(answers[0]) == 4


def test_an_explanation_is_saved_as_an_overlay_or_as_numbers(model, tmp_path):
    found = model.explain(encode(PIXELS), "integrated_gradients", "cat", {"steps": 2})
    assert found.document()["explanation"]["target"]["label"] == "cat"
    assert np.array_equal(np.load(found.save(tmp_path / "map.npy")), found.map)
    assert Image.open(io.BytesIO(found.save(tmp_path / "map.png").read_bytes())).size[0] == 256
    assert Image.open(io.BytesIO(found.overlay())).size == (64, 48)
    with pytest.raises(ValueError, match=r"neither in \.png"):
        found.save(tmp_path / "map.jpg")


def test_the_default_method_is_the_cheapest(model):
    assert model.explain(encode(PIXELS)).attribution.question.method.name == "grad_cam"


def test_a_notebook_shows_the_words_and_the_map(model):
    shown = model.explain(encode(PIXELS))._repr_html_()
    assert shown.startswith('<img src="data:image/png;base64,')
    assert shown.count("<p>") == 4
    assert model.predict(encode(PIXELS))._repr_html_().count("<p>") == 2


def test_mistakes_are_the_errors_of_the_service(model, tmp_path):
    with pytest.raises(InvalidParameter, match="no parameter"):
        model.explain(encode(PIXELS), "grad_cam", parameters={"steps": 3})
    with pytest.raises(UndecodableImage):
        model.predict(encode(PIXELS)[:200])
    with pytest.raises(ManifestError):
        open_model(tmp_path)
