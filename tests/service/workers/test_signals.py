"""The first signal asks for an orderly stop, and a second one has its usual effect."""

import os
import signal

import pytest

from service.workers.signals import stop_event


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_has_its_usual_effect_and_handlers_return(number):
    received = []
    before = signal.signal(number, lambda *_: received.append(number))
    usual = signal.getsignal(number)
    try:
        with stop_event() as stop:
            assert not stop.is_set()
            os.kill(os.getpid(), number)
            assert stop.is_set()
            assert not received
            os.kill(os.getpid(), number)
            assert received == [number]
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)
