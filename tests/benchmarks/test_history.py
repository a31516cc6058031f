"""The history of readings shows a loss."""

from benchmarks import history
from benchmarks.history import Entry, Past

AMD = "AMD EPYC, 2 cores, onnxruntime 1.31.1, Python 3.11.7"
RATE, P99 = "/predict, 16 connections: requests/s", "/predict, 16 connections: p99, ms"


def entry(commit, machine, day, rate, **changes):
    verdict = changes.get("verdict", "within the margin")
    readings = {RATE: Past(rate, changes.get("ratio", 1.0), 0.03, verdict)}
    return Entry(commit, "0" * 12, machine, day, readings | changes.get("more", {}))


def test_entries_are_read_as_they_were_written(tmp_path):
    file, entries = tmp_path / "history.jsonl", [entry("a" * 12, AMD, "2026-11-30", 1500.0)]
    assert history.read(file) == []
    entries += [entry("b" * 12, AMD, "2026-12-01", 1600.0)]
    for each in entries:
        history.append(each, file)
    assert history.read(file) == entries


def test_a_loss_and_the_change_since_the_last_commit_stand_in_the_table():
    (text,) = history.shown(
        [
            entry("a" * 12, AMD, "2026-11-30", 1500.0),
            entry("b" * 12, AMD, "2026-12-01", 1200.0, ratio=0.81, verdict="worse"),
            entry("c" * 12, AMD, "2026-12-02", 1212.0, more={P99: Past(9.5, 1.0, 0.2, "")}),
        ]
    )
    assert text.startswith(f"{AMD}\n\n|  | aaaaaaa, 2026-11-30 | bbbbbbb, 2026-12-01 |")
    assert f"| {RATE} | 1500 (×1.00) | **1200 (-20%; ×0.81), worse** | 1212 (+1%; ×1.00) |" in text
    assert f"| {P99} |  |  | 9.5 (×1.00) |" in text


def test_machines_have_tables_of_their_own():
    others = entry("b" * 12, "Intel Xeon, 2 cores", "2026-12-01", 900.0)
    amd, intel = history.shown([entry("a" * 12, AMD, "2026-11-30", 1500.0), others])
    assert "bbbbbbb" not in amd
    assert "| 900 (×1.00) |" in intel
