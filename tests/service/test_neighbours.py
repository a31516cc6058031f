"""Processes see when the others computed, and share the cores accordingly."""

import subprocess
import sys
import time

from service.neighbours import EXPLAINING, PREDICTING, QUIET_SECONDS, Neighbours
from service.settings import MOST_WORKERS
from tests.servers import ROOT


def test_a_process_alone_is_always_idle_beside():
    alone = Neighbours()
    with alone.computing(PREDICTING):
        assert alone.idle


def test_there_is_room_for_the_last_process(tmp_path):
    last = Neighbours(tmp_path / "neighbours", MOST_WORKERS - 1)
    with last.computing(PREDICTING):
        assert last.idle


def test_another_process_that_computes_is_seen_and_then_forgotten(tmp_path):
    path = tmp_path / "neighbours"
    first = Neighbours(path, 0)
    assert first.idle
    code = f"from pathlib import Path; from service.neighbours import Neighbours as N; n = N(Path({str(path)!r}), 1); n.predict()"
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert before < first.last_prediction < time.perf_counter()
    second = Neighbours(path, 1)
    with second.computing(PREDICTING):
        time.sleep(2 * QUIET_SECONDS)
        assert not first.idle, "a long piece of work is work to its end"
        assert second.idle, "its own work is no neighbour's"
        with second.computing(EXPLAINING):
            pass
        assert not first.idle, "the end of one kind of work is not the end of the other"
    assert not first.idle
    time.sleep(2 * QUIET_SECONDS)
    assert first.idle
