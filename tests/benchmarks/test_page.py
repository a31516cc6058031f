"""Every table of docs/benchmarks.md stands under one command, with its machine and its day."""

import re

import pytest

from support.provenance import headline
from support.servers import ROOT

PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
LISTED = (ROOT / "scripts" / "bench").read_text()
LINE = re.compile(
    r"`scripts/bench (?P<name>[a-z]+)(?P<arguments>[^`]*)` · (?P<machine>[^·]+) ·"
    r" (?P<day>\d{4}-\d\d-\d\d)( · (old: )?[0-9a-f]{7}\+?)?"
)


def paragraphs(section):
    return [" ".join(block.split("\n")) for block in re.split(r"\n{2,}", section.strip())]


def tables():
    """Each table's first line, with the line of its command; the last one above it in its section.

    The first section is the table of contents.
    """
    for section in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)[2:]:
        found = None
        for paragraph in paragraphs(section):
            found = LINE.fullmatch(paragraph) or found
            if paragraph.startswith("|"):
                yield section.split("\n")[0], paragraph.split(" | --- ")[0], found


def lines():
    return [found for found in (LINE.fullmatch(text) for text in paragraphs(PAGE)) if found]


@pytest.mark.parametrize(
    ("section", "head", "line"), list(tables()), ids=lambda value: str(value)[:40]
)
def test_a_table_stands_under_its_command_machine_and_day(section, head, line):
    assert line, f"{section}: {head} has no line `scripts/bench …` · machine · day above it"


def test_every_command_exists_with_its_options():
    for line in lines():
        name = line["name"]
        assert re.search(rf"^#   scripts/bench {name}\b", LISTED, re.MULTILINE), line[0]
        module = ROOT / "benchmarks" / f"{'float16' if name == 'half' else name}.py"
        for option in re.findall(r"--[\w-]+", line["arguments"]):
            assert f'"{option}"' in module.read_text(), f"{line[0]}: {module.name} has no {option}"


def test_every_benchmark_of_the_list_is_a_module_and_each_module_with_a_command_is_listed():
    listed = set(re.findall(r"^#   scripts/bench ([a-z]+)", LISTED, re.MULTILINE)) - {"tests"}
    modules = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if re.search(r"^@click\.(command|group)", path.read_text(), re.MULTILINE)
    }
    modules -= {"mutants", "pods"}  # scripts of these names run them
    assert {"float16" if name == "half" else name for name in listed} == modules


def test_a_benchmark_prints_such_a_line():
    assert LINE.fullmatch(headline(["serve", "load", "--rounds", "2"]))
