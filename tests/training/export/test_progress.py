"""Each step of a long work is said at its beginning, with the seconds since the start."""

import re

from training.export.progress import Progress


def test_a_step_is_said_with_the_seconds_since_the_start():
    said = []
    progress = Progress(said.append)
    progress("reads")
    progress("proves")
    times = [float(re.fullmatch(r" *(\d+\.\d) s  \w+", line)[1]) for line in said]
    assert [line.split()[-1] for line in said] == ["reads", "proves"]
    assert 0 <= times[0] <= times[1] < 60
