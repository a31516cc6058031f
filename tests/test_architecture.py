"""docs/architecture.md lists every module of service/ and training/, and only existing files."""

import re

from support.servers import ROOT

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
DIAGRAM_LINE = re.compile(r"(service/[\w/]+\.py) +([A-Za-z_][\w., ]*)$", re.MULTILINE)


def modules():
    return {
        path.relative_to(ROOT).as_posix()
        for room in ("service", "training")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }


def test_every_module_has_one_row_in_the_table():
    rows = re.findall(
        r"^\| `((?:service|training)/[\w/]+\.py)` \| .+ \| `tests/", DOCUMENT, re.MULTILINE
    )
    assert sorted(rows) == sorted(modules())


def test_every_file_that_it_names_exists():
    named = re.findall(r"\b(?:service|training|tests|k8s)/[\w/]+\.\w+", DOCUMENT)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_function_of_the_diagram_is_in_its_module():
    named = DIAGRAM_LINE.findall(DOCUMENT)
    assert named
    for module, names in named:
        source = (ROOT / module).read_text()
        for name in names.replace(".", ",").split(","):
            assert re.search(rf"(def|class) {name.strip()}\b", source), f"{module}: {name}"
