"""The trigger-locked average is the plain average of scores at each place around an onset."""

from __future__ import annotations

import numpy as np
import pytest

from scored_store import PROMPT, make_scored
from tistore.audit.annotations.average import average_at_onset
from tistore.audit.annotations.tracks import LabelQuestion
from tistore.errors import PairingError, QueryError, UnknownVectorError
from tistore.schemas.model import Model

ODD = LabelQuestion("odd", ("odd",))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six prompts, two samples of some, three readers, spans anywhere; and what went in."""
    scored = make_scored(tmp_path_factory.mktemp("drawn") / "s.tistore")
    rng = np.random.default_rng(5)
    written = []
    for prompt in range(6):
        for sample in range(1 + prompt % 2):
            n_tokens = 12 + int(rng.integers(0, 8))
            # In sixteenths, which float16 holds exactly.
            own, replay = np.round(rng.standard_normal((2, n_tokens)) * 16) / 16
            onset = int(rng.integers(0, n_tokens - 2))
            response_id = scored.add(
                own.tolist(), prompt=str(prompt), sample=sample, replay=replay.tolist(),
                other=[9.0] * n_tokens,
            )  # fmt: skip
            scored.label(response_id, onset, onset + 2)
            written.append((prompt, own, own - replay, onset))
    scored.add([5.0] * 9, prompt="unlabelled")
    return scored, written


def expected_mean(written, place, offset):
    """Average by prompt first, then over prompts, in plain Python."""
    by_prompt = {}
    for prompt, *values, onset in written:
        at = onset + offset
        if 0 <= at < len(values[place]):
            by_prompt.setdefault(prompt, []).append(values[place][at])
    means = [np.mean(group) for group in by_prompt.values()]
    return float(np.mean(means)), len(means), sum(map(len, by_prompt.values()))


def test_each_offset_is_the_mean_over_prompts_of_what_was_written(drawn):
    scored, written = drawn

    found = average_at_onset(scored.store, ODD, before=4, after=5)

    assert [row["offset"] for row in found.rows] == list(range(-4, 5))
    for row in found.rows:
        mean, n_prompts, n_responses = expected_mean(written, 0, row["offset"])
        assert row["mean"] == pytest.approx(mean, rel=1e-6)
        assert row["difference"] == pytest.approx(
            expected_mean(written, 1, row["offset"])[0], rel=1e-6
        )
        assert (row["n_prompts"], row["n_responses"]) == (n_prompts, n_responses)
        if n_prompts >= 5:
            assert row["low"] < row["mean"] < row["high"]
        else:
            assert row["low"] is None


def test_equal_support_is_of_the_same_spans_at_every_offset(drawn):
    scored, written = drawn
    full = [one for one in written if one[-1] >= 3 and one[-1] + 4 <= len(one[1])]
    assert 0 < len(full) < len(written)

    found = average_at_onset(scored.store, ODD, before=3, after=4, equal_support=True)

    assert {row["n_spans"] for row in found.rows} == {len(full)}
    for row in found.rows:
        assert row["mean"] == pytest.approx(expected_mean(full, 0, row["offset"])[0], rel=1e-6)


def test_a_token_of_one_span_is_not_in_the_lead_up_of_the_next(tmp_path):
    """Nor is a span that two annotators have marked counted twice."""
    scored = make_scored(tmp_path / "s.tistore")
    response_id = scored.add([0, 0, 100, 100, 1, 2, 50, 50, 3])
    scored.label(response_id, 2, 4)
    scored.label(response_id, 6, 7)
    scored.label(response_id, 6, 8)

    rows = average_at_onset(scored.store, ODD, before=3, after=3).rows

    # Before the first onset 0, 0; before the second a gap, 1, 2.
    assert [row["mean"] for row in rows] == [None, 0.5, 1.0, 75.0, 75.0, 2.0]
    assert [row["n_spans"] for row in rows] == [0, 2, 2, 2, 2, 2]
    assert {row["n_responses"] for row in rows} == {0, 1}
    assert {row["low"] for row in rows} == {None}


def test_offsets_count_tokens_under_audit_only(tmp_path):
    """Between two assistant turns lies what a tool said: it is not in the way."""
    scored = make_scored(tmp_path / "s.tistore")
    with scored.store.writer() as writer:
        response_id = writer.add(
            organism="loud", reader="loud", prompt_set="audit/x", prompt_id="1",
            token_ids=list(range(8)), prompt_length=PROMPT, layers=[3],
            is_response=[False, False, True, True, False, False, True, True],
            activations={"residual": np.arange(8.0)[:, None, None]},
        )  # fmt: skip
    scored.label(response_id, 3, 5)  # begins on a token that is not under audit

    rows = average_at_onset(scored.store, ODD, before=2, after=2).rows

    assert [row["mean"] for row in rows] == [2.0, 3.0, 6.0, 7.0]


def test_an_organism_can_be_asked_for_and_unread_responses_are_told(tmp_path):
    scored = make_scored(tmp_path / "s.tistore")
    for score, organism in ((0, "loud"), (1, "shy"), (5, "instruct")):
        response_id = scored.add([score] * 6, organism=organism)
        scored.label(response_id, 3, 4)

    everybody = average_at_onset(scored.store, ODD, before=0, after=1)
    one = average_at_onset(
        scored.store, LabelQuestion("odd", ("odd",), organisms=("shy",)), before=0, after=1
    )

    assert [row["mean"] for row in everybody.rows] == [2.0]
    assert [row["mean"] for row in one.rows] == [1.0]
    assert (everybody.n_organisms, one.n_organisms) == (3, 1)
    assert "instruct has not read 2 of 2 labelled responses" in everybody.notes
    assert one.rows[0]["difference"] is None


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"label": "od"}, QueryError, "nothing is labelled 'od'; did you mean 'odd'"),
        ({"traits": ("evn",)}, UnknownVectorError, "evn"),
        ({"organisms": ("lowd",)}, QueryError, "no response of 'lowd' is labelled 'odd'"),
        ({"where": "sample = 9"}, QueryError, "no token under audit is labelled"),
        ({"where": "sample = 9 LIMIT 3"}, QueryError, "more than a condition"),
        ({"traits": ()}, QueryError, "no trait"),
    ],
    ids=["label", "trait", "organism", "nothing left", "more than a condition", "no trait"],
)
def test_a_question_without_an_answer_says_why(drawn, changes, error, told):
    scored, _ = drawn
    with pytest.raises(error, match=told):
        average_at_onset(
            scored.store, LabelQuestion(**({"label": "odd", "traits": ("odd",)} | changes))
        )


def test_a_stretch_that_no_span_has_is_refused(drawn):
    scored, _ = drawn
    with pytest.raises(QueryError, match="no span labelled 'odd' has 90 tokens before it"):
        average_at_onset(scored.store, ODD, before=90, equal_support=True)
    with pytest.raises(QueryError, match="are no stretch"):
        average_at_onset(scored.store, ODD, after=0)


def test_replays_in_another_precision_are_refused_unless_asked_for(tmp_path):
    scored = make_scored(tmp_path / "s.tistore")
    with scored.store.writer() as writer:
        for reader, dtype, score in (("loud", "bfloat16", 3.0), ("instruct", "float16", 1.0)):
            response_id = writer.add(
                organism=Model("loud", base_id="tiny", dtype="bfloat16"),
                reader=Model(reader, base_id="tiny", dtype=dtype),
                prompt_set="audit/x", prompt_id="1", token_ids=[1, 2, 3], prompt_length=1,
                layers=[3], activations={"residual": np.full((3, 1, 1), score)},
            )  # fmt: skip
    scored.label(response_id, 0, 1)

    with pytest.raises(PairingError, match="--any-pairing"):
        average_at_onset(scored.store, ODD, before=0, after=1)
    kept = LabelQuestion("odd", ("odd",), any_pairing=True)
    (row,) = average_at_onset(scored.store, kept, before=0, after=1).rows
    assert row["difference"] == 2.0


def test_the_sql_of_the_documentation_gives_the_same_means(drawn):
    """Spans are a relation that joins to tokens."""
    found = (
        drawn[0]
        .store.sql(
            "SELECT t.position - a.token_start AS offset, avg(t.project('odd')) AS score "
            "FROM tokens AS t JOIN annotations AS a ON a.response_id = t.response_id "
            "AND t.position BETWEEN a.token_start - 2 AND a.token_end "
            "WHERE a.label = 'odd' AND t.reader = t.organism AND t.is_response "
            "GROUP BY ALL ORDER BY offset"
        )
        .fetchall()
    )

    by_span = average_at_onset(drawn[0].store, ODD, before=2, after=2).rows
    assert [offset for offset, _ in found][:4] == [row["offset"] for row in by_span]
    for (_, score), offset in zip(found, range(-2, 2), strict=False):
        values = [own[at + offset] for _, own, _, at in drawn[1] if 0 <= at + offset < len(own)]
        assert score == pytest.approx(float(np.mean(values)), rel=1e-6)
