"""The metrics of all workers as one text: in Prometheus's format, or in that of OpenMetrics.

prometheus_client keeps the values of a process in files of one folder, KIND_PID.db (its
multiprocess mode). Counters and histograms are summed over all processes, ended ones too. Gauges
are the sum (`livesum`) or the largest (`livemax`) over those that live. A histogram's buckets are
kept one by one and written cumulated.

prometheus_client's own `MultiProcessCollector` gives the same text, and makes an object of every
sample and parses every name at each scrape, which holds the event loop: an idle server's scrape
takes 16 ms with it, 6 ms with this. Here a name is parsed when it is first seen, and a scrape adds
numbers (docs/decisions/0006-bentoml-and-the-fast-path.md).
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.utils import floatToGoString

log = logging.getLogger("candor")
KINDS = ("counter", "gauge", "histogram")
IN_FLIGHT = "candor_requests_in_flight"
ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Series(NamedTuple):
    """One time series as prometheus_client's files name it: `bound` is the label `le` of a bucket,
    `labels` are all others.
    """

    family: str
    description: str
    name: str
    labels: tuple[tuple[str, str], ...]
    bound: float | None


@dataclass(frozen=True)
class Family:
    """One metric: its lines of comment, those of OpenMetrics, and for each line the text before the
    value, with the keys of the values it sums.

    A bucket's line sums all buckets up to it.
    """

    head: str
    open_head: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]

    def text(self, values: Mapping[str, float]) -> str:
        """The metric with its `values` by key."""
        lines = (
            f"{line} {_number(sum(map(values.__getitem__, keys)))}\n" for line, keys in self.lines
        )
        return self.head + "".join(lines)

    def openmetrics(self, values: Mapping[str, float], exemplars: Mapping[str, str]) -> str:
        """The same in OpenMetrics, with the `exemplars` by the text before a value."""
        lines = (
            f"{line} {_number(sum(map(values.__getitem__, keys)))}{exemplars.get(line, '')}\n"
            for line, keys in self.lines
        )
        return self.open_head + "".join(lines)


class Exposition:
    """The metrics in the files of `folder`.

    A file that cannot be read costs its own values: `unreadable` counts those of the latest text.
    `lost` are the requests that killed workers had begun and not answered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._families: list[Family] = []
        self._keys: set[str] = set()
        self._parsed: set[str] = set()
        self._unreadable: set[Path] = set()
        self.lost = 0.0

    @property
    def unreadable(self) -> int:
        """Files that the latest text left out."""
        return sum(path.exists() for path in self._unreadable)

    def text(self) -> str:
        """All metrics, sorted by name, in Prometheus's format."""
        values = self._current()
        return "".join(family.text(values) for family in self._families)

    def openmetrics(self, exemplars: Mapping[str, str]) -> str:
        """The same in OpenMetrics, without its end, with `exemplars` by the text before a value."""
        values = self._current()
        return "".join(family.openmetrics(values, exemplars) for family in self._families)

    def processes(self) -> set[int]:
        """The ids of the live processes that have metrics."""
        return {pid for _, _, pid in self._files() if is_alive(pid)}

    def _current(self) -> dict[str, float]:
        """The values of all processes together by key; `_families` are theirs afterwards."""
        values, kinds = self._read()
        if values.keys() != self._keys:
            self._families, self._keys = families(kinds), set(values)
        return values

    def _files(self) -> Iterable[tuple[Path, str, int]]:
        for path in self.folder.glob("*.db"):
            kind, _, pid = path.stem.rpartition("_")
            if not kind.startswith(KINDS) or not pid.isdecimal():
                self._leave_out(path)
            elif path.is_file() and path.stat().st_size:  # 0 while the process is making it
                yield path, kind, int(pid)

    def _read(self) -> tuple[dict[str, float], dict[str, str]]:
        """The values of all processes together by key, and the kind of each key."""
        values: dict[str, float] = {}
        kinds: dict[str, str] = {}
        self.lost = 0.0
        for path, kind, pid in self._files():
            read = self._values(path)
            if kind.startswith("gauge") and not is_alive(pid):
                self.lost += sum(value for key, value in read if IN_FLIGHT in key)
                continue
            largest = kind.endswith("max")
            for key, value in read:
                before = values.get(key)
                kinds[key] = kind
                values[key] = (
                    value if before is None else max(before, value) if largest else before + value
                )
        return values, kinds

    def _values(self, path: Path) -> list[tuple[str, float]]:
        """The values in a file by key; none if it cannot be read."""
        try:
            content = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
            values = [(key, value) for key, value, _, _ in content]
            for key, _ in values:
                if key not in self._parsed:
                    parse(key)
                    self._parsed.add(key)
        # The file of a killed worker, or of a full disk, may hold anything.
        except Exception:  # noqa: BLE001
            self._leave_out(path)
            return []
        self._unreadable.discard(path)
        return values

    def _leave_out(self, path: Path) -> None:
        if path not in self._unreadable:
            log.warning("The metrics leave out %s: the file cannot be read", path)
            self._unreadable.add(path)


