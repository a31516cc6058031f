"""A clock for tests: time passes when the test lets it."""


class Clock:
    """A clock at `now` seconds; each reading moves it on by `step`."""

    def __init__(self, now: float = 1_000.0, step: float = 0.0) -> None:
        self.now = now
        self.step = step

    def __call__(self) -> float:
        """The time in seconds."""
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        """Moves the clock on by `seconds`."""
        self.now += seconds
