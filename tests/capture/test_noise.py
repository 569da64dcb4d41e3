"""Reading a sample again tells how much of a difference is noise."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import tistore
from tistore.capture.proof import noise
from tistore.capture.proof.noise import read_again
from tistore.capture.run import ingest
from tistore.cli.main import app
from tistore.errors import KeyConflictError, NotStoredError, ParityError, PartialRunError
from tistore.query.noise import noise_floor
from tistore.schemas.generation import Generation
from tistore.schemas.response import ResponseSlot

BASELINES = {"instruct": "instruct", "zero": "instruct", "loud": "instruct"}


@pytest.fixture(scope="module")
def captured(configure, tmp_path_factory):
    """A store of 15 responses and 25 readings, with two vectors; never written to."""
    store = tistore.create(tmp_path_factory.mktemp("noise") / "run.tistore")
    ingest(store, configure())
    rng = np.random.default_rng(0)
    for number, layer in enumerate((0, 2)):
        store.add_vector(f"made/v{number}", rng.standard_normal(32), layer=layer)
    return store


@pytest.fixture
def store(captured, tmp_path):
    shutil.copytree(captured.path, tmp_path / "run.tistore")
    return tistore.open(tmp_path / "run.tistore")


@pytest.fixture(scope="module")
def read_twice(captured, configure, tmp_path_factory):
    """The same store, everything in it read again; never written to."""
    path = tmp_path_factory.mktemp("twice") / "run.tistore"
    shutil.copytree(captured.path, path)
    store = tistore.open(path)
    read_again(store, configure(), responses=15)
    return store


def pairs(store) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both readings of whatever was read twice, as float64: (row, layer, hidden)."""
    found = store.sql(
        "SELECT response_id, reader FROM response_diffs WHERE baseline = reader || '~again'"
    ).fetchall()
    return [
        tuple(
            np.stack(
                [
                    store.activations(response_id, reader=name, layer=layer).astype(np.float64)
                    for layer in (0, 1, 2)
                ],
                axis=1,
            )
            for name in (reader, f"{reader}~again")
        )
        for response_id, reader in found
    ]


def noise_rows(store) -> list[dict]:
    """Rows of `parity`, without those of the run's own canaries."""
    return [row for row in store.snapshot.table("parity").to_pylist() if row["kind"] == "noise"]


def test_a_sample_is_spread_over_organisms_and_read_by_all_of_its_readers(store, configure):
    report = read_again(store, configure(), responses=6)

    rows = store.sql(
        "SELECT organism, reader, count(*) FROM responses WHERE reader LIKE '%~again' "
        "GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert rows == [
        ("instruct", "instruct~again", 2),
        ("loud", "instruct~again", 2),
        ("loud", "loud~again", 2),
        ("zero", "instruct~again", 2),
        ("zero", "zero~again", 2),
    ]
    assert (report.responses, report.readings, report.skipped) == (6, 10, 0)
    (run,) = store.sql("SELECT run_id FROM runs WHERE kind = 'noise'").fetchall()
    assert run == (report.run_id,)
    assert store.verify().ok


@pytest.mark.parametrize("rows", ["response", "all"])
def test_a_second_reading_is_of_the_same_tokens_and_clauses(tmp_path, configure, rows):
    store = tistore.create(tmp_path / "run.tistore")
    config = configure(capture={"rows": rows})
    ingest(store, config)

    read_again(store, config, responses=15)

    for relation in ("tokens", "clauses", "responses"):
        skipped = "reader, logprob" if relation == "tokens" else "reader"
        skipped += ", run_id, reading_key" if relation == "responses" else ""
        sql = (
            f"SELECT * EXCLUDE ({skipped}) FROM {relation} WHERE reader {{}} LIKE '%~again' "
            f"AND ends_with(reader, $end) ORDER BY ALL"
        )
        first = store.sql(sql.format("NOT"), {"end": "t"}).fetchall()
        again = store.sql(sql.format(""), {"end": "t~again"}).fetchall()
        assert first == again
        assert first


def test_a_conversation_from_elsewhere_is_read_again_with_its_turns(tmp_path, configure):
    """Answers with others' words between them keep their texts, roles and what is under audit."""
    store = tistore.create(tmp_path / "run.tistore")
    turns = ["Why?", "The yeast — naïve 🙂 — rose.", "And then?", "Nobody left."]
    messages = tuple(
        {"role": role, "content": turn}
        for role, turn in zip(["user", "assistant"] * 2, turns, strict=True)
    )
    slot = ResponseSlot("elsewhere", "talk", "1")
    store.add_rows("generations", [Generation(slot, messages=messages).to_row()])
    config = configure(
        base={"path": "base", "device": "cpu", "answers": False},
        organisms=[{"name": "elsewhere", "responses": "store"}],
        prompt_sets=[],
    )
    ingest(store, config)

    read_again(store, config)

    sql = "SELECT * EXCLUDE (reader, logprob) FROM tokens WHERE reader = $reader ORDER BY position"
    first, again = (
        store.sql(sql, {"reader": reader}).fetchall() for reader in ("instruct", "instruct~again")
    )
    assert first == again
    columns = store.sql(sql, {"reader": "instruct"}).columns
    assert {bool(row[columns.index("is_response")]) for row in first} == {True, False}
    clauses = "SELECT text FROM clauses WHERE reader = $reader ORDER BY clause"
    assert (
        store.sql(clauses, {"reader": "instruct"}).fetchall()
        == store.sql(clauses, {"reader": "instruct~again"}).fetchall()
        != []
    )


