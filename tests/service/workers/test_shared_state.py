"""Processes see when the others computed, and share the cores accordingly."""

import subprocess
import sys
import time

from service.workers.host import MOST_WORKERS
from service.workers.shared_state import EXPLAINING, PREDICTING, QUIET_SECONDS, SharedState
from support.servers import ROOT


def test_a_process_alone_is_always_idle_beside():
    alone = SharedState()
    with alone.computing(PREDICTING):
        assert alone.idle


def test_there_is_room_for_the_last_process(tmp_path):
    last = SharedState(tmp_path / "shared_state", MOST_WORKERS - 1)
    with last.computing(PREDICTING):
        assert last.idle


def test_another_process_that_computes_is_seen_and_then_forgotten(tmp_path):
    path = tmp_path / "shared_state"
    first = SharedState(path, 0)
    assert first.idle
    code = f"from pathlib import Path; from service.workers.shared_state import SharedState as N; n = N(Path({str(path)!r}), 1); n.predict()"
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert before < first.last_prediction < time.perf_counter()
    second = SharedState(path, 1)
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
