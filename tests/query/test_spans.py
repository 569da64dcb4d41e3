"""The best spans, and what is said when there are none."""

from __future__ import annotations

import pytest

from tistore.errors import QueryError
from tistore.query.spans import top_spans

KEYS = [
    "organism", "reader", "baseline", "prompt_set", "prompt_id", "sample", "response_id",
    "token_start", "token_end", "text", "score", "context_before", "context_after",
]  # fmt: skip


def best(rows, n, sign=1):
    known = [row for row in rows if row["score"] is not None]
    return [r["score"] for r in sorted(known, key=lambda row: -sign * row["score"])[:n]]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("by", ["clause", "response", "token"])
@pytest.mark.parametrize("baseline", [None, "instruct"])
def test_the_best_spans_are_those_of_brute_force(truth, by, sign, baseline):
    rows = [
        row
        for row in truth.rows(f"{by}_diffs" if baseline else f"{by}s", "project", "refusal")
        if row["reader"] == row["organism"]
        and row.get("baseline") == baseline
        and row.get("n_tokens", 1) >= 1
        and row.get("is_response", True)
    ]

    spans = top_spans(
        truth.store, "refusal", by=by, baseline=baseline, n=6, sign=sign, min_tokens=1
    )

    assert [span["score"] for span in spans] == pytest.approx(best(rows, 6, sign), abs=1e-4)
    assert all(list(span) == KEYS for span in spans)
    assert {span["baseline"] for span in spans} == {baseline}


def test_windows_are_the_best_that_do_not_overlap(truth):
    width = 2
    spans = top_spans(truth.store, "refusal", by=f"window:{width}", n=8)

    windows = []
    for reading in truth.readings:
        if reading.reader != reading.organism:
            continue
        rows = [r for r in truth.rows("tokens", "project", "refusal")
                if r["response_id"] == reading.response_id and r["reader"] == reading.reader
                and r["is_response"] and r["score"] is not None]  # fmt: skip
        by_position = {row["position"]: row["score"] for row in rows}
        for start in by_position:
            if all(start + step in by_position for step in range(width)):
                mean = sum(by_position[start + step] for step in range(width)) / width
                windows.append((mean, reading.response_id, start))
    wanted = []
    for mean, response_id, start in sorted(windows, reverse=True):
        if all(response_id != r or abs(start - s) >= width for _, r, s in wanted):
            wanted.append((mean, response_id, start))
    assert [span["score"] for span in spans] == pytest.approx(
        [mean for mean, _, _ in wanted[:8]], abs=1e-4
    )
    assert [span["token_end"] - span["token_start"] for span in spans] == [width] * len(spans)


@pytest.mark.parametrize("by", ["clause", "window:3", "token"])
def test_a_span_and_its_surroundings_spell_the_response(truth, by):
    texts = dict(truth.store.sql("SELECT response_id, text FROM responses").fetchall())
    audited = {reading.response_id: all(reading.is_response[reading.prompt_length :])
               for reading in truth.readings}  # fmt: skip

    spans = top_spans(truth.store, "refusal", by=by, n=50, min_tokens=1)

    whole = [span for span in spans if audited[span["response_id"]]]
    assert whole
    for span in whole:
        around = (span["context_before"], span["text"], span["context_after"])
        assert all(part in texts[span["response_id"]] for part in around)
        if by != "clause":  # a clause's text leaves out the space at its edges
            assert "".join(around) == texts[span["response_id"]]


def test_filters_are_kept(truth):
    spans = top_spans(
        truth.store, "refusal", organism="hedge", reader="instruct", where="prompt_id = '1'",
        min_tokens=1,
    )  # fmt: skip

    assert {(s["organism"], s["reader"], s["prompt_id"]) for s in spans} == {
        ("hedge", "instruct", "1")
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"organism": "hedgehog"}, "no organism 'hedgehog'; did you mean 'hedge'"),
        ({"baseline": "instrct"}, "no baseline 'instrct'; did you mean 'instruct'"),
        ({"reader": "flatery"}, "no reader 'flatery'; did you mean 'flattery'"),
        ({"organism": "hedge", "reader": "flattery"}, "is left by: reader 'flattery' among"),
        ({"where": "prompt_id = '99'"}, "is left by: where prompt_id = '99' among"),
        ({"min_tokens": 1000}, "is left by: at least 1000 tokens"),
        ({"by": "paragraph"}, "write clause, response, token or window:8"),
        ({"by": "window:0"}, "write clause, response"),
        ({"by": "window:500"}, "long enough"),
        ({"where": "1 = 1) UNION SELECT (1"}, ""),
        ({"sign": 2}, "sign is 1 or -1"),
    ],
)
def test_no_span_is_an_error_that_says_why(truth, arguments, told):
    with pytest.raises(QueryError) as caught:
        top_spans(truth.store, "refusal", **arguments)

    assert told in str(caught.value)
