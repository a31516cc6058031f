"""Markdown is wrapped, and its relative links lead somewhere."""

import re

import pytest

from support.servers import ROOT

MOST_COLUMNS = 120
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(```+).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(
    r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]*)?\)|^\[[^\]]+\]: (?!\w+:)([^#\s]+)()", re.MULTILINE
)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def prose(text):
    """`text` without its blocks of code; lines keep their numbers."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)


def anchors(text):
    """The fragments that lead to the headings of `text`, as GitHub makes them."""
    headings = (heading.strip().lower() for heading in HEADING.findall(prose(text)))
    return {"#" + re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_too_long(document):
    lines = enumerate(document.read_text().splitlines(), 1)
    long = [n for n, line in lines if len(line) > MOST_COLUMNS and not line.startswith("|")]
    assert not long, f"{document.name} has lines over {MOST_COLUMNS} columns: {long}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(document):
    for match in LINK.finditer(prose(document.read_text())):
        target, fragment = match[1] or match[3] or "", match[2]
        path = document.parent / target if target else document
        assert path.exists(), f"{document.name} links {target}, which does not exist"
        if fragment and path.suffix == ".md":
            assert fragment in anchors(path.read_text()), f"{document.name}: no {target}{fragment}"
