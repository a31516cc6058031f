"""A folder that the tests of jobs, runs and the command share."""

import pytest

from support.images import COLOURS, draw, encode

DAMAGED = b"\xff\xd8 no more than the beginning of a JPEG"


@pytest.fixture
def images(tmp_path):
    """21 images in two folders, a damaged one, one that is too large, and a file that is none."""
    folder = tmp_path / "images"
    for seed, colour in enumerate(list(COLOURS) * 7):
        path = folder / ("a-b" if seed % 2 else "a") / f"{seed:02}.{'PNG' if seed % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw(colour, 32 + seed, seed), "PNG" if seed % 3 else "JPEG"))
    (folder / "a" / "bad.jpeg").write_bytes(DAMAGED)
    (folder / "large.png").write_bytes(encode(draw(size=101)))
    (folder / "notes.txt").write_text("no image")
    return folder
