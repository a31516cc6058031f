"""What `scripts/bench gate --record` found, by commit: a line of JSON each in history.jsonl.

Readings of one machine are comparable with each other; beside another machine's only their ratios
are. The ratios were taken in interleaved rounds, so they hold on a busy machine, too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import click

from support import load, trees
from support.provenance import machine, today
from support.ratios import Comparison, Verdict
from support.servers import ROOT

NAME = "benchmarks/history.jsonl"
FILE = ROOT / NAME


@dataclass(frozen=True)
class Past:
    """One reading: its median, the ratio to the commit before it, and what that was called."""

    value: float
    ratio: float
    margin: float
    verdict: str


@dataclass(frozen=True)
class Entry:
    """The readings of a commit, and the commit that they were taken beside."""

    commit: str
    against: str
    machine: str
    day: str
    readings: Mapping[str, Past]

    @classmethod
    def of(
        cls, against: str, medians: Mapping[str, float], compared: Mapping[str, Comparison]
    ) -> "Entry":
        """The entry of HEAD, today, on this machine."""
        readings = {
            key: Past(
                float(f"{medians[key]:.4g}"),
                round(one.ratio.median, 4),
                round(one.margin, 4),
                one.verdict.value,
            )
            for key, one in compared.items()
        }
        return cls(trees.commit_of("HEAD"), against, machine(), today(), readings)

    @classmethod
    def read(cls, line: str) -> "Entry":
        """The entry in a line of the file."""
        document: dict[str, Any] = json.loads(line)
        readings = {key: Past(**past) for key, past in document.pop("readings").items()}
        return cls(**document, readings=readings)


@click.command()
def main() -> None:
    """Prints the history of each machine: readings, and their change since the line above."""
    entries = read(FILE)
    if not entries:
        raise click.ClickException(f"{NAME} has no line yet: scripts/bench gate --record")
    click.echo("\n\n".join(shown(entries)))


def changed() -> list[str]:
    """Tracked files that differ from HEAD, but for the history itself."""
    return [name for name in trees.changed() if name != NAME]


def append(entry: Entry, file: Path = FILE) -> None:
    """Adds a line to the file."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(entry)) + "\n")


def read(file: Path) -> list[Entry]:
    """The entries of the file, the oldest first; none if there is no file."""
    return [Entry.read(line) for line in file.read_text().splitlines()] if file.exists() else []


def shown(entries: Sequence[Entry]) -> list[str]:
    """For each machine a table: a row a reading, a column a commit, so that a loss is seen."""
    of_machine = attrgetter("machine")
    machines = groupby(sorted(entries, key=of_machine), key=of_machine)
    return [f"{name}\n\n{_table(list(its))}" for name, its in machines]


def _table(entries: Sequence[Entry]) -> str:
    header = ["", *(f"{entry.commit[:7]}, {entry.day}" for entry in entries)]
    names = dict.fromkeys(key for entry in entries for key in entry.readings)
    against = ["beside", *(entry.against[:7] for entry in entries)]
    rows = [
        [name, *(_cell(name, entry, before) for entry, before in _pairs(entries))] for name in names
    ]
    return load.table(header, [against, *rows])


def _pairs(entries: Sequence[Entry]) -> Iterable[tuple[Entry, Entry | None]]:
    return zip(entries, [None, *entries], strict=False)


def _cell(name: str, entry: Entry, before: Entry | None) -> str:
    """`1520 (+2%; ×0.98)`: the value, its change since the column before, the ratio.

    Bold is what was worse.
    """
    past = entry.readings.get(name)
    if past is None:
        return ""
    old = before.readings.get(name) if before else None
    change = f"{past.value / old.value - 1:+.0%}; " if old else ""
    text = f"{past.value:g} ({change}×{past.ratio:.2f})"
    return f"**{text}, worse**" if past.verdict == Verdict.WORSE else text


if __name__ == "__main__":
    main()
