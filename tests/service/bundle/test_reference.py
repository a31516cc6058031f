"""Reference images are described by label, name and distance, and read from their folder alone."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.bundle.folder import PICTURES, PREDICT, REFERENCE, write
from service.bundle.reference import Nearest, Reference
from service.errors import BundleError, NotFound
from support.images import draw, encode


def test_the_embedded_bundle_names_its_reference_images(embedded):
    reference = Reference.of(embedded, None)
    assert len(reference.labels) == len(reference.names) > 1_000
    assert set(reference.labels) <= set(embedded.manifest.labels)


def test_a_bundle_without_reference_images_has_no_rows(embedded):
    files = {name: d for name, d in embedded.manifest.files.items() if name != REFERENCE}
    bundle = replace(embedded, manifest=replace(embedded.manifest, files=files))
    assert Reference.of(bundle, None).names == ()


def test_a_row_is_described_with_its_distance_and_its_path_if_images_are_served(embedded, tmp_path):
    reference = Reference(("cat", "dog"), ("a.png", "b.png"), embedded.manifest.input, None)
    description = {"index": 1, "label": "dog", "name": "b.png", "distance": 0.25}
    assert reference.describe(Nearest(1, 0.75)) == description
    served = replace(reference, folder=tmp_path)
    assert served.describe(Nearest(1, 0.75)) == description | {"picture": "/reference/1"}


def test_an_image_is_read_from_the_folder_alone(embedded, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (folder / "a.png", tmp_path / "secret.png"):
        path.write_bytes(encode(draw(size=64)))
    names = ("a.png", "missing.png", "../secret.png", str(tmp_path / "secret.png"))
    reference = Reference(("cat",) * 4, names, embedded.manifest.input, folder)
    assert np.asarray(Image.open(io.BytesIO(reference.image(0)))).shape == (32, 32, 3)
    for row in (1, 2, 3):
        with pytest.raises(NotFound, match="is not in the folder that CANDOR_REFERENCE names"):
            reference.image(row)
    with pytest.raises(NotFound, match="there is no reference image 4; there are 4"):
        reference.image(4)


@pytest.mark.parametrize(
    ("views", "message"),
    [(None, "File is not a zip file"), (10, "'10.webp'"), (10**6, "view of 1,048,577 bytes")],
)
def test_a_bundle_with_too_few_or_too_large_views_is_rejected(views, message, embedded, tmp_path):
    rows = len(Reference.of(embedded, None).names)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for row in range(min(views or 0, rows)):
            archive.writestr(f"{row}.webp", bytes(2**20 + 1) if row == rows - 1 else b"")
    content = b"no archive" if views is None else buffer.getvalue()
    files = {name: embedded.read(name) for name in (PREDICT, REFERENCE)} | {PICTURES: content}
    bundle = write(tmp_path / "bundle", replace(embedded.manifest, samples=()), files)
    with pytest.raises(BundleError, match=message):
        Reference.of(bundle, None)