def families(kinds: Mapping[str, str]) -> list[Family]:
    """The metrics of the series with these keys; each key has its kind."""
    keys = {parse(key): key for key in kinds}
    by_family: dict[str, list[Series]] = {}
    for series in sorted(keys, key=_order):
        by_family.setdefault(series.family, []).append(series)
    return [
        _family(group, kinds[keys[group[0]]].partition("_")[0], keys)
        for group in by_family.values()
    ]


def parse(key: str) -> Series:
    """The series of a key: JSON of the metric's name, the series' name, its labels and the help
    text.
    """
    family, name, labels, description = json.loads(key)
    bound = labels.pop("le", None)
    return Series(
        family,
        description,
        name,
        tuple(sorted(labels.items())),
        None if bound is None else float(bound),
    )


def is_alive(pid: int) -> bool:
    """True if a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _order(series: Series) -> tuple[object, ...]:
    """By metric and labels; the buckets of a histogram ascending, its sum after them."""
    return (series.family, series.labels, series.bound is None, series.bound or 0.0)


def _family(group: list[Series], kind: str, keys: Mapping[Series, str]) -> Family:
    family, description = group[0].family, group[0].description
    # In Prometheus's format the name of a counter has _total, in OpenMetrics its samples alone.
    name = f"{family}_total" if kind == "counter" else family
    heads = _head(name, description, kind), _head(family, description, kind)
    if kind == "histogram":
        return Family(*heads, tuple(_histogram_lines(group, keys)))
    return Family(*heads, tuple((_line(one.name, one.labels), (keys[one],)) for one in group))


def _head(name: str, description: str, kind: str) -> str:
    return f"# HELP {name} {description.translate(ESCAPED)}\n# TYPE {name} {kind}\n"


def _histogram_lines(
    group: list[Series], keys: Mapping[Series, str]
) -> Iterable[tuple[str, tuple[str, ...]]]:
    """The lines of the buckets of each child, then of its count and its sum."""
    below: tuple[str, ...] = ()
    for series in group:
        if series.bound is not None:
            below = (*below, keys[series])
            yield bucket_line(series.family, series.labels, series.bound), below
        else:
            yield _line(f"{series.family}_count", series.labels), below
            yield _line(series.name, series.labels), (keys[series],)
            below = ()


def bucket_line(family: str, labels: Iterable[tuple[str, str]], bound: float) -> str:
    """The text before the value of a bucket; `labels` are sorted."""
    return _line(f"{family}_bucket", (*labels, ("le", _number(bound))))


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _line(name: str, labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{label}="{value.translate(ESCAPED)}"' for label, value in labels)
    return f"{name}{{{text}}}" if text else name
