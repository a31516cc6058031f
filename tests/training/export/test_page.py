"""A folder with page.json gives a bundle its texts and samples, or is answered with a sentence."""

import json

import pytest
from click.testing import CliRunner

from service.bundle import folder as contract
from training.__main__ import main
from training.export.page import PAGE, PageError, present

SAMPLE = {"file": "cat.webp", "title": {"en": "Cat"}, "attribution": "by a friend, CC0 1.0"}


@pytest.fixture
def plain(embedded, tmp_path):
    """A bundle without samples."""
    files = {contract.PREDICT: embedded.read(contract.PREDICT)}
    return contract.write(tmp_path / "bundle", embedded.manifest, files)


def page(folder, document, **images):
    folder.mkdir(exist_ok=True)
    (folder / PAGE).write_text(document if isinstance(document, str) else json.dumps(document))
    for name, content in images.items():
        (folder / f"{name}.webp").write_bytes(content)
    return folder


def test_texts_and_samples_are_replaced_and_the_rest_is_kept(plain, tmp_path):
    assert plain.manifest.samples == ()
    first = page(tmp_path / "first", {"title": {"en": "Pets"}, "samples": [SAMPLE]}, cat=b"a cat")
    made = present(plain, first, tmp_path / "made")
    assert made.manifest.title == {"en": "Pets"}
    assert made.read("cat.webp") == b"a cat"
    assert made.manifest.labels == plain.manifest.labels
    second = page(tmp_path / "second", {"description": {"en": "None"}})
    done = CliRunner().invoke(main, ["page", str(made.folder), str(second)])
    assert done.exit_code == 0, done.output
    bare = contract.load(made.folder)
    assert bare.manifest.version in done.output
    assert bare.manifest.files.keys() == plain.manifest.files.keys()
    assert (bare.manifest.title, bare.manifest.samples) == ({}, ())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is no page"),
        ([], "is no page"),
        ({"titel": {"en": "Pets"}}, "has 'titel'; it may have title, description, samples"),
        ({"samples": [{"file": "cat.webp"}]}, "is no page"),
        ({"samples": [SAMPLE]}, r"cat\.webp cannot be read"),
        ({"samples": [SAMPLE | {"file": "predict.onnx"}]}, "cannot be read"),
    ],
)
def test_a_folder_that_is_no_page_is_answered_with_a_sentence(document, message, plain, tmp_path):
    with pytest.raises(PageError, match=message):
        present(plain, page(tmp_path / "page", document), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_folder_without_a_page_is_answered_with_a_sentence(plain, tmp_path):
    done = CliRunner().invoke(main, ["page", str(plain.folder), str(tmp_path)])
    assert done.exit_code == 1
    assert "holds no page.json" in done.output
