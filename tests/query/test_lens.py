# ruff: noqa: E501 - a query reads best on one line
"""`lens` gives what float64 gives, row by row, and computes no row that the query leaves out."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

import tistore
from lens_store import VOCABULARY, add_head, compute_logits, cut, make_head, write_lens_store
from tistore.errors import QueryError, ReadBudgetError, SqlError
from tistore.query import lens, lens_rows, lens_table
from tistore.schemas.model import SECOND_READING

COLUMNS = "response_id, reader, position, layer, next_token_id, next_token, rank, probability, lens_logprob, entropy, top_token_ids, top_tokens, top_probabilities"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_lens_store(tmp_path_factory.mktemp("lens") / "s", response=40, scale=2.0**18)


@pytest.fixture(scope="module")
def oracle(made):
    """For each (response, reader, position, layer): next token id, float64 log-probabilities."""
    store, written, heads = made
    ids = {
        row["response_id"]: row["token_ids"]
        for segment in store.snapshot.segments
        for row in segment.table("responses", ["response_id", "token_ids"]).to_pylist()
    }
    found = {}
    for one in written:
        for layer in one.layers:
            for (response_id, reader, position), state in one.rows(layer).items():
                logits = compute_logits(*heads[reader], state[None])[0]
                following = (*ids[response_id], None)[position + 1]
                key = (response_id, reader, position, layer)
                found[key] = following, log_softmax(logits), logits
    return found


def test_every_row_is_what_float64_gives(made, oracle):
    store, _, _ = made

    rows = store.sql(f"SELECT {COLUMNS} FROM lens").to_arrow().to_pylist()

    assert {(r["response_id"], r["reader"], r["position"], r["layer"]) for r in rows} == set(oracle)
    assert len(rows) == len(oracle)
    for row in rows:
        key = (row["response_id"], row["reader"], row["position"], row["layer"])
        following, logprobs, logits = oracle[key]
        assert row["next_token_id"] == following
        np.testing.assert_allclose(row["entropy"], -(np.exp(logprobs) * logprobs).sum(), rtol=1e-4)
        order = np.lexsort((np.arange(VOCABULARY), -logits))
        tops = logprobs[row["top_token_ids"]]
        np.testing.assert_allclose(row["top_probabilities"], np.exp(tops), rtol=1e-4)
        np.testing.assert_allclose(tops, logprobs[order[: lens.TOP]], atol=1e-4)
        assert row["top_tokens"] == [None if i == 7 else f"<{i}>" for i in row["top_token_ids"]]
        if following is None:
            assert row["rank"] is row["probability"] is row["lens_logprob"] is None
            assert row["next_token"] is None
            continue
        assert row["next_token"] == (None if following == 7 else f"<{following}>")
        np.testing.assert_allclose(row["lens_logprob"], logprobs[following], atol=1e-4)
        np.testing.assert_allclose(row["probability"], np.exp(logprobs[following]), rtol=1e-3)
        is_close = np.abs(logits - logits[following]) < 1e-5  # may be on either side
        above = (logits > logits[following]) & ~is_close
        assert above.sum() < row["rank"] <= above.sum() + is_close.sum()


def test_states_stored_with_an_exponent_are_scaled_back(made):
    """LayerNorm and RMSNorm forget scale but for epsilon: the fixture must have such states."""
    store, _, _ = made
    exponents = {
        int(e)
        for segment in store.snapshot.segments
        for layer in segment.layers
        for e in [segment.exponent(lens_table.Site("residual", layer))]
    }
    assert len(exponents) > 1


def test_an_exponent_matters_where_epsilon_does(tmp_path):
    store = tistore.create(tmp_path / "s")
    states = np.zeros((2, 1, 4), dtype=np.float32)
    states[:, 0, 0] = 1e6  # stored as a smaller number
    states[:, 0, 1] = 3e5
    rng = np.random.default_rng(0)
    head = make_head(
        "h", rng, hidden=4, norm_weight=np.ones(4, np.float32), norm_epsilon=1e11, n_vocabulary=20
    )
    values = rng.standard_normal((20, 4)).astype(np.float32)
    with store.writer() as writer:
        writer.add(
            organism="a", reader="a", prompt_set="p", prompt_id="1", token_ids=[3, 4],
            prompt_length=1, layers=[0], activations={"residual": states},
        )  # fmt: skip
        writer.add_rows("reader_heads", [{"reader": "a", "head_hash": "h"}])
    add_head(store, head, values)

    ((found,),) = store.sql("SELECT lens_logprob FROM lens WHERE position = 0").fetchall()

    expected = log_softmax(compute_logits(head, values, None, states[:1, 0])[0])[4]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT layer, avg(rank), count(*) FROM lens WHERE organism = 'hedge' AND prompt_id = '1' GROUP BY layer",
        "SELECT position, rank FROM lens WHERE layer = 5 AND position BETWEEN 10 AND 12 AND reader = 'instruct'",
        "SELECT l.position, l.top_tokens[1] FROM lens l JOIN responses r USING (response_id, reader) WHERE l.layer IN (2) AND r.n_tokens > 20 AND l.position < 7",
        "SELECT x.layer, min(x.probability) FROM (SELECT * FROM lens WHERE is_response) x WHERE x.layer = 2 AND x.prompt_id = '0' GROUP BY ALL",
        "WITH w AS (SELECT layer, position, rank FROM lens WHERE organism = reader) SELECT * FROM w WHERE position = 20",
        "SELECT layer, rank FROM lens WHERE rank < 500 AND organism = 'flattery' AND token = ' and'",
        "SELECT a.rank - b.rank FROM lens a JOIN lens b ON a.response_id = b.response_id AND a.reader = b.reader AND a.position = b.position WHERE a.layer = 2 AND b.layer = 5 AND a.organism = 'hedge'",
        "SELECT count(*) FROM lens",
        "SELECT organism, count(DISTINCT layer) FROM lens GROUP BY organism",
        "SELECT r.prompt_id, count(l.rank) FROM responses r LEFT JOIN lens l ON l.response_id = r.response_id AND l.layer = 5 AND l.position = 9 GROUP BY ALL",
        "SELECT next_token FROM lens WHERE layer = 2 AND position = 30",
    ],
)  # fmt: skip
def test_narrowing_never_changes_an_answer(made, sql):
    """The same SQL over the whole relation, laid out beforehand."""
    store, _, _ = made
    with duckdb.connect() as plain:
        for name in ("lens", "responses"):
            plain.register(f"_{name}", store.sql(f"SELECT * FROM {name}").to_arrow())
            plain.execute(f"CREATE TABLE {name} AS FROM _{name}")
        expected = sorted(plain.execute(sql).fetchall(), key=repr)

    assert sorted(store.sql(sql).fetchall(), key=repr) == expected
    assert expected


def test_the_next_token_is_found_with_or_without_its_rank(made, monkeypatch):
    """Block by block, its logit is looked up beforehand only where it is counted from."""
    store, _, _ = made
    monkeypatch.setattr(lens, "_HELD_BYTES", 0)
    sql = "SELECT {} FROM lens WHERE prompt_id = '1' ORDER BY response_id, reader, position, layer"

    without = store.sql(sql.format("lens_logprob")).to_pandas()
    counted = store.sql(sql.format("lens_logprob, rank")).to_pandas()

    np.testing.assert_allclose(without["lens_logprob"], counted["lens_logprob"], atol=1e-4)
    assert without["lens_logprob"].notna().sum() > 100


def count_rows(store, sql: str) -> int:
    return store.explain(sql).multiply_adds // (8 * VOCABULARY)


def test_only_rows_the_query_needs_are_multiplied(made, oracle):
    store, _, _ = made
    n_rows = sum(1 for key in oracle if key[2] == 20 and key[3] == 2 and key[1] == "hedge")

    assert (
        count_rows(
            store, "SELECT rank FROM lens WHERE position = 20 AND layer = 2 AND reader = 'hedge'"
        )
        == n_rows
    )
    assert count_rows(store, "SELECT rank FROM lens") == len(oracle)
    assert count_rows(store, "SELECT count(*) FROM lens") == 0
    assert count_rows(store, "SELECT next_token FROM lens") == 0


def test_parameters_narrow_as_literals_do(made):
    store, _, _ = made
    sql = "SELECT rank FROM lens WHERE layer = $layer AND position IN ($first, 11) AND reader = $reader"
    parameters = {"layer": 2, "first": 10, "reader": "instruct"}
    written = sql.replace("$layer", "2").replace("$first", "10").replace("$reader", "'instruct'")

    explained = store.explain(sql, parameters)

    assert explained.multiply_adds == store.explain(written).multiply_adds > 0
    assert store.sql(sql, parameters).fetchall() == store.sql(written).fetchall()


def test_what_another_item_of_the_from_says_narrows_nothing_of_this_one(made, oracle):
    """A condition on the other side of a join leaves the multiplications as they are."""
    store, _, _ = made
    sql = "SELECT l.rank FROM lens l JOIN lens m USING (response_id, reader, layer) WHERE m.position = 9 AND l.position = m.position + 1"

    n_rows = sum(1 for key in oracle if key[2] == 9)
    assert count_rows(store, sql) == len(oracle) + n_rows
    assert len(store.sql(sql).fetchall()) == n_rows
    n_early = sum(1 for key in oracle if key[3] == 2)
    n_both = sum(1 for key in oracle if key[2] == 9 and key[3] == 2)
    assert count_rows(store, f"{sql} AND l.layer = 2 AND m.layer = 2") == n_early + n_both


def test_a_condition_that_answers_anew_each_time_is_asked_once(made, oracle):
    """Asked of the rows beforehand and again of the answer, it would leave a quarter for a half."""
    store, _, _ = made

    assert count_rows(store, "SELECT rank FROM lens WHERE random() < 0.5") == len(oracle)
    sql = "SELECT rank FROM lens WHERE position IN (SELECT position FROM tokens WHERE position = 9) AND layer = 2"
    assert count_rows(store, sql) == sum(1 for key in oracle if key[3] == 2)
    assert len(store.sql(sql).fetchall()) == sum(1 for key in oracle if key[3] == 2 and key[2] == 9)


def test_a_query_that_costs_too_much_is_refused_with_what_it_costs(made):
    store = tistore.open(made[0].path)
    store.limits = replace(store.limits, max_multiply_adds=1e6)

    with pytest.raises(
        ReadBudgetError, match=r"multiply-adds, but its budget is 1e\+06"
    ) as refused:
        store.sql("SELECT avg(rank) FROM lens")

    assert "WHERE on organism" in str(refused.value)
    assert store.sql(
        "SELECT rank FROM lens WHERE position = 9 AND layer = 2 AND prompt_id = '3'"
    ).fetchall()
    assert store.sql("SELECT count(*) FROM lens").fetchall()


def test_rows_for_which_there_is_no_memory_are_refused(made, monkeypatch):
    store = tistore.open(made[0].path)
    # A lower limit would be too low for DuckDB itself, on some days.
    monkeypatch.setattr(lens_rows, "_CELL_BYTES", 1 << 30)

    with pytest.raises(ReadBudgetError, match="rows of lens, and there is memory for"):
        store.sql("SELECT * FROM lens")


def test_readings_without_a_head_are_null_and_counted(tmp_path):
    store, _, _ = write_lens_store(tmp_path / "s", response=30)
    with store.writer() as writer:
        for reader in ("hedge", "stranger"):
            writer.add(
                organism="stranger", reader=reader, prompt_set="p", prompt_id="1",
                token_ids=[1, 2, 3], prompt_length=1, layers=[0, 1],
                activations={"residual": np.ones((3, 2, 8))},
            )  # fmt: skip

    result = store.sql(
        "SELECT reader, layer, position, rank, top_tokens FROM lens WHERE organism = 'stranger' ORDER BY ALL"
    )

    rows = result.fetchall()
    assert [row[3:] for row in rows if row[0] == "stranger"] == [(None, None)] * 6
    assert all(row[4] for row in rows if row[0] == "hedge")
    assert any("lens is NULL for 1 of 2 readings" in note for note in result.notes)
    with pytest.raises(QueryError, match=r"no final norm and unembedding .*\(stranger\)"):
        store.sql("SELECT rank FROM lens WHERE reader = 'stranger'")


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("column", ["rank", "entropy", "next_token"])
def test_a_token_that_the_head_does_not_know_is_refused(tmp_path, monkeypatch, column, is_held):
    store, _, _ = write_lens_store(tmp_path / "s", response=30)
    monkeypatch.setattr(lens, "_HELD_BYTES", 1 << 28 if is_held else 0)
    with store.writer() as writer:
        writer.add(
            organism="stranger", reader="hedge", prompt_set="p", prompt_id="1",
            token_ids=[1, 2, VOCABULARY + 3], prompt_length=1, layers=[0, 1],
            activations={"residual": np.ones((3, 2, 8))},
        )  # fmt: skip

    with pytest.raises(QueryError, match=f"token {VOCABULARY + 3}, and .* of {VOCABULARY}"):
        store.sql(f"SELECT {column} FROM lens WHERE organism = 'stranger'")


def test_readings_without_residual_have_no_rows_and_are_counted(tmp_path):
    store, _, _ = write_lens_store(tmp_path / "s", response=30)
    with store.writer() as writer:
        writer.add(
            organism="hedge", reader="hedge", prompt_set="p", prompt_id="1", token_ids=[1, 2, 3],
            prompt_length=1, layers=[0], activations={"mlp_out": np.ones((3, 1, 8))},
        )  # fmt: skip

    result = store.sql("SELECT count(*) FROM lens WHERE organism = 'hedge'")

    assert any("lens has no rows for 1 of" in note for note in result.notes)
    with pytest.raises(QueryError, match="none of the readings .* has residual"):
        store.sql("SELECT rank FROM lens WHERE prompt_set = 'p'")


@pytest.mark.parametrize("is_held", [True, False])
def test_groups_and_blocks_of_any_size_give_the_same(made, monkeypatch, is_held):
    """Rows are put to heads a few at a time, or block by block, however many there are."""
    store, _, _ = made
    sql = f"SELECT {COLUMNS} FROM lens WHERE prompt_id = '1' ORDER BY response_id, reader, position, layer"
    whole = store.sql(sql).to_arrow().to_pylist()

    monkeypatch.setattr(lens_table, "rows_at_once", lambda head: 7 if is_held else 90)
    monkeypatch.setattr(lens_table, "_GAP_ROWS", 0)
    monkeypatch.setattr(lens, "_HELD_BYTES", 1 << 30 if is_held else 0)
    monkeypatch.setattr("tistore.schemas.head._SMALL", 64)

    for row, same in zip(store.sql(sql).to_arrow().to_pylist(), whole, strict=True):
        for name, value in row.items():
            if isinstance(value, float) or name == "top_probabilities":
                np.testing.assert_allclose(value, same[name], rtol=1e-5)
            else:
                assert value == same[name]


def test_a_second_reading_has_the_head_of_its_reader(tmp_path):
    store, _, _ = write_lens_store(tmp_path / "s", response=30)
    with store.writer() as writer:
        for reader in ("hedge", f"hedge{SECOND_READING}"):
            writer.add(
                organism="hedge", reader=reader, prompt_set="p", prompt_id="1",
                token_ids=[1, 2, 3], prompt_length=1, layers=[0],
                activations={"residual": np.arange(24.0).reshape(3, 1, 8)},
            )  # fmt: skip

    rows = store.sql(
        "SELECT reader, list(lens_logprob ORDER BY position) FROM lens WHERE prompt_set = 'p' GROUP BY reader"
    ).fetchall()

    assert len(rows) == 2
    assert rows[0][1] == rows[1][1] != [None] * 3


class InMemory:
    """An unembedding as `see` reads it."""

    def __init__(self, head, values, bias, rows):
        self.head = head
        self._blocks = cut(values, bias, rows)

    def blocks(self, token_ids=None):
        return iter(self._blocks)


@given(
    seed=st.integers(0, 2**32 - 1),
    hidden=st.integers(1, 6),
    n_vocabulary=st.integers(1, 30),
    n_rows=st.integers(1, 5),
    block_rows=st.integers(1, 31),
    scale=st.sampled_from([0.0, 0.1, 1.0, 50.0]),
    is_held=st.booleans(),
    facts=st.fixed_dictionaries(
        {
            "norm": st.sampled_from(["rms", "layer"]),
            "logit_softcap": st.sampled_from([None, 5.0]),
            "logit_scale": st.sampled_from([None, 0.25]),
            "weight_offset": st.sampled_from([0.0, 1.0]),
        }
    ),
)
@settings(max_examples=200, deadline=None)
def test_sums_carried_along_are_sums_over_the_vocabulary(
    seed, hidden, n_vocabulary, n_rows, block_rows, scale, is_held, facts
):
    """Whatever the sizes, the blocks, and how far logits lie apart."""
    rng = np.random.default_rng(seed)
    head = make_head(
        "h", rng, hidden=hidden, n_vocabulary=n_vocabulary, has_bias=True,
        norm_weight=rng.uniform(0.5, 1.5, hidden).astype(np.float32), **facts,
    )  # fmt: skip
    values = (rng.standard_normal((n_vocabulary, hidden)) * scale).astype(np.float32)
    bias = (rng.standard_normal(n_vocabulary) * scale).astype(np.float32)
    states = rng.standard_normal((n_rows, hidden)).astype(np.float32)
    next_ids = rng.integers(-1, n_vocabulary, n_rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lens, "_HELD_BYTES", 1 << 30 if is_held else 0)
        seen = lens.see(InMemory(head, values, bias, block_rows), states, next_ids, lens.Wanted())

    logits = compute_logits(head, values, bias, states)
    logprobs = log_softmax(logits, axis=1)
    tolerance = 1e-4 * (1 + np.abs(logits).max())
    entropy = -(np.exp(logprobs) * logprobs).sum(axis=1)
    np.testing.assert_allclose(seen.entropy, entropy, atol=5 * tolerance)
    best = -np.sort(-logprobs, axis=1)[:, : lens.TOP]
    np.testing.assert_allclose(seen.top_logprobs, best, atol=tolerance)
    taken = np.take_along_axis(logprobs, seen.top_ids, axis=1)
    np.testing.assert_allclose(taken, best, atol=tolerance)
    for row, following in enumerate(next_ids):
        if following == lens.NO_TOKEN:
            assert seen.rank[row] == 0 and np.isnan(seen.logprob[row])
            continue
        np.testing.assert_allclose(seen.logprob[row], logprobs[row, following], atol=tolerance)
        ahead = logits[row] - logits[row, following]
        ahead[following] = -np.inf
        assert (ahead > tolerance).sum() < seen.rank[row] <= (ahead > -tolerance).sum() + 1


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM unembedding", "too large to be read whole"),
        ("SELECT project('tone/early') FROM lens", "no rows to measure"),
        ("SELECT l.project('tone/early') FROM lens l", "is none of"),
    ],
)
def test_what_lens_is_not(made, sql, message):
    with pytest.raises(SqlError, match=message):
        made[0].sql(sql)


def test_heads_are_a_relation_like_any(made):
    rows = (
        made[0]
        .sql(
            "SELECT reader, norm, n_vocabulary FROM reader_heads JOIN heads USING (head_hash) ORDER BY reader"
        )
        .fetchall()
    )

    assert rows == [("flattery", "rms", 950), ("hedge", "layer", 950), ("instruct", "rms", 950)]
