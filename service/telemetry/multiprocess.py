"""What all processes of the service counted, as one text in Prometheus's format.

prometheus_client keeps the values of a process in files of one folder, KIND_PID.db (its multi-process mode). Its own collector makes an
object of every sample and parses every name at each scrape, which holds the event loop for 10 ms a process; here a name is parsed when it
is first seen, and a scrape adds up numbers.

Counters and histograms are the sum over all processes, ended ones too. Gauges are the sum (`livesum`) or the largest (`livemax`) over the
processes that live. The buckets of a histogram are kept one by one and told cumulated.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.utils import floatToGoString

ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Name(NamedTuple):
    """A series as prometheus_client writes it: its `family` with a help text, its own `name`, its labels but `le`, and the bound `le`."""

    family: str
    description: str
    name: str
    labels: tuple[tuple[str, str], ...]
    bound: float | None


@dataclass(frozen=True)
class Family:
    """One metric: its two lines of comment, and of each child the lines before their values with the keys of these values.

    A line's value is the sum of the values of its keys: a bucket's is that of all buckets up to it.
    """

    head: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]

    def text(self, values: Mapping[str, float]) -> str:
        """The metric with its `values`."""
        told = (
            f"{line} {_number(sum(map(values.__getitem__, keys)))}\n" for line, keys in self.lines
        )
        return self.head + "".join(told)


class Exposition:
    """The files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._families: list[Family] = []
        self._known: set[str] = set()

    def text(self) -> str:
        """All metrics, by name."""
        values, kinds = self._read()
        if values.keys() != self._known:
            self._families, self._known = families(kinds), set(values)
        return "".join(family.text(values) for family in self._families)

    def processes(self) -> set[int]:
        """The ids of the processes that count and live."""
        return {pid for _, _, pid in self._files() if lives(pid)}

    def _files(self) -> Iterable[tuple[Path, str, int]]:
        for path in self._folder.glob("*.db"):
            kind, _, pid = path.stem.rpartition("_")
            if path.stat().st_size:  # the process has just made it
                yield path, kind, int(pid)

    def _read(self) -> tuple[dict[str, float], dict[str, str]]:
        """The values of all processes together by key, and the kind of each key."""
        values: dict[str, float] = {}
        kinds: dict[str, str] = {}
        for path, kind, pid in self._files():
            if kind.startswith("gauge") and not lives(pid):
                continue
            largest = kind.endswith("max")
            for key, value, _, _ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
                before = values.get(key)
                kinds[key] = kind
                values[key] = (
                    value if before is None else max(before, value) if largest else before + value
                )
        return values, kinds


def families(kinds: Mapping[str, str]) -> list[Family]:
    """The metrics whose series have these keys, each with its kind."""
    named = {parsed(key): key for key in kinds}
    by_family: dict[str, list[Name]] = {}
    for name in sorted(
        named, key=lambda name: (name.family, name.labels, name.bound is None, name.bound or 0.0)
    ):
        by_family.setdefault(name.family, []).append(name)
    return [
        _family(names, kinds[named[names[0]]].partition("_")[0], named)
        for names in by_family.values()
    ]


def parsed(key: str) -> Name:
    """The name that a key stands for."""
    family, name, labels, says = json.loads(key)
    bound = labels.pop("le", None)
    return Name(
        family, says, name, tuple(sorted(labels.items())), None if bound is None else float(bound)
    )


def lives(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _family(names: list[Name], kind: str, keys: Mapping[Name, str]) -> Family:
    family, says = names[0].family, names[0].description
    told = f"{family}_total" if kind == "counter" else family
    head = f"# HELP {told} {says.translate(ESCAPED)}\n# TYPE {told} {kind}\n"
    return Family(
        head,
        tuple(
            _buckets(names, keys)
            if kind == "histogram"
            else ((_line(n.name, n.labels), (keys[n],)) for n in names)
        ),
    )


def _buckets(names: list[Name], keys: Mapping[Name, str]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """The buckets of each child, in ascending order as they come, then its count and its sum."""
    below: tuple[str, ...] = ()
    for name in names:
        if name.bound is not None:
            below = (*below, keys[name])
            yield _line(name.name, (*name.labels, ("le", _number(name.bound)))), below
        else:
            yield _line(f"{name.family}_count", name.labels), below
            yield _line(name.name, name.labels), (keys[name],)
            below = ()


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _line(name: str, labels: Iterable[tuple[str, str]]) -> str:
    told = ",".join(f'{label}="{value.translate(ESCAPED)}"' for label, value in labels)
    return f"{name}{{{told}}}" if told else name
