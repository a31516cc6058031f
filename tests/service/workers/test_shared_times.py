"""Times by name in a file of fixed size, moved on by several processes."""

import multiprocessing

from service.workers.shared_times import NEAR, ROW, ROWS, SharedTimes

TURNS, PROCESSES = 400, 3


def advance_often(path):
    times = SharedTimes(path)
    for _ in range(TURNS):
        times.advance("a", 0, 1.0, 0.0, 1e9)


def test_a_time_moves_on_from_now_or_from_itself():
    times = SharedTimes()
    assert times.advance("a", 0, 5.0, 100.0, 100.0) == 0.0
    assert times.advance("a", 0, 5.0, 103.0, 200.0) == 105.0
    assert times.advance("a", 0, 1.0, 200.0, 200.0) == 110.0
    assert times.advance("a", 0, 0.0, 200.0, 300.0) == 201.0


def test_a_time_beyond_the_latest_stays():
    times = SharedTimes()
    times.advance("a", 0, 5.0, 100.0, 100.0)
    assert times.advance("a", 0, 5.0, 100.0, 104.0) == 105.0
    assert times.advance("a", 0, 0.0, 100.0, 104.0) == 105.0


def test_names_and_columns_have_times_of_their_own():
    times = SharedTimes()
    times.advance("a", 0, 5.0, 100.0, 100.0)
    assert times.advance("a", 1, 0.0, 100.0, 100.0) == 0.0
    assert times.advance("b", 0, 0.0, 100.0, 100.0) == 0.0


def test_processes_move_one_time_on_and_lose_nothing(tmp_path):
    path = tmp_path / "times"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=advance_often, args=(path,)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert SharedTimes(path).advance("a", 0, 0.0, 0.0, 0.0) == TURNS * PROCESSES
    assert path.stat().st_size == ROWS * ROW.size


def test_a_full_table_forgets_the_earliest_times_only():
    times = SharedTimes()
    names = [str(number) for number in range(4 * ROWS)]
    times.advance("late", 0, 1e6, 0.0, 0.0)
    for name in names:
        times.advance(name, 0, 1.0, 0.0, 0.0)
    assert times.advance("late", 0, 0.0, 0.0, 0.0) == 1e6
    known = sum(times.advance(name, 0, 0.0, 0.0, 0.0) > 0 for name in names)
    assert ROWS / 2 < known < ROWS
    assert NEAR > 1
