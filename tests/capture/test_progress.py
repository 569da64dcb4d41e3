"""People hear from a run soon, and not too often."""

from __future__ import annotations

import io

from tistore.capture.running import progress
from tistore.capture.running.progress import LineProgress, Tally, show_progress


def test_lines_come_at_once_then_at_most_every_ten_seconds(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    lines = LineProgress(stream)

    for second in range(25):
        clock[0] = 100.0 + second
        lines.update(Tally(second, 100, 0, second * 10, second * 1_000_000))

    printed = stream.getvalue().splitlines()
    assert [line.split("/")[0] for line in printed] == ["0", "10", "20"]
    assert "10/100 readings, 10 tokens/s, 10.0 MB, about 0:01:30 left" in printed


def test_closing_says_how_far_the_run_came():
    stream = io.StringIO()
    lines = LineProgress(stream)
    lines.update(Tally(0, 3))
    lines.update(Tally(2, 3))

    lines.close()

    assert stream.getvalue().splitlines()[-1].startswith("2/3 readings")


def test_the_end_is_told_before_what_comes_after_it_and_once():
    stream = io.StringIO()
    lines = LineProgress(stream)
    lines.update(Tally(0, 3))
    lines.update(Tally(3, 3))
    lines.note("fitting")

    lines.close()

    told = [line.split(" ")[0] for line in stream.getvalue().splitlines()]
    assert told == ["0/3", "3/3", "fitting"]


def test_what_is_no_terminal_gets_lines():
    assert isinstance(show_progress(io.StringIO()), LineProgress)
