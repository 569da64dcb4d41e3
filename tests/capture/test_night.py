"""A run over a night: watched from outside, stopped before the disk is full, proven as it goes."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tistore.capture.run import ingest
from tistore.capture.running import executor, filing
from tistore.cli.main import app
from tistore.errors import HeadError, ParityError, PartialRunError, StoreError
from tistore.query.store import Store
from tistore.store.base import BaseStore
from tistore.store.run_status import describe_newest_run

RUNNER = CliRunner()


@pytest.fixture
def store(tmp_path: Path) -> BaseStore:
    return BaseStore.create(tmp_path / "run.tistore")


def list_events(store: BaseStore) -> list[str]:
    return [event["event"] for event in store.events.read()]


def test_the_event_log_tells_a_run_from_start_to_end(store, configure):
    report = ingest(store, configure())

    events = store.events.read()
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert {"note", "loaded", "organism"} <= set(kinds)
    assert {event["run_id"] for event in events} == {report.run_id}
    assert (events[-1]["readings"], events[-1]["total"]) == (25, 25)


def test_the_event_log_is_no_part_of_the_store(store, configure):
    ingest(store, configure())
    store.events.path.unlink()

    assert BaseStore.open(store.path).verify().ok
    assert ingest(store, configure()).skipped == 25


def test_a_line_that_a_crash_cut_short_is_left_out(store, configure):
    ingest(store, configure())
    whole = store.events.read()
    with store.events.path.open("a") as file:
        file.write('{"event": "prog')

    assert store.events.read() == whole


def test_a_line_behind_one_that_a_crash_cut_short_is_not_lost_with_it(store, configure):
    store.events.path.write_text('{"event": "prog')

    report = ingest(store, configure())

    status = describe_newest_run(store)
    assert status is not None and status.run_id == report.run_id


def test_lines_that_no_run_has_written_are_left_out(store, configure):
    ingest(store, configure())
    with store.events.path.open("ab") as file:
        file.write(b'\xff\n[1]\n{"event": "started"}\n{"event": "finished", "run_id": null}\n')

    assert describe_newest_run(store).state == "finished"


def test_a_log_that_cannot_be_read_is_an_error_that_says_so(store):
    store.events.path.mkdir()

    with pytest.raises(StoreError, match=r"cannot read .*events\.jsonl"):
        describe_newest_run(store)


def test_status_of_a_finished_run(store, configure):
    report = ingest(store, configure())

    result = RUNNER.invoke(app, ["status", str(store.path), "--json"])

    row = json.loads(result.stdout)
    assert row["run_id"] == report.run_id
    assert (row["state"], row["readings"], row["total"]) == ("finished", 25, 25)
    assert row["committed_readings"] == 25


def test_a_run_whose_process_is_no_more_is_gone(store, configure, monkeypatch):
    ingest(store, configure())
    lines = store.events.path.read_text().splitlines()
    kept = [json.loads(line) for line in lines[:-1]]
    for event in kept:
        event["pid"] = 2**22 + 1  # above the largest there is
    store.events.path.write_text("".join(json.dumps(event) + "\n" for event in kept))

    status = describe_newest_run(store)

    assert status is not None
    assert status.state == "gone"
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "elsewhere", "", "", "")))
    assert describe_newest_run(store).state == "running"  # on a machine nobody here can ask


def test_status_without_a_run_says_what_to_do(store):
    result = RUNNER.invoke(app, ["status", str(store.path)])

    assert "no run has been started" in str(result.exception)


def test_watching_ends_with_the_run(store, configure):
    ingest(store, configure())

    result = RUNNER.invoke(app, ["status", str(store.path), "--watch"])

    assert result.exit_code == 0
    assert "finished  25/25 readings" in result.stdout


def test_a_run_stops_before_the_disk_is_full_and_goes_on_later(store, configure, monkeypatch):
    free = [10**12] * 4 + [10**8]
    with monkeypatch.context() as patch:
        patch.setattr(executor, "measure_free", lambda _: free.pop(0) if len(free) > 1 else free[0])
        with pytest.raises(PartialRunError, match="to stay free") as caught:
            ingest(store, configure())

    assert caught.value.exit_code == 6
    assert "free some space" in caught.value.mend
    store.refresh()
    done = sum(segment.n_readings for segment in store.snapshot.segments)
    assert f"after {done} of 25" in caught.value.message
    assert 0 < done < 25
    assert describe_newest_run(store).state == "stopped"
    assert ingest(store, configure()).skipped == done


def test_what_waits_for_a_commit_is_no_free_room(store, configure, monkeypatch):
    """Nothing is committed before the end of so short a run: its states wait in memory."""
    reserve = 10**9
    monkeypatch.setattr(executor, "measure_free", lambda _: reserve + 15_000)

    with pytest.raises(PartialRunError, match="once all that waits is written"):
        ingest(store, configure(capture={"reserve_gb": reserve / 1e9}))

    store.refresh()
    assert 0 < sum(segment.n_readings for segment in store.snapshot.segments) < 25


def test_a_slow_disk_slows_a_run_and_loses_nothing(store, configure, monkeypatch):
    """The model waits whenever as much waits to be written as may."""
    most = [0]
    pauses = threading.Event()
    add = filing.Writer.add

    def slow(writer, **reading):
        pauses.wait(0.01)
        return add(writer, **reading)

    close = filing.WriteQueue.close

    def watch(queue) -> None:
        close(queue)
        most[0] = queue.largest_bytes

    monkeypatch.setattr(filing.Writer, "add", slow)
    monkeypatch.setattr(filing.WriteQueue, "close", watch)
    # A batch of two responses has some 6 kB of states: no second one fits beside it.
    monkeypatch.setattr("tistore.capture.run.BYTES_PER_MB", 7_000)

    report = ingest(store, configure(capture={"queue_mb": 1}))

    assert report.readings == 25
    assert 0 < most[0] <= 7_000
    store.refresh()
    assert sum(segment.n_readings for segment in store.snapshot.segments) == 25
    assert store.verify().ok


def test_every_reader_of_every_organism_is_proven(store, configure):
    report = ingest(store, configure())

    rows = store.snapshot.table("parity").to_pylist()
    assert {(row["organism"], row["reader"]) for row in rows} == {
        ("instruct", "instruct"),
        ("loud", "loud"),
        ("loud", "instruct"),
        ("zero", "zero"),
        ("zero", "instruct"),
    }
    assert {row["kind"] for row in rows} == {"canary"}
    assert report.canaries == 5
    assert report.largest_deviation == max(row["largest"] for row in rows) < 1e-3


def test_rows_that_are_shifted_are_not_stored(store, configure, monkeypatch):
    whole = executor.start_prefill

    def shifted(*arguments, **options):
        batch = whole(*arguments, **options)
        for states in batch._states.values.values():
            with torch.inference_mode():
                states.copy_(states.roll(1, dims=1))
        return batch

    monkeypatch.setattr(executor, "start_prefill", shifted)

    with pytest.raises(ParityError):
        ingest(store, configure())

    store.refresh()
    assert sum(segment.n_readings for segment in store.snapshot.segments) == 0
    assert list_events(store)[-1] == "failed"


def test_canaries_can_be_left_out(store, configure):
    report = ingest(store, configure(capture={"canary_every": 0}))

    assert (report.canaries, report.largest_deviation) == (0, None)


def test_every_readers_head_is_kept_once_for_the_lens(store, configure):
    ingest(store, configure())

    heads = store.snapshot.table("reader_heads").to_pylist()
    assert {row["reader"] for row in heads} == {"instruct", "loud", "zero"}
    assert len({row["head_hash"] for row in heads}) == len(store.snapshot.heads) == 1
    rows = Store.open(store.path).sql(
        "SELECT layer, rank FROM lens WHERE organism = 'loud' AND reader = 'loud' "
        "AND prompt_id = 'three' AND next_token_id IS NOT NULL"
    )
    assert {row["layer"] for row in rows.to_polars().to_dicts()} == {0, 1, 2}


def test_a_head_that_cannot_be_read_costs_the_lens_alone(store, configure, monkeypatch):
    def fail(*_):
        raise HeadError("of a new kind")

    monkeypatch.setattr(executor.HeadKeeper, "keep", fail)

    report = ingest(store, configure())

    assert report.readings == 25
    notes = [event["message"] for event in store.events.read() if event["event"] == "note"]
    assert "no logit lens of 'loud': of a new kind" in notes


def test_heads_can_be_left_out(store, configure):
    ingest(store, configure(capture={"head": False}))

    assert store.snapshot.heads == {}
