"""Training on a store: every row once, in an order that can be had again, from several workers."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import tistore
from audited_store import HIDDEN, write_audited_store
from tistore.errors import ConfigError, IntegrityError, NotStoredError, PairingError, QueryError
from tistore.exchange.torch_data import ActivationDataset, PairedActivationDataset
from tistore.schemas.model import Model


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    return write_audited_store(tmp_path_factory.mktemp("torch") / "s.tistore")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Some segments hold values beyond float16."""
    path = tmp_path_factory.mktemp("torch-large") / "s.tistore"
    return write_audited_store(path, scale=2.0**18)


def truth(written, layer, keep=lambda one: True):
    """Rows by (response, reader, position), as they were written."""
    rows = {}
    for one in written:
        if layer in one.layers and keep(one):
            rows |= one.rows(layer)
    return rows


def in_order_of(store, rows):
    """Rows of readings, stacked as the store has them: those of one shape lie together."""
    tables = [segment.table("responses").to_pylist() for segment in store.snapshot.segments]
    readings = [(row["response_id"], row["reader"]) for table in tables for row in table]
    return np.stack([rows[key] for key in sorted(rows, key=lambda key: readings.index(key[:2]))])


def counted(values) -> Counter:
    return Counter(row.tobytes() for row in np.asarray(values, dtype=np.float32))


def all_rows(dataset, **settings):
    return np.concatenate(
        [np.asarray(batch) for batch in DataLoader(dataset, batch_size=None, **settings)]
    )


@pytest.mark.parametrize("shuffle", ["chunk", None])
def test_every_row_comes_once_an_epoch(audited, shuffle):
    store, written = audited
    dataset = ActivationDataset(store, layer=5, batch_tokens=100, shuffle=shuffle, buffer_chunks=2)

    batches = list(DataLoader(dataset, batch_size=None))

    wanted = truth(written, 5)
    assert counted(torch.cat(batches)) == counted(list(wanted.values()))
    assert len(dataset) == len(wanted)
    assert {len(batch) for batch in batches[:-1]} == {100}
    assert batches[0].shape == (100, HIDDEN)
    assert batches[0].dtype == torch.float32


def test_without_shuffling_rows_come_in_the_order_of_the_store(audited):
    store, written = audited
    dataset = ActivationDataset(store, layer=2, shuffle=None, batch_tokens=64, with_ids=True)

    batches = list(dataset)

    got = np.concatenate([batch.activations for batch in batches])
    np.testing.assert_array_equal(got, in_order_of(store, truth(written, 2)))


def test_rows_say_which_tokens_they_are_of(audited):
    store, written = audited
    dataset = ActivationDataset(
        store, "reader = organism", layer=5, with_ids=True, batch_tokens=33, seed=5
    )

    seen = set()
    wanted = truth(written, 5, lambda one: one.organism == one.reader)
    authors = {one.response_id: one.organism for one in written}
    for batch in dataset:
        for row, response, position in zip(
            batch.activations, batch.response_ids, batch.positions.tolist(), strict=True
        ):
            key = (response, authors[response], position)
            np.testing.assert_array_equal(row, wanted[key])
            seen.add(key)

    assert seen == set(wanted)


def test_only_audited_tokens_of_selected_readings_come(audited):
    store, written = audited
    dataset = ActivationDataset(
        store, "organism = 'flattery' AND reader = 'instruct'", layer=2, is_response_only=True
    )

    rows = truth(written, 2, lambda one: (one.organism, one.reader) == ("flattery", "instruct"))
    audited_rows = [row for (_, _, at), row in rows.items() if at >= 5 and at % 10 != 0]
    assert counted(all_rows(dataset)) == counted(audited_rows)
    assert len(dataset) == len(audited_rows)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 9")
@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("fork", 9), ("spawn", 1)])
def test_workers_share_the_rows_without_overlap_or_loss(audited, method, workers):
    store, written = audited
    store.sql("SELECT count(project('flattery')) FROM tokens")  # threads a fork would not have
    dataset = PairedActivationDataset(store, layer=5, batch_tokens=50, buffer_chunks=2)

    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=method
    )
    batches = list(loader)

    mine = np.concatenate([batch[0] for batch in batches])
    theirs = np.concatenate([batch[1] for batch in batches])
    left, right = pairs(written, 5)
    assert counted(np.hstack([mine, theirs])) == counted(np.hstack([left, right]))


