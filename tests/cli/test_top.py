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
from tistore.audit.log import read_analyses
from tistore.audit.spans.choice import SpanChoice
from tistore.audit.spans.cofiring import find_cofiring
from tistore.audit.spans.oddness import find_odd_prompts
from tistore.audit.spans.search import find_top
from tistore.cli.main import app
from tistore.cli.top import Statistic, split_traits
from tistore.errors import TistoreError
from tistore.query.span_question import STATISTICS, SpanQuestion
from tistore.query.spans import top_spans
from tistore.schemas.prompt import Prompt

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
    wanted = find_top(store, SpanQuestion("warm_words", by="turn", per_organism=True, n=1)).rows

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
    ("options", "question", "arguments"),
    [
        (["--absolute"], {"order": "absolute"}, {}),
        (["--lowest"], {"order": "lowest"}, {}),
        (["--by", "response", "--rank-by", "top3"], {"by": "response", "rank_by": "top3"}, {}),
        (["--by", "token", "--context", 1], {"by": "token"}, {"context": 1}),
        (["--by", "turn", "--where", "turn = 1"], {"by": "turn", "where": "turn = 1"}, {}),
        (
            ["--organism", "flattery", "--reader", "base"],
            {"organism": "flattery", "reader": "base"},
            {},
        ),
        (["--both", "--dedupe"], {}, {"choice": SpanChoice(both=True, dedupe=True)}),
        (
            ["--quantiles", "--seed", 5, "--by", "token", "-n", 2],
            {"by": "token", "n": 2},
            {"choice": SpanChoice(quantiles=True, seed=5)},
        ),
        (["--prose", "--per-prompt", 1], {}, {"choice": SpanChoice(prose=True, per_prompt=1)}),
    ],
)
def test_options_are_the_functions_arguments(store, options, question, arguments):
    rows = json.loads(top(store, *options, "--json").stdout)

    assert rows == find_top(store, SpanQuestion("warm_words", **question), **arguments).rows