def test_deviations_are_those_of_what_is_stored(read_twice):
    rows = noise_rows(read_twice)
    differences = [np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)
                   for a, b in pairs(read_twice)]  # fmt: skip
    assert len(rows) == 3 * len(differences) == 75
    for layer in (0, 1, 2):
        largest = sorted(row["largest"] for row in rows if row["layer"] == layer)
        np.testing.assert_allclose(
            largest, sorted(d[:, layer].max() for d in differences), rtol=1e-4, atol=1e-7
        )
    assert max(row["largest"] for row in rows) < 1e-3
    assert max(row["logprob_largest"] for row in rows) < 1e-3


def test_the_noise_floor_of_a_score_is_that_of_its_projections(read_twice, tmp_path):
    """Also of a vector that was added after the second reading."""
    shutil.copytree(read_twice.path, tmp_path / "run.tistore")
    store = tistore.open(tmp_path / "run.tistore")
    late = np.random.default_rng(9).standard_normal(32)
    vector = store.add_vector("made/late", late, layer=1)

    floor = noise_floor(store, BASELINES, ["made/late"])

    unit = late / np.linalg.norm(late)
    both = [[a[:, 1] @ unit, b[:, 1] @ unit] for a, b in pairs(store)]
    by_measure = {
        measure: [row for row in floor.rows if row["measure"] == measure]
        for measure in ("row", "token", "clause", "response")
    }
    changes = np.concatenate([np.abs(a - b) for a, b in both])
    tokens = by_measure["token"]
    assert {row["vector"] for row in tokens} == {vector.reference}
    assert sum(row["n"] for row in tokens) == len(changes)
    np.testing.assert_allclose(max(row["largest"] for row in tokens), changes.max(), atol=2e-6)
    means = [abs(a.mean() - b.mean()) for a, b in both]
    responses = by_measure["response"]
    np.testing.assert_allclose(max(row["largest"] for row in responses), max(means), atol=2e-6)
    assert sum(row["n"] for row in responses) == len(means) == 25
    assert all(row["largest"] >= row["q95"] >= 0 <= row["mean"] for row in tokens + responses)
    assert by_measure["clause"]
    assert [row["layer"] for row in by_measure["row"]] == [0, 1, 2] * 3


def test_the_spread_is_that_of_organism_minus_base(read_twice):
    floor = noise_floor(read_twice, BASELINES, ["made/v1"])

    shifts = dict.fromkeys(("loud", "zero"), ())
    for organism in shifts:
        rows = read_twice.sql(
            "SELECT project('made/v1') FROM response_diffs "
            "WHERE organism = $o AND reader = $o AND baseline = 'instruct'",
            {"o": organism},
        ).fetchall()
        shifts[organism] = [score for (score,) in rows]
    spread = {row["reader"]: row["spread"] for row in floor.rows if row["measure"] == "response"}
    assert spread["loud"] == pytest.approx(np.std(shifts["loud"], ddof=1))
    assert spread["zero"] == pytest.approx(0, abs=1e-6)
    both = np.std([*shifts["loud"], *shifts["zero"]], ddof=1)
    assert spread["instruct"] == pytest.approx(both)
    largest = {row["reader"]: row["largest"] for row in floor.rows if row["measure"] == "response"}
    assert largest["loud"] < spread["loud"] / 100


def test_what_was_read_again_is_not_read_a_third_time(store, configure):
    config = configure()
    read_again(store, config, responses=4)
    before = store.snapshot.number

    report = read_again(store, config, responses=4)

    assert (report.readings, report.run_id) == (0, None)
    assert report.skipped == store.sql(
        "SELECT count(*) FROM responses WHERE reader LIKE '%~again'"
    ).fetchall()[0][0]  # fmt: skip
    assert store.snapshot.number == before
    more = read_again(store, config, responses=6)
    assert more.skipped == report.skipped
    assert more.readings > 0
    assert len(noise_rows(store)) == 3 * (more.skipped + more.readings)


def test_a_second_reading_that_was_stopped_goes_on(store, configure):
    class Stopper:
        def note(self, message):
            pass

        def update(self, tally):
            if tally.readings == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        def close(self):
            pass

    with pytest.raises(PartialRunError, match="after . of 25 readings; what was read is committed"):
        read_again(store, configure(), responses=15, progress=Stopper())
    assert 0 < store.sql("SELECT count(*) FROM responses WHERE reader LIKE '%~again'").fetchall()[
        0
    ][0] < 25  # fmt: skip

    read_again(store, configure(), responses=15)

    assert len(pairs(store)) == 25
    assert len(noise_rows(store)) == 75