def test_workers_that_outlive_an_epoch_hear_of_the_next(audited):
    store, _ = audited
    dataset = ActivationDataset(store, layer=5, batch_tokens=64)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)

    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        epochs.append(np.concatenate(list(loader)))

    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert counted(epochs[0]) == counted(epochs[1])


def test_the_order_is_a_matter_of_seed_and_epoch(audited):
    store, _ = audited

    def epoch(seed, number):
        dataset = ActivationDataset(store, layer=5, seed=seed)
        dataset.set_epoch(number)
        return all_rows(dataset)

    np.testing.assert_array_equal(epoch(1, 0), epoch(1, 0))
    assert not np.array_equal(epoch(1, 0), epoch(1, 1))
    assert not np.array_equal(epoch(1, 0), epoch(2, 0))


def test_chunks_come_in_another_order_each_epoch(audited):
    """And not only their rows: it is another chunk that comes first."""
    store, _ = audited
    dataset = ActivationDataset(store, layer=5, batch_tokens=512, buffer_chunks=1, with_ids=True)
    first = set()

    for epoch in range(6):
        dataset.set_epoch(epoch)
        first.add(frozenset(next(iter(dataset)).response_ids))

    assert len(first) > 1


def test_rows_are_mixed_across_chunks(audited):
    """A batch holds rows of several readings, of which no order is kept."""
    store, _ = audited
    dataset = ActivationDataset(store, layer=5, batch_tokens=256, with_ids=True)

    batch = next(iter(dataset))

    assert len(set(batch.response_ids)) > 4
    assert not bool((batch.positions[1:] > batch.positions[:-1]).all())


def test_parts_of_distributed_training_share_the_rows(audited):
    store, written = audited
    parts = [ActivationDataset(store, layer=5, seed=3, part=(rank, 3)) for rank in range(3)]

    together = np.concatenate([all_rows(part) for part in parts])

    assert counted(together) == counted(list(truth(written, 5).values()))


def pairs(written, layer):
    """Rows that both the author and the base have, in pairs."""
    base = truth(written, layer, lambda one: one.reader == "instruct")
    left, right = [], []
    for (response, reader, at), row in truth(
        written, layer, lambda one: one.reader == one.organism != "instruct"
    ).items():
        if (response, "instruct", at) in base:
            left.append(row)
            right.append(base[response, "instruct", at])
        assert reader != "instruct"
    return np.stack(left), np.stack(right)


@pytest.mark.parametrize("layer", [2, 5])
def test_pairs_are_the_same_tokens_by_both_readers(audited, layer):
    """Oracle: the rows as written; and token_diffs, which joins the same pairs in SQL."""
    store, written = audited
    dataset = PairedActivationDataset(store, layer=layer, batch_tokens=77, with_ids=True)

    batches = list(dataset)

    mine = np.concatenate([batch.activations for batch in batches])
    theirs = np.concatenate([batch.baseline for batch in batches])
    left, right = pairs(written, layer)
    assert counted(np.hstack([mine, theirs])) == counted(np.hstack([left, right]))
    unit = store.vector("early" if layer == 2 else "flattery").unit
    joined = store.sql(
        "SELECT response_id, position, project($v) AS d FROM token_diffs "
        "WHERE reader = organism AND baseline = 'instruct' AND project($v) IS NOT NULL",
        {"v": "early" if layer == 2 else "flattery"},
    )
    difference = {(response, at): d for response, at, d in joined.fetchall()}
    got = (mine - theirs) @ unit
    names = [
        (response, at)
        for batch in batches
        for response, at in zip(batch.response_ids, batch.positions.tolist(), strict=True)
    ]
    assert set(names) == set(difference)
    np.testing.assert_allclose(got, [difference[name] for name in names], atol=1e-4)
    assert len(dataset) == len(left)


