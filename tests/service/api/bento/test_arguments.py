"""Arguments of the BentoML APIs survive pickle and JSON, and the schema is that of this model."""

import base64
import io
import json
import warnings

import pytest
from PIL import Image

from service.api.bento.files import file_bytes
from support.images import draw, encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of BentoML's own imports
    from service.api.bento.arguments import ExplainArguments, PredictArguments

FILE = encode(draw(size=16))
TEXT = base64.b64encode(FILE).decode()


def test_an_image_may_be_bytes_a_path_an_image_of_pillow_or_base64_text(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(FILE)
    assert file_bytes(FILE) == file_bytes(bytearray(FILE)) == file_bytes(path) == FILE
    assert file_bytes(TEXT) == FILE
    with Image.open(path) as image, Image.open(io.BytesIO(file_bytes(image))) as again:
        assert again.tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (3, "the image is a int: give bytes, a pathlib.Path or an image of Pillow"),
        (str, "the image is a type"),
        ("/etc/passwd", "the text of 11 characters is not base64"),
        ("https://example.com/cat.png", "is not base64"),
    ],
)
def test_other_values_are_rejected_with_a_sentence(value, reason):
    with pytest.raises(ValueError, match=reason):
        file_bytes(value)


def test_a_call_is_the_same_after_the_json_of_post_predict():
    sent = PredictArguments.from_inputs(FILE, mask=FILE, top_k=2, map="array")
    text = sent.model_dump_json()
    assert json.loads(text) == {"image": TEXT, "mask": TEXT, "top_k": 2, "map": "array"}
    assert PredictArguments.model_validate_json(text) == sent


def test_several_images_are_called_images_in_json():
    sent = PredictArguments.from_inputs(image=[FILE, FILE])
    assert json.loads(sent.model_dump_json()) == {"images": [TEXT, TEXT]}
    assert PredictArguments.model_validate_json(sent.model_dump_json()) == sent


def test_a_call_is_the_same_after_a_pickle():
    sent = ExplainArguments.from_inputs(image=FILE, method="saliency")
    assert ExplainArguments.model_validate(sent.model_dump()) == sent
    assert sent.kwargs == {"method": "saliency"}


def test_the_schema_has_files_and_the_parameters_of_this_model(embedded):
    schema = PredictArguments.model_json_schema()
    assert schema["required"] == ["image"]
    assert schema["properties"]["image"] == {"type": "file", "format": "image"}
    assert schema["properties"]["top_k"]["maximum"] == len(embedded.manifest.labels)
    assert "explain" in schema["properties"]
    explaining = ExplainArguments.model_json_schema(mode="serialization")["properties"]
    assert explaining["image"] == {"type": "string", "format": "binary"}
    assert "method" in explaining
