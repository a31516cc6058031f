"""Workers see when the others computed, and share the cores accordingly."""

import subprocess
import sys
import time

from service.workers.host import MOST_WORKERS
from service.workers.shared_state import EXPLAINING, PREDICTING, QUIET_SECONDS, SharedState
from support.servers import ROOT


def test_a_lone_worker_sees_no_other_at_work():
    alone = SharedState()
    with alone.computing(PREDICTING):
        assert alone.idle


def test_the_last_of_all_workers_has_a_row(tmp_path):
    last = SharedState(tmp_path / "shared_state", MOST_WORKERS - 1)
    with last.computing(PREDICTING):
        assert last.idle


def test_another_worker_that_computes_is_seen_for_a_moment(tmp_path):
    path = tmp_path / "shared_state"
    first = SharedState(path, 0)
    assert first.idle
    code = (
        "from pathlib import Path; from service.workers.shared_state import SharedState; "
        f"SharedState(Path({str(path)!r}), 1).predict()"
    )
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert before < first.last_prediction < time.perf_counter()
    second = SharedState(path, 1)
    with second.computing(PREDICTING):
        time.sleep(2 * QUIET_SECONDS)
        assert not first.idle, "a long piece of work is work to its end"
        assert second.idle, "its own work is not another's"
        with second.computing(EXPLAINING):
            pass
        assert not first.idle, "the end of one kind of work is not the end of the other"
    assert not first.idle
    time.sleep(2 * QUIET_SECONDS)
    assert first.idle


def test_the_worker_that_completes_the_number_announces_the_start_once(tmp_path):
    first, second = (SharedState(tmp_path / "shared_state", number) for number in (0, 1))
    assert not first.start(2)
    assert second.start(2)
    assert not first.start(2)
    assert not second.start(2), "a worker that is started again announces nothing"
    assert SharedState().start(1), "a lone worker announces itself"
