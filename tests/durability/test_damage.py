"""If a byte is ever wrong, `verify` says where, and no answer is made of it."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

import tistore
from durability.damage import Campaign, make_campaign
from durability.every_file import CACHED, TALK
from durability.harm import WAYS, NotHarmedError
from durability.questions import list_reads
from tistore.audit.log import read_analyses
from tistore.errors import IntegrityError, StoreError
from tistore.schemas.tables import LOG_TABLES, SEGMENT_TABLES, STREAMED_TABLES
from tistore.store.run_status import describe_newest_run
from tistore.store.score_files import decode_scores, encode_scores

ARRAYS = {"activations", "norms", "means"}


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    """Let what verify remembers of these stores be forgotten with them."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("TISTORE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def of_store(tmp_path_factory, cache_folder):
    return make_campaign(tmp_path_factory.mktemp("store"), is_quick=True)


@pytest.fixture(scope="module")
def of_bundle(tmp_path_factory, cache_folder):
    return make_campaign(tmp_path_factory.mktemp("bundle"), is_bundle=True, is_quick=True)


def harm_every_type(campaign: Campaign, types: set[str], seed: int) -> list[str]:
    """
    Harm a file of each type in each way; a question is put after every twelfth.

    Of the log's tables, which are all read by the same few lines, each suffers three of the ways.
    """
    rng = np.random.default_rng(seed)
    findings = []
    numbers = count()
    for name in sorted(types):
        ways = sorted(WAYS)
        for how in rng.choice(ways, 3, replace=False) if name in LOG_TABLES else ways:
            path = str(rng.choice(campaign.types[name]))
            try:
                findings += campaign.harm(how, path, rng, asks=next(numbers) % 12 == 0)
            except NotHarmedError:
                continue  # one of its kind, or the same in every store
    return findings


def test_the_stores_have_a_file_of_every_type(of_store, of_bundle):
    tables = {*LOG_TABLES, *SEGMENT_TABLES, *STREAMED_TABLES}
    shards = {f"shard of {name}" for name in ARRAYS} | {f"{name}' metadata" for name in ARRAYS}
    everything = tables | shards | {"header", "commit", "bundled scores", CACHED, *TALK}

    assert everything == of_store.types.keys() | of_bundle.types.keys()


def test_every_file_of_these_stores_is_read_by_some_question(of_store, of_bundle):
    assert of_store.unread == of_bundle.unread == []


def test_harm_to_any_type_of_file_is_named_and_never_believed(of_store):
    """Flips, swaps, deletions, …: verify names the file, answers stay what they were."""
    assert harm_every_type(of_store, set(of_store.types), seed=1) == []

    assert of_store.is_sound_again()
    assert of_store.n_refused > 100


def test_harm_to_a_bundle_of_scores_is_named_and_never_believed(of_bundle):
    types = {"bundled scores", "header", "commit", "shard of means"}

    assert harm_every_type(of_bundle, types, seed=2) == []

    assert of_bundle.is_sound_again()


def test_verify_remembers_that_there_was_a_newer_commit(of_store):
    """Nothing in a log says that its end is gone; a pass of verify that has seen it does."""
    newest = max(of_store.types["commit"])

    assert of_store.harm("deletion", newest, np.random.default_rng(0), asks=False) == []


@pytest.mark.parametrize(
    ("type_of_file", "read"),
    [
        ("shard of activations", "activations of segments"),
        ("shard of means", "means"),
        ("shard of norms", "norms"),
        ("unembedding", "unembeddings"),
    ],
)
def test_harm_done_to_an_open_store_is_not_believed_either(of_store, type_of_file, read):
    """What was checked when it was opened may be harmed before it is read again."""
    rng = np.random.default_rng(5)
    store = tistore.open(of_store.path)
    ask = list_reads()[read]
    sound = ask(store)
    n_refused = 0

    for path in of_store.types[type_of_file] * 8:
        data = bytearray(of_store.read(path))
        start = int(rng.integers(len(data) - 8))
        data[start : start + 8] = rng.bytes(8)
        with of_store.holding(path, bytes(data)):
            try:
                assert ask(store) == sound  # it lies where nothing is read, or is known already
            except IntegrityError as error:
                assert path in str(error)
                n_refused += 1

    assert n_refused > 4
    assert ask(store) == sound


def test_no_flip_in_what_runs_said_breaks_status_or_the_log_of_analyses(of_store):
    """They are talk: a line that is damaged is passed over, or named where it must not be."""
    rng = np.random.default_rng(6)
    store = tistore.open(of_store.path)
    for name, ask in (("events.jsonl", describe_newest_run), ("analyses.jsonl", read_analyses)):
        sound = of_store.read(name)
        for place in range(0, len(sound), 4):
            data = bytearray(sound)
            data[place] ^= 1 << int(rng.integers(8))
            with of_store.holding(name, bytes(data)):
                try:
                    ask(store)
                except StoreError as error:
                    assert "no data is in it" in str(error)
                    assert name == "analyses.jsonl"  # cells that were inspected are not left out


def test_cached_scores_whose_column_has_no_readable_name_count_as_absent():
    values = np.arange(5, dtype=np.float32)
    data = encode_scores("a" * 32, "b" * 32, values).to_pybytes()
    np.testing.assert_array_equal(decode_scores(data, "a" * 32, "b" * 32, 5), values)

    damaged = data.replace(b"score", b"sco\xf2e")

    assert decode_scores(damaged, "a" * 32, "b" * 32, 5) is None
