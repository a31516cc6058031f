"""How workers agree on what they serve."""

import threading
import time
from pathlib import Path

import pytest

from service.repository import agreement as module
from service.repository.agreement import Agreement
from service.repository.catalogue import Version

OLD, NEW = (Version("cats", Path("/x"), letter * 64) for letter in "ab")


@pytest.fixture(params=[1, 3])
def workers(request, tmp_path):
    """The views of all workers on one agreement, which begins with OLD."""
    path = None if request.param == 1 else tmp_path / "models.json"
    views = [Agreement(path, own, request.param) for own in range(request.param)]
    for view in views:
        assert view.open("cats", OLD) == OLD
    return views


def test_the_last_vote_makes_it_served_from_a_moment_ahead(workers):
    number = workers[0].propose("cats", NEW)
    for worker in workers[:-1]:
        worker.vote(number)
        assert worker.state.served["cats"].version == OLD
    before = time.monotonic()
    workers[-1].vote(number)
    for worker in workers:
        served = worker.state.served["cats"]
        assert served.version == NEW
        assert served.at >= before + module.SWAP_SECONDS
        assert worker.state.outcomes[number] == ""
        assert worker.state.proposal is None


def test_one_vote_against_ends_it(workers):
    number = workers[0].propose("cats", NEW)
    workers[-1].vote(number, "it is damaged")
    for worker in workers:
        worker.vote(number)  # too late
        assert worker.state.served["cats"].version == OLD
        assert worker.state.outcomes[number] == "it is damaged"


def test_there_is_one_proposal_at_a_time(workers):
    number = workers[0].propose("cats", NEW)
    assert workers[-1].propose("dogs", NEW) is None
    workers[0].vote(number, "no")
    assert workers[-1].propose("dogs", NEW) == number + 1


def test_a_worker_that_is_silent_ends_it(workers, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    number = workers[0].propose("cats", NEW)
    workers[-1].expire()
    assert "workers have not loaded it" in workers[0].state.outcomes[number]
    assert workers[0].propose("cats", NEW) == number + 1


def test_a_worker_that_starts_later_serves_what_was_agreed(workers):
    number = workers[0].propose("cats", NEW)
    for worker in workers:
        worker.vote(number)
    assert workers[-1].open("cats", OLD) == NEW


def test_changes_of_many_threads_are_all_kept(tmp_path):
    views = [Agreement(tmp_path / "models.json", own, 8) for own in range(8)]
    names = [[f"{own}-{number}" for number in range(20)] for own in range(8)]

    def work(own):
        for name in names[own]:
            views[own].open(name, OLD)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert views[0].state.served.keys() == {name for each in names for name in each}


def test_only_the_latest_outcomes_are_kept(workers):
    for _ in range(module.KEPT + 5):
        workers[0].vote(workers[0].propose("cats", NEW), "no")
    assert len(workers[-1].state.outcomes) == module.KEPT