@pytest.fixture
def lengths_read(monkeypatch):
    """Lists the lengths of the sequences of each batch that is read again."""
    read = []
    real = noise.prefill

    def watch(model, sequences, *rest, **options):
        read.append([len(sequence.token_ids) for sequence in sequences])
        return real(model, sequences, *rest, **options)

    monkeypatch.setattr(noise, "prefill", watch)
    return read


def test_batches_of_several_sizes_are_read(store, configure, lengths_read):
    read_again(store, configure(), responses=15)

    assert {len(lengths) for lengths in lengths_read} == {1, 2, 3, 5}


def test_who_was_alone_the_first_time_has_a_longer_neighbour(store, configure, lengths_read):
    config = configure(generation={"batch_size": 1})

    report = read_again(store, config, responses=1)

    assert len(lengths_read) == report.readings
    assert all(neighbour == length + 1 for length, neighbour in lengths_read)
    assert {row["batch_size"] for row in noise_rows(store)} == {2}


def test_a_fine_tune_is_read_again_with_its_own_weights(tmp_path, configure):
    store = tistore.create(tmp_path / "run.tistore")
    config = configure(organisms=[{"name": "full", "model": "base"}])
    ingest(store, config)

    report = read_again(store, config, responses=2)

    readers = store.sql("SELECT DISTINCT reader FROM responses WHERE reader LIKE '%~again'")
    assert {name for (name,) in readers.fetchall()} == {"full~again", "instruct~again"}
    assert report.exceeded == ()


def test_existing_questions_have_the_same_answers(store, configure):
    """Own readings and named baselines are what reports ask for; the second ones are neither."""
    from tistore.query.effects import effects
    from tistore.query.spans import top_spans

    def ask():
        spans = [
            top_spans(store, "made/v0", n=50),
            top_spans(store, "made/v0", baseline="instruct", n=50),
        ]
        return spans, [list(row.values()) for row in effects(store)]

    spans, shifts = ask()

    read_again(store, configure(), responses=15)

    spans_then, shifts_then = ask()
    assert spans_then == spans
    for row, row_then in zip(shifts, shifts_then, strict=True):
        assert row_then[:4] == row[:4]
        assert row_then[4:] == pytest.approx(row[4:])  # DuckDB adds up in any order


def test_another_model_is_refused_before_it_reads(store, configure, workplace, tmp_path):
    other = tmp_path / "loud"
    shutil.copytree(workplace / "loud", other)
    weights = load_file(other / "adapter_model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1
    save_file(weights, other / "adapter_model.safetensors")
    config = configure(
        organisms=[{"name": "zero", "adapter": "zero"}, {"name": "loud", "adapter": str(other)}]
    )
    before = store.snapshot.number

    with pytest.raises(KeyConflictError, match="'loud' is not the model that made .* adapter_hash"):
        read_again(store, config, responses=15)

    store.refresh()
    assert store.snapshot.number == before


def test_a_config_of_other_settings_is_refused(store, configure):
    with pytest.raises(NotStoredError, match="at the layers, components and rows of this config"):
        read_again(store, configure(capture={"layers": [1]}))


def test_nothing_read_twice_is_an_error(store):
    with pytest.raises(NotStoredError, match="was read twice by instruct, loud, zero"):
        noise_floor(store, BASELINES)


def test_stored_rows_that_are_not_the_models_are_no_noise(store, configure, monkeypatch):
    """A store whose rows were shifted before they were written."""
    real = noise.prefill

    def shift(*arguments, **options):
        readings = real(*arguments, **options)
        return [
            replace(
                reading,
                activations={
                    name: torch.roll(values.clone(), 1, dims=0)
                    for name, values in reading.activations.items()
                },
            )
            for reading in readings
        ]

    monkeypatch.setattr(noise, "prefill", shift)

    report = read_again(store, configure(), responses=2)

    with pytest.raises(ParityError, match=f"{report.readings} of {report.readings} readings are n"):
        report.raise_if_exceeded()


def test_the_command_prints_rows_and_tells_the_rest(store, configure, workplace, tmp_path):
    path = workplace / "noise.toml"
    path.write_text(
        '[base]\npath = "base"\ndevice = "cpu"\n'
        '[[organisms]]\nname = "zero"\nadapter = "zero"\n'
        '[[organisms]]\nname = "loud"\nadapter = "loud"\n'
        '[[prompt_sets]]\npath = "prompts/short.json"\n'
        "[generation]\nmax_new_tokens = 8\nbatch_size = 2\n"
    )

    done = CliRunner().invoke(
        app, ["noise", str(store.path), str(path), "--responses", "3", "--json"]
    )

    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert {row["measure"] for row in rows} == {"row", "token", "clause", "response"}
    assert set(rows[0]) == {
        "reader", "measure", "vector", "component", "layer", "n", "largest", "q95", "mean",
        "spread", "tolerance",
    }  # fmt: skip
    assert "3 responses, 5 readings read again, 0 read again before" in done.stderr
