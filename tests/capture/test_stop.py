"""Signals are noted, and acted on where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tistore.capture.running.stop import STOP_SIGNALS, StopRequestedError, StopSignals


def test_the_first_signal_waits_for_the_next_check():
    with StopSignals() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(StopRequestedError, match="SIGTERM") as caught:
            stop.check()

    assert caught.value.number == signal.SIGTERM


def test_a_second_interrupt_is_obeyed_at_once():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_earlier_receivers_are_put_back_when_the_block_fails():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]

    with pytest.raises(ZeroDivisionError), StopSignals():
        _ = 1 / 0

    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_outside_the_main_thread_nothing_is_received():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    seen = []

    def work() -> None:
        with StopSignals() as stop:
            stop.check()
            seen.extend(signal.getsignal(number) for number in STOP_SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == before