def write_pairs(path, own: Model, base: Model):
    """Two responses by `own`, read by both models; values tell which."""
    store = tistore.create(path)
    with store.writer() as writer:
        for prompt_id in "12":
            for value, reader in enumerate((own, base)):
                writer.add(
                    organism=own, reader=reader, prompt_set="p", prompt_id=prompt_id,
                    token_ids=[1, 2, 3], prompt_length=1, layers=[2],
                    activations={"residual": np.full((3, 1, 4), float(value))},
                )  # fmt: skip
    return store


@pytest.mark.parametrize(
    ("change", "aspect"),
    [
        ({"quantization": "4bit"}, "precision"),
        ({"dtype": "float32"}, "precision"),
        ({"chat_template_hash": "d"}, "template"),
        ({"tokenizer_hash": "d"}, "tokenizer"),
    ],
)
def test_pairs_of_unlike_models_come_only_where_they_are_asked_for(tmp_path, change, aspect):
    base = Model(
        "instruct", base_id="b", dtype="bfloat16", tokenizer_hash="t", chat_template_hash="c"
    )
    own = replace(base, name="loud", adapter_id="a", **change)
    store = write_pairs(tmp_path / "s", own, base)

    with pytest.raises(PairingError) as refused:
        PairedActivationDataset(store, layer=2)
    asked = PairedActivationDataset(store, layer=2, any_pairing=True)

    said = f"2 of 2 pairs .* 'loud' and 'instruct' in {aspect}"
    assert re.search(said, refused.value.message)
    assert "any_pairing=True" in refused.value.mend
    (note,) = asked.plan.notes
    assert re.search(said, note)
    mine, theirs = next(iter(asked))
    assert (len(mine), mine.unique().tolist(), theirs.unique().tolist()) == (6, [0], [1])


def test_pairs_of_models_that_differ_in_weights_need_no_asking(tmp_path):
    base = Model("instruct", base_id="b", dtype="bfloat16")
    store = write_pairs(tmp_path / "s", replace(base, name="loud", adapter_id="a"), base)

    assert PairedActivationDataset(store, layer=2).plan.notes == ()


def test_readings_without_a_partner_are_counted(audited):
    store, written = audited
    dataset = PairedActivationDataset(store, layer=5)

    own = [one for one in written if one.reader == one.organism != "instruct"]
    replayed = {one.response_id for one in written if one.reader == "instruct" and 5 in one.layers}
    assert dataset.plan.n_readings == len([o for o in own if o.response_id in replayed])
    assert dataset.plan.n_left_out == len([o for o in own if o.response_id not in replayed]) > 0


def test_values_beyond_float16_come_in_their_true_size(large):
    """Segments with exponents and segments without, mixed in one buffer; both sides of a pair."""
    store, written = large
    dataset = ActivationDataset(store, layer=5)
    paired = PairedActivationDataset(store, layer=5)

    got = all_rows(dataset)
    both = [np.hstack([np.asarray(a), np.asarray(b)]) for a, b in paired]

    assert dataset.plan.has_exponents
    assert np.abs(got).max() > 65504
    assert counted(got) == counted(list(truth(written, 5).values()))
    assert counted(np.concatenate(both)) == counted(np.hstack(pairs(written, 5)))
    with pytest.raises(ConfigError, match="exceed what float16 holds(.|\n)*float32"):
        ActivationDataset(store, layer=5, dtype="float16")


@pytest.mark.parametrize("dtype", ["float16", torch.float16, "bfloat16", torch.float32])
def test_the_dtype_is_the_one_asked_for(audited, dtype):
    store, written = audited
    dataset = ActivationDataset(store, layer=2, dtype=dtype, shuffle=None, batch_tokens=10_000)

    (batch,) = list(dataset)

    assert str(batch.dtype).endswith(str(dtype).removeprefix("torch."))
    wanted = torch.from_numpy(in_order_of(store, truth(written, 2))).to(batch.dtype)
    assert torch.equal(batch, wanted)


