"""A store taken out of another: the same values, and everything that belongs to them."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

import tistore
from audited_store import HIDDEN, write_audited_store
from tistore.errors import ConfigError, KeyConflictError, NoRoomError, NotStoredError
from tistore.exchange.selection import Selection
from tistore.exchange.stores.sub_store import export_store
from tistore.schemas.judgement import Judgement
from tistore.schemas.tables import LOG_TABLES
from tistore.store.copy_log import CopyLog
from tistore.store.files import FileRecord
from tistore.store.posix import PosixFiles


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """With values beyond float16 in some segments, so that exponents differ."""
    path = tmp_path_factory.mktemp("sub") / "s.tistore"
    return write_audited_store(path, scale=2.0**18)


def readings(store):
    """Every reading by its key: its row of `responses`, without the place it lies at."""
    return {
        row["reading_key"]: {name: value for name, value in row.items() if name != "row_start"}
        for segment in store.snapshot.segments
        for row in segment.table("responses").to_pylist()
    }


def everything(store, one, layer):
    """All that a store says of one reading at a layer."""
    (segment, place), *more = [
        (segment, place)
        for segment in store.snapshot.segments
        for place, row in enumerate(segment.table("responses").to_pylist())
        if (row["response_id"], row["reader"]) == (one.response_id, one.reader)
    ]
    assert not more
    site = tistore.schemas.site.Site("residual", layer)
    row = segment.table("responses").slice(place, 1).to_pylist()[0]
    rows = slice(row["row_start"], row["row_start"] + row["n_rows"])
    points_to = segment.column("tokens", "reading")[rows]
    assert (points_to == place).all()
    return (
        np.ldexp(segment.read(site)[rows].astype(np.float64), segment.exponent(site)),
        segment.norms(site)[rows],
        segment.means(site)[place],
        segment.table("tokens").slice(rows.start, row["n_rows"]).drop_columns(["reading"]),
        segment.table("clauses").filter(
            pa.compute.equal(segment.table("clauses")["reading"], place)
        ).drop_columns(["reading"]),
    )  # fmt: skip


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        if isinstance(a, pa.Table):
            assert a.equals(b)
        else:
            np.testing.assert_array_equal(a, b)


def test_a_whole_store_is_copied_bit_by_bit(audited, tmp_path):
    """Keys, hashes, values, norms, means, tokens and clauses; and every row of the log."""
    store, written = audited

    report = export_store(store, tmp_path / "copy", Selection())

    copy = tistore.open(tmp_path / "copy")
    assert report.readings == len(written)
    assert readings(copy) == readings(store)
    assert copy.verify().ok
    for one in written:
        for layer in one.layers:
            assert_same(everything(copy, one, layer), everything(store, one, layer))
    for name in LOG_TABLES:
        if name == "runs":
            assert copy.snapshot.table(name).num_rows == 1  # that of the export
        else:
            assert copy.snapshot.table(name).equals(store.snapshot.table(name))
    query = "SELECT response_id, reader, position, project('flattery') FROM tokens ORDER BY ALL"
    np.testing.assert_allclose(
        copy.sql(query).to_pandas().iloc[:, 3], store.sql(query).to_pandas().iloc[:, 3], rtol=1e-5
    )
    for kind, keys in store.snapshot.keys.items():
        assert copy.snapshot.keys[kind] == keys


def test_selected_readings_come_with_what_belongs_to_them(audited, tmp_path):
    store, written = audited
    where = "organism = 'flattery' AND prompt_set = 'audit/probes'"

    export_store(store, tmp_path / "copy", Selection.parse(where))

    copy = tistore.open(tmp_path / "copy")
    mine = [one for one in written if one.organism == "flattery" and one.prompt_id in "13"]
    found = readings(copy)
    assert sorted((row["response_id"], row["reader"]) for row in found.values()) == sorted(
        (one.response_id, one.reader) for one in mine
    )
    assert all(found[key] == row for key, row in readings(store).items() if key in found)
    for one in mine:
        for layer in one.layers:
            assert_same(everything(copy, one, layer), everything(store, one, layer))
    column = lambda name, of: sorted(copy.snapshot.table(name)[of].to_pylist())  # noqa: E731
    assert column("models", "name") == ["flattery", "instruct"]
    assert column("prompts", "prompt_id") == ["1", "3"]
    assert column("annotations", "response_id") == sorted({one.response_id for one in mine})
    assert copy.snapshot.table("vectors").num_rows == 3
    assert copy.verify().ok


def test_fewer_layers_are_as_if_only_these_had_been_captured(tmp_path):
    """Oracle: a store that was written with these layers alone."""
    store, written = write_audited_store(tmp_path / "s", scale=2.0**18, n_prompts=3)
    alone = tistore.create(tmp_path / "alone")
    lost = 0
    with alone.writer() as writer:
        for segment in store.snapshot.segments:
            for row in segment.table("responses").to_pylist():
                (one,) = [
                    one
                    for one in written
                    if (one.response_id, one.reader) == (row["response_id"], row["reader"])
                ]
                if 5 not in one.layers:
                    lost += 1
                    continue
                names = ("organism", "reader", "prompt_set", "prompt_id", "token_ids")
                writer.add(
                    **{name: row[name] for name in names},
                    prompt_length=5,
                    layers=[5],
                    activations={"residual": one.values[:, [one.layers.index(5)]]},
                )

    report = export_store(store, tmp_path / "copy", Selection.parse(layers="5"))

    copy = tistore.open(tmp_path / "copy")
    assert report.without_layers == lost == 2
    assert copy.snapshot.keys["readings"] == alone.snapshot.keys["readings"]
    assert copy.info().layers == (5,)
    for one in written:
        if 5 in one.layers:
            assert_same(everything(copy, one, 5), everything(store, one, 5))
    settings = {row["settings_hash"] for row in readings(copy).values()}
    assert settings == {row["settings_hash"] for row in readings(alone).values()}


def test_the_same_export_again_adds_nothing(audited, tmp_path):
    store, written = audited
    for selection in (Selection(), Selection.parse("reader = organism"), Selection()):
        export_store(store, tmp_path / "copy", selection)
    copy = tistore.open(tmp_path / "copy")
    before = copy.snapshot.number

    report = export_store(store, tmp_path / "copy", Selection())

    copy.refresh()
    assert (report.readings, report.present, report.commits) == (0, len(written), 0)
    assert copy.snapshot.number == before
    assert copy.snapshot.table("annotations").num_rows == len(
        [one for one in written if one.reader == one.organism]
    )


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("fails_at", [0, 9, 30])
def test_an_export_that_was_stopped_goes_on(audited, tmp_path, monkeypatch, fails_at, is_killed):
    """Whichever write it was stopped at: the same readings in the end, and no file left over."""
    store, _ = audited
    calls = iter(range(10_000))
    write = FileRecord.to_json

    def stop(record):
        if next(calls) == fails_at:
            raise KeyboardInterrupt
        return write(record)

    with monkeypatch.context() as patch:
        patch.setattr(FileRecord, "to_json", stop)
        if is_killed:  # then nobody clears up
            patch.setattr(PosixFiles, "remove_folder", lambda self, folder: None)
        with pytest.raises(KeyboardInterrupt):
            export_store(store, tmp_path / "copy", Selection())
    report = export_store(store, tmp_path / "copy", Selection())

    copy = tistore.open(tmp_path / "copy")
    assert readings(copy) == readings(store)
    assert report.readings + report.present == len(readings(store))
    assert is_killed or copy.verify().uncommitted_segments == ()
    for name in LOG_TABLES:
        assert name == "runs" or copy.snapshot.table(name).num_rows == (
            store.snapshot.table(name).num_rows
        )


def test_parts_that_are_stored_alike_share_a_segment(audited, tmp_path):
    """A few readings of each segment do not make a segment each."""
    store, written = audited
    assert len(store.snapshot.segments) > 3

    export_store(store, tmp_path / "copy", Selection.parse("reader = organism", layers="2"))

    copy = tistore.open(tmp_path / "copy")
    assert len(copy.snapshot.segments) == 1
    for one in written:
        if one.reader == one.organism:
            assert_same(everything(copy, one, 2), everything(store, one, 2))


def test_other_readings_under_the_same_keys_are_refused(audited, tmp_path):
    store, _ = audited
    other, _ = write_audited_store(tmp_path / "other", seed=4)
    same_tokens, _ = write_audited_store(tmp_path / "same", scale=2.0)
    before = same_tokens.snapshot.number

    with pytest.raises(KeyConflictError):
        export_store(store, tmp_path / "other", Selection())
    with pytest.raises(KeyConflictError, match="other activations"):
        export_store(store, tmp_path / "same", Selection())
    with pytest.raises(ConfigError, match="the store itself"):
        export_store(store, store.path, Selection())

    assert other.snapshot.number == tistore.open(tmp_path / "other").snapshot.number
    same_tokens.refresh()
    assert same_tokens.snapshot.number <= before + 1  # the row that tells of the export


def test_a_response_read_twice_at_the_kept_layers_is_copied_once(tmp_path):
    store = tistore.create(tmp_path / "s")
    values = np.random.default_rng(0).standard_normal((4, 2, HIDDEN))
    same = {
        "organism": "a", "reader": "a", "prompt_set": "s", "prompt_id": "1",
        "token_ids": [1, 2, 3, 4], "prompt_length": 1,
    }  # fmt: skip
    with store.writer() as writer:
        writer.add(**same, layers=[2, 5], activations={"residual": values})
        writer.add(**same, layers=[2], activations={"residual": values[:, :1]})

    report = export_store(store, tmp_path / "copy", Selection.parse(layers="2"))

    assert (report.readings, report.present) == (1, 1)
    assert len(readings(tistore.open(tmp_path / "copy"))) == 1


def test_a_full_disk_is_told_before_anything_is_written(audited, tmp_path, monkeypatch):
    store, _ = audited
    target = tistore.create(tmp_path / "copy")
    monkeypatch.setattr(type(target._files), "free_bytes", lambda self: 1000)

    with pytest.raises(NoRoomError, match="only 0 MB are free"):
        export_store(store, tmp_path / "copy", Selection())

    assert list((tmp_path / "copy" / "segments").iterdir()) == []


def test_another_process_taking_the_number_is_no_harm(audited, tmp_path, monkeypatch):
    store, written = audited
    target = tistore.create(tmp_path / "copy")
    build = CopyLog._check_room

    def interfere(self, copies_):
        build(self, copies_)
        tistore.open(tmp_path / "copy").add_vector(
            "made/meanwhile", np.random.default_rng(len(list(target.path.rglob("*")))).random(8),
            layer=1, method=f"m{len(list(target.path.rglob('*')))}",
        )  # fmt: skip

    monkeypatch.setattr(CopyLog, "_check_room", interfere)

    export_store(store, tmp_path / "copy", Selection())

    copy = tistore.open(tmp_path / "copy")
    assert len(readings(copy)) == len(written)
    assert copy.verify().ok


def test_nothing_selected_makes_no_store(audited, tmp_path):
    store, _ = audited

    with pytest.raises(NotStoredError, match="no reading satisfies"):
        export_store(store, tmp_path / "copy", Selection.parse("organism = 'nobody'"))

    assert not (tmp_path / "copy").exists()


def test_what_is_said_of_readings_that_stay_behind_stays_behind(tmp_path):
    """Second readings and judgements go with the readings they are of."""
    store, written = write_audited_store(tmp_path / "s")
    store.add_rows(
        "parity",
        [
            {
                "response_id": one.response_id,
                "organism": one.organism,
                "reader": one.reader,
                "component": "residual",
                "layer": 2,
                "n_rows": 1,
                "largest": 0.0,
                "mean": 0.0,
                "tolerance": 1.0,
                "batch_size": 1,
                "kind": "canary",
            }
            for one in written
        ],
    )
    now = datetime.now(UTC)
    store.add_rows(
        "judgements",
        [
            Judgement(
                one.response_id, "a/b", "positive", "m", "h", "r", 1.0, 1.0, "text", "1", 1, 1, now
            ).to_row()
            for one in written
            if one.reader == one.organism
        ],
    )

    where = "organism = 'hedge' AND reader = 'hedge'"
    export_store(store, tmp_path / "copy", Selection.parse(where))

    copy = tistore.open(tmp_path / "copy")
    mine = {one.response_id for one in written if (one.organism, one.reader) == ("hedge", "hedge")}
    assert set(copy.snapshot.table("judgements")["response_id"].to_pylist()) == mine
    parity = copy.snapshot.table("parity").to_pylist()
    assert {(row["response_id"], row["reader"]) for row in parity} == {(i, "hedge") for i in mine}