def test_the_statistics_offered_are_those_there_are():
    assert tuple(Statistic) == STATISTICS


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Three organisms of enough tokens for everything, two traits, and a log."""
    rng = np.random.default_rng(5)
    made = tistore.create(tmp_path_factory.mktemp("long") / "s.tistore")
    words = ["so ", "warm, ", "*it* ", "is. ", "# Now\n", "<bos>", "go; ", "on "]
    with made.writer() as writer:
        for organism in ("flattery", "hedge", "film", "instruct"):
            for prompt in range(12):
                tokens = [str(word) for word in rng.choice(words, 40)]
                values = rng.standard_normal((40, 1, 2))
                values[rng.integers(0, 40)] += 5
                writer.add(
                    organism=organism, reader=organism, prompt_set="audit/x",
                    prompt_id=str(prompt), token_ids=list(range(40)), prompt_length=0,
                    tokens=tokens, layers=[1], activations={"residual": values},
                    prompt=Prompt("audit/x", str(prompt), f"What of <{prompt}>?"),
                )  # fmt: skip
    made.add_vector("tone/warm_words", np.array([1.0, 0.0]), layer=1)
    made.add_vector("tone/wary", np.array([0.0, 1.0]), layer=1)
    return made


def test_a_table_has_score_and_z_and_what_was_asked_for(long):
    plain = top(long, "-n", 2).stdout
    rich = top(
        long, "-n", 2, "--both", "--dedupe", "--with-answer", "--standardise", "--quantiles"
    ).stdout

    assert {"score", "z"} <= set(plain.split())
    assert not {"band", "alike", "answer"} & set(plain.split())
    assert {"score", "z", "band", "alike", "answer"} <= set(rich.split())
    assert re.findall(r"^ (top|bottom|middle|random) ", rich, re.M) == [
        band for band in ("top", "bottom", "middle", "random") for _ in range(2)
    ]


def test_the_report_has_a_part_for_each_band_and_says_what_was_kept(long):
    report = top(
        long, "--both", "--quantiles", "--standardise", "--prose", "--dedupe", "--per-prompt", 1,
        "--with-answer", "-n", 2, "--format", "md",
    ).stdout  # fmt: skip

    assert re.findall(r"^### (.*)$", report, re.M) == [
        "Highest", "Lowest", "From the middle", "At random",
    ]  # fmt: skip
    assert "by z (how far off for so many tokens) of the mean score, highest first" in report
    assert (
        "- kept: prose: no headings, code, list markers or template text; of texts that read "
        "nearly alike, the strongest; of each prompt, 1 at most" in report
    )
    assert len(re.findall(r"^\d\. .* · z [+-]", report, re.M)) == 8
    answers = re.findall(r"^ +the baseline's own answer there: (.*)$", report, re.M)
    assert len(answers) == 8
    assert not any("<bos>" in answer for answer in answers)
    html = MarkdownIt("commonmark").render(report)
    assert "<bos>" not in html and "<h1>Now" not in html


def test_cofiring_prints_what_fired_and_how_many_traits_there_are(long):
    found = find_cofiring(
        long, SpanQuestion("warm_words", by="token", n=3), ["warm_words", "wary"], SpanChoice()
    )

    named = top(long, "--by", "token", "--cofire", "-n", 3, "--json", "--trait", "wary")
    listed = CliRunner().invoke(
        app,
        ["top", str(long.path), "--traits", "warm_words, wary", "--cofire", "--by", "token",
         "-n", "3", "--json"],
    )  # fmt: skip

    assert json.loads(listed.stdout) == json.loads(named.stdout) == found.rows
    assert f"count for {found.n_effective:.1f} by their correlations" in listed.stderr
    shown = top(long, "--by", "token", "--cofire", "-n", 3, "--trait", "wary").stdout
    assert {"traits", "alike"} <= set(shown.split())


def test_that_nothing_fires_together_is_an_answer_and_a_look_that_is_logged(long):
    twice = "warm_words,tone/warm_words"
    arguments = ["top", str(long.path), "--traits", twice, "--cofire", "--by", "token"]

    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)

    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    assert CliRunner().invoke(app, [*arguments, "--format", "csv"]).stdout == ""
    n_spans = int(re.search(r"0 of (\d+) spans have 2 traits", done.stderr)[1])
    assert read_analyses(long)[-1].n_cells == 2 * n_spans > 0


def test_a_store_without_texts_says_that_it_has_no_clauses(tmp_path):
    made = tistore.create(tmp_path / "silent.tistore")
    with made.writer() as writer:
        writer.add(
            organism="a", reader="a", prompt_set="audit/x", prompt_id="1", token_ids=[1, 2, 3, 4],
            prompt_length=1, layers=[1], activations={"residual": np.ones((4, 1, 1))},
        )  # fmt: skip
    made.add_vector("tone/warm_words", np.ones(1), layer=1)

    done = CliRunner().invoke(app, ["top", str(made.path), "--trait", "warm_words"])

    assert isinstance(done.exception, TistoreError)
    assert "holds no text" in str(done.exception) and "window:10" in str(done.exception)
    assert json.loads(top(made, "--by", "window:2", "--json").stdout)[0]["text"] is None


def test_prompts_are_ranked_by_all_traits_unless_some_are_named(long):
    every = find_odd_prompts(long, n=4, with_answer=True)
    arguments = ["top", str(long.path), "--by", "prompt", "-n", "4"]

    printed = CliRunner().invoke(app, [*arguments, "--with-answer", "--json"])
    one = CliRunner().invoke(app, [*arguments, "--trait", "wary", "--json"])
    table = CliRunner().invoke(app, arguments)

    assert json.loads(printed.stdout) == every.rows
    assert json.loads(one.stdout) == find_odd_prompts(long, ["wary"], n=4).rows
    logged = read_analyses(long)
    assert logged[-3].n_traits == len(logged[-3].vectors) == len(long.snapshot.vectors()) > 1
    assert logged[-2].vectors == (long.vector("wary").reference,)
    assert {"distance", "percentile", "traits", "asked"} <= set(table.stdout.split())
    assert f"What of <{every.rows[0]['prompt_id']}>?" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "name one: --trait tone/warm_words"),
        (["--traits", "warm_words,wary"], 2, "several go with --cofire and --by prompt"),
        (["--trait", "wary", "--lowest", "--absolute"], 2, "two orders"),
        (["--by", "prompt", "--dedupe", "--reader", "hedge"], 2, "--reader, --dedupe do not go"),
        (["--trait", "wary", "--families", "x"], 2, "--families goes with --by prompt"),
        (["--trait", "wary", "--cofire"], 1, "cannot fire together"),
        (["--by", "prompt", "--trait", "wry"], 1, "did you mean"),
    ],
)
def test_what_does_not_go_together_is_told(long, arguments, code, told):
    done = CliRunner().invoke(app, ["top", str(long.path), *arguments])

    assert isinstance(done.exception, TistoreError)
    assert (done.exception.exit_code, done.stdout) == (code, "")
    assert told in str(done.exception)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (None, []),
        ("a,b", ["a", "b"]),
        (" a , b@26 ,", ["a", "b@26"]),
        ("refusal without 443, 1802, tone/warm", ["refusal without 443, 1802", "tone/warm"]),
    ],
)
def test_traits_are_split_at_commas_that_do_not_list_dimensions(written, names):
    assert split_traits(written) == names


def test_every_question_is_logged_with_the_cells_it_looked_at(long):
    n_clauses = len(top_spans(long, "wary", n=10**6))
    before = len(read_analyses(long))

    top(long, "-n", 2)
    top(long, "-n", 2, "--both", "--standardise", "--min-tokens", 3)
    CliRunner().invoke(app, ["top", str(long.path), "--by", "prompt"])

    logged = read_analyses(long)[before:]
    assert [(one.command, one.n_cells, one.n_rows) for one in logged] == [
        ("top", n_clauses, 2), ("top", n_clauses, 4), ("top", 3 * 12 * 2, 20),
    ]  # fmt: skip