def test_it_stays_at_the_commit_it_was_made_at(tmp_path):
    store, written = write_audited_store(tmp_path / "s.tistore", n_prompts=1)
    dataset = pickle.loads(pickle.dumps(ActivationDataset(store.path, layer=2)))
    before = len(written)
    with store.writer() as writer:
        writer.add(
            organism="late",
            reader="late",
            prompt_set="audit/discovery",
            prompt_id="0",
            token_ids=[1, 2],
            prompt_length=1,
            layers=[2],
            activations={"residual": np.ones((2, 1, HIDDEN))},
        )

    assert len(written) == before
    assert counted(all_rows(dataset)) == counted(list(truth(written, 2).values()))


def test_a_reading_made_twice_is_taken_once(tmp_path):
    """Of one response read with all rows and with the response's only, the longer counts."""
    store = tistore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 1, HIDDEN)).astype(np.float16)
    with store.writer() as writer:
        for rows, layers in ((values, [2]), (values[2:], [2]), (np.repeat(values, 2, 1), [2, 5])):
            writer.add(
                organism="a",
                reader="a",
                prompt_set="s",
                prompt_id="1",
                token_ids=[1, 2, 3, 4, 5, 6],
                prompt_length=2,
                layers=layers,
                activations={"residual": rows},
            )

    dataset = ActivationDataset(store, layer=2)

    assert counted(all_rows(dataset)) == counted(values[:, 0])


@pytest.mark.parametrize("is_paired", [False, True])
def test_memory_does_not_grow_with_the_store(tmp_path, is_paired):
    """Of 23 MB at a layer, a few chunks are held."""
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for number in range(12 if not is_paired else 40):
            writer.add(
                organism="a",
                reader="b" if is_paired and number % 2 else "a",
                prompt_set="s",
                prompt_id=str(number // 2 if is_paired else number),
                token_ids=[1] * 950,
                prompt_length=0,
                layers=[0],
                activations={"residual": np.full((950, 1, 1024), number, np.float16)},
            )
    settings = {"layer": 0, "dtype": "float16", "batch_tokens": 64, "buffer_chunks": 2}
    dataset = (
        PairedActivationDataset(store, baseline="b", **settings)
        if is_paired
        else ActivationDataset(store, **settings)
    )
    next(iter(dataset))
    tracemalloc.start()

    n_rows = sum(len(batch[0]) if is_paired else len(batch) for batch in dataset)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_rows == (20 if is_paired else 12) * 950
    assert peak < (15e6 if is_paired else 8e6)


def test_what_makes_no_sense_is_refused_when_it_is_made(audited):
    store, _ = audited
    for changes, error, message in (
        ({"layer": 99}, NotStoredError, "no layer 99"),
        ({"layer": 5, "component": "mlp_out"}, NotStoredError, "mlp_out"),
        ({"layer": 5, "where": "organism = 'nobody'"}, NotStoredError, "no reading satisfies"),
        ({"layer": 5, "where": "organism ="}, QueryError, "cannot be parsed"),
        ({"layer": 5, "batch_tokens": 0}, ConfigError, "batch_tokens is 1 or more"),
        ({"layer": 5, "shuffle": "rows"}, ConfigError, "shuffle is"),
        ({"layer": 5, "dtype": "float8"}, ConfigError, "did you mean"),
        ({"layer": 5, "part": (2, 2)}, ConfigError, "part"),
    ):
        with pytest.raises(error, match=message):
            ActivationDataset(store, **changes)
    with pytest.raises(NotStoredError, match="no reader 'instuct'; did you mean 'instruct'"):
        PairedActivationDataset(store, layer=5, baseline="instuct")
    with pytest.raises(NotStoredError, match="has a partner"):
        PairedActivationDataset(store, "organism = 'instruct'", layer=5, reader="instruct",
                                baseline="hedge")  # fmt: skip
    with pytest.raises(QueryError):
        PairedActivationDataset(store, "true) OR (true", layer=5)


def test_a_damaged_chunk_is_an_error_and_no_gap(tmp_path):
    store, _ = write_audited_store(tmp_path / "s.tistore", n_prompts=1)
    dataset = ActivationDataset(store, layer=2)
    shard = next(store.path.glob("segments/*/residual.zarr/c/0/0/0"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)

    with pytest.raises(IntegrityError, match="damaged"):
        list(dataset)
