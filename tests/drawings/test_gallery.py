"""scripts/gallery draws the gallery again, for any embedded model."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from support.servers import ROOT


def make(tmp_path, document):
    (tmp_path / "text.md").write_text(document)
    where = ["--images", tmp_path, "--document", tmp_path / "text.md"]
    what = ["--image", "ship", "--method", "grad_cam", "--method", "input_x_gradient"]
    command = [sys.executable, "-m", "drawings.gallery", *what, *where]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_a_sheet_and_its_section_are_written_and_nothing_else_changes(tmp_path):
    document = "before\n<!-- scripts/gallery writes from here -->\nold\n<!-- to here -->\nafter\n"
    done = make(tmp_path, document)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "gallery-ship.webp") as sheet:
        width, height = sheet.size
    assert width > 3 * 256
    assert height > 256 + 50
    written = (tmp_path / "text.md").read_text()
    assert written.startswith(
        "before\n<!-- scripts/gallery writes from here -->\nMade by `scripts/gallery`"
    )
    assert "](gallery-ship.webp)" in written
    assert "old" not in written
    assert written.endswith("<!-- to here -->\nafter\n")
    first = (tmp_path / "gallery-ship.webp").read_bytes()
    assert make(tmp_path, written).returncode == 0
    assert (tmp_path / "text.md").read_text() == written
    assert (tmp_path / "gallery-ship.webp").read_bytes() == first


def test_a_document_without_marks_stays_unchanged(tmp_path):
    done = make(tmp_path, "no marks\n")
    assert done.returncode == 1
    assert "add them where the gallery goes" in done.stderr
    assert (tmp_path / "text.md").read_text() == "no marks\n"


@pytest.mark.parametrize("name", ["airplane", "automobile", "ship"])
def test_the_sheets_in_the_documents_are_small(name):
    assert (ROOT / "docs" / "images" / f"gallery-{name}.webp").stat().st_size < 300_000
