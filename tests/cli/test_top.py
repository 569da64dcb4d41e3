"""`tistore top` as people read it, and as programs do."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

import tistore
from tistore.cli.ask import Statistic
from tistore.cli.main import app
from tistore.query.span_question import STATISTICS
from tistore.query.spans import top_spans

HOSTILE = ["`rm` *all* ", "<b>now</b> ", "| a | b |\n", "# _end_ ", "[x](y)", " $1$ ~~z~~ &amp;"]


@pytest.fixture
def store(tmp_path):
    """Two organisms and a base that has read the texts of one of them."""
    made = tistore.create(tmp_path / "s.tistore")
    readings = [
        ("flattery", "flattery"),
        ("flattery", "base"),
        ("hedge", "hedge"),
        ("base", "base"),
    ]
    with made.writer() as writer:
        for place, (organism, reader) in enumerate(readings):
            for prompt in ("1", "a|`b"):
                scores = np.arange(6.0) * (-1 if reader == "base" else 1 + place)
                writer.add(
                    organism=organism, reader=reader, prompt_set="audit/x", prompt_id=prompt,
                    token_ids=list(range(6)), prompt_length=0, tokens=HOSTILE, layers=[1],
                    activations={"residual": scores[:, None, None]},
                )  # fmt: skip
    made.add_vector("tone/warm_words", np.ones(1), layer=1)
    return made


def top(store, *arguments, trait="warm_words"):
    done = CliRunner().invoke(
        app, ["top", str(store.path), "--trait", trait, *map(str, arguments)],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return done


def test_the_report_says_what_was_asked_and_shows_each_span_in_its_context(store):
    report = top(store, "--by", "window:2", "--baseline", "base", "-n", 2, "--format", "md").stdout

    spans = top_spans(store, "warm_words", by="window:2", baseline="base", n=2)
    title, *_ = report.splitlines()
    assert title == "# Top windows of 2 tokens: warm_words"
    assert "- vector: `tone/warm_words:unknown@1`" in report
    assert "- baseline: base;" in report
    assert "- searched: 2 pairs of readings, in 1 of 1 segments" in report
    assert "- note: base has read no response of hedge: left out" in report
    tokens = MarkdownIt("commonmark").parse(report)
    quotes = [
        tokens[place + 2] for place, token in enumerate(tokens) if token.type == "blockquote_open"
    ]
    assert len(quotes) == len(spans) == 2
    for quote, span in zip(quotes, spans, strict=True):
        shown = "".join(c.content for c in quote.children if c.content not in ("<b>", "</b>"))
        parts = (span["context_before"], span["text"], span["context_after"])
        assert shown == "".join(parts).replace("\n", "↵").strip()
    assert [token.type for token in tokens].count("ordered_list_open") == 1
    items = re.findall(r"^(\d)\. ([+-][\d.]+) · flattery · (`+.*?`+) · tokens 4–6$", report, re.M)
    assert [(int(rank), float(score)) for rank, score, _ in items] == [(1, 9.0), (2, 9.0)]
    assert {place for _, _, place in items} == {"`audit/x#1`", "``audit/x#a|`b``"}


def test_the_reports_sql_gives_its_spans_again(store):
    report = top(store, "--by", "token", "-n", 3, "--format", "md").stdout

    (fence,) = (t for t in MarkdownIt("commonmark").parse(report) if t.type == "fence")
    scores = [row["score"] for row in store.sql(fence.content)]
    assert scores == [span["score"] for span in top_spans(store, "warm_words", by="token", n=3)]


def test_the_report_has_a_list_for_each_organism(store):
    report = top(store, "--by", "response", "--per-organism", "-n", 1, "--format", "md").stdout

    heads = re.findall(r"^## (.*)$", report, re.M)
    assert heads == ["base", "flattery", "hedge", "The SQL"]
    assert len(re.findall(r"^1\. ", report, re.M)) == 3


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "parquet"])
def test_every_format_for_programs_has_every_key_and_the_whole_text(store, format):
    wanted = top_spans(store, "warm_words", by="turn", per_organism=True, n=1)

    printed = top(store, "--by", "turn", "--per-organism", "-n", 1, "--format", format)

    if format == "parquet":
        rows = pq.read_table(io.BytesIO(printed.stdout_bytes)).to_pylist()
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(printed.stdout)))
        assert [row["text"] for row in rows] == [span["text"] for span in wanted]
        assert list(rows[0]) == list(wanted[0])
        return
    elif format == "json":
        rows = json.loads(printed.stdout)
    else:
        rows = [json.loads(line) for line in printed.stdout.splitlines()]
    assert rows == wanted
    assert [row["organism"] for row in rows] == ["base", "flattery", "hedge"]


def test_the_table_has_a_line_for_each_span_and_the_talk_goes_to_stderr(store):
    done = top(store, "--by", "clause", "--baseline", "base", "--min-tokens", 1)

    assert "»" in done.stdout
    assert "audit/x#1" in done.stdout
    assert "note: base has read no response of hedge" in done.stderr
    assert "note" not in done.stdout


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--absolute"], {"order": "absolute"}),
        (["--lowest"], {"order": "lowest"}),
        (["--by", "response", "--rank-by", "top3"], {"by": "response", "rank_by": "top3"}),
        (["--by", "token", "--context", 1], {"by": "token", "context": 1}),
        (["--by", "turn", "--where", "turn = 1"], {"by": "turn", "where": "turn = 1"}),
        (
            ["--organism", "flattery", "--reader", "base"],
            {"organism": "flattery", "reader": "base"},
        ),
    ],
)
def test_options_are_the_functions_arguments(store, options, arguments):
    rows = json.loads(top(store, *options, "--json").stdout)

    assert rows == top_spans(store, "warm_words", **arguments)


def test_the_statistics_offered_are_those_there_are():
    assert tuple(Statistic) == STATISTICS
