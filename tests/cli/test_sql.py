"""`tistore sql`: limits, and answers of every type in every format."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tistore
from example_readings import HIDDEN, make_reading
from tistore.cli.main import app
from tistore.errors import ConfigError, TistoreError

FORMATS = ["table", "json", "jsonl", "csv", "parquet", "md"]

ODD = """
SELECT 'x'::blob AS bytes, [1, NULL, 3] AS list, {'a': 1, 'b': ['é']} AS struct,
  map {'k': 2} AS map,
  sum(n_tokens) AS whole, 1.5::decimal(4, 1) AS fraction, interval 3 day AS interval,
  timestamp '2024-01-02 10:00:00' AS time, 'nan'::double AS nan, NULL AS nothing, '' AS empty,
  'a|b' || chr(10) || '<i>' AS text
FROM responses
"""


@pytest.fixture
def store(tmp_path):
    made = tistore.create(tmp_path / "s.tistore")
    with made.writer() as writer:
        writer.add(**make_reading(0))
        writer.add(**make_reading(0, reader="instruct"))
    made.add_vector("tone/flattery", np.ones(HIDDEN), layer=5)
    return made


def sql(store, query, *options):
    return CliRunner().invoke(
        app, ["sql", str(store.path), query, *map(str, options)], catch_exceptions=True
    )


def test_json_has_lists_as_lists_and_the_rest_as_words(store):
    (row,) = json.loads(sql(store, ODD, "--json").stdout)

    assert row == {
        "bytes": "78",
        "list": [1, None, 3],
        "struct": {"a": 1, "b": ["é"]},
        "map": {"k": 2},
        "whole": 10,
        "fraction": 1.5,
        "interval": "0 months 3 days 0 seconds",
        "time": "2024-01-02 10:00:00",
        "nan": None,
        "nothing": None,
        "empty": "",
        "text": "a|b\n<i>",
    }


def test_json_is_laid_out_as_the_standard_library_does(store):
    query = "SELECT *, [1, 2] AS list FROM tokens"

    printed = sql(store, query, "--json").stdout

    rows = json.loads(printed)
    assert len(rows) == 10
    assert printed == json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def test_csv_has_lists_and_structs_as_json(store):
    (row,) = csv.DictReader(io.StringIO(sql(store, ODD, "--format", "csv").stdout, newline=""))

    assert json.loads(row["list"]) == [1, None, 3]
    assert json.loads(row["struct"]) == {"a": 1, "b": ["é"]}
    assert json.loads(row["map"]) == {"k": 2}
    assert (row["bytes"], row["whole"], row["fraction"]) == ("78", "10", "1.5")
    assert row["interval"] == "0 months 3 days 0 seconds"
    assert row["text"] == "a|b\n<i>"


def test_parquet_keeps_types(store):
    printed = sql(store, ODD, "--format", "parquet").stdout_bytes

    (row,) = pq.read_table(io.BytesIO(printed)).to_pylist()
    assert row["bytes"] == b"x"
    assert row["list"] == [1, None, 3]
    assert row["struct"] == {"a": 1, "b": ["é"]}
    assert row["whole"] == 10


@pytest.mark.parametrize("format", ["table", "md"])
def test_a_row_for_people_is_a_line(store, format):
    printed = sql(store, ODD, "--format", format).stdout

    (line,) = (line for line in printed.splitlines() if "10:00:00" in line)
    assert "a 1, b é" in line
    assert ("a|b↵<i>" if format == "table" else r"a\|b↵&lt;i&gt;") in line


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows_are_no_rows_in_every_format(store, format):
    done = sql(store, "SELECT reader, n_tokens FROM responses WHERE false", "--format", format)

    assert done.exit_code == 0
    if format == "parquet":
        table = pq.read_table(io.BytesIO(done.stdout_bytes))
        assert (table.num_rows, table.column_names) == (0, ["reader", "n_tokens"])
        return
    shown = {"table": "", "json": "[]\n", "jsonl": "", "csv": "reader,n_tokens\n",
             "md": "(no rows)\n"}  # fmt: skip
    assert done.stdout == shown[format]
    assert ("no rows" in done.stderr) == (format == "table")


def test_explain_prints_what_will_be_read_and_reads_nothing(store):
    query = "SELECT project('flattery') AS x FROM tokens WHERE reader = 'instruct'"

    (plan,) = [json.loads(sql(store, query, "--explain", "--json").stdout)]

    assert plan["vectors"] == ["tone/flattery:unknown@5"]
    assert plan["read_bytes"] > 0
    assert plan["relations"][0].startswith("tokens: 1 readings")
    assert sql(store, query, "--explain").exit_code == 0
    assert json.loads(sql(store, query, "--explain", "--json").stdout) == plan


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-read", "10"], "its budget is 10 B"),
        (["--max-read", "0.01kB"], "its budget is 10 B"),
        (["--max-read", "much"], "--max-read 'much' is no size"),
        (["--memory", "12"], "--memory '12' is too little"),
        (["--memory", "two"], "--memory 'two' is no size"),
        (["--timeout", "0"], "no length of time"),
    ],
)
def test_a_limit_is_kept_or_refused_by_name(store, options, told):
    done = sql(store, "SELECT project('flattery') FROM tokens", *options)

    assert isinstance(done.exception, TistoreError)
    assert told in str(done.exception)
    assert isinstance(done.exception, ConfigError) == ("budget" not in told)


def test_limits_that_suffice_change_nothing(store):
    query = "SELECT reader, project('flattery') AS x FROM responses ORDER BY 1"

    limited = sql(store, query, "--max-read", "1GB", "--memory", "200MB", "--timeout", 60, "--json")

    assert json.loads(limited.stdout) == json.loads(sql(store, query, "--json").stdout)


def test_memory_is_what_the_sql_may_use(store):
    done = sql(store, "SELECT list(a.token || b.token || c.token || d.token || e.token || f.token) "
               "FROM tokens a, tokens b, tokens c, tokens d, tokens e, tokens f",
               "--memory", "10MB")  # fmt: skip

    assert isinstance(done.exception, TistoreError)
    assert "emory" in str(done.exception)


def test_a_query_over_its_time_ends(store):
    names = [f"t{place}" for place in range(12)]
    endless = f"SELECT count(*) FROM {', '.join(f'tokens {name}' for name in names)} WHERE "
    endless += " + ".join(f"{name}.token_id" for name in names) + " = 7"
    script = (
        "import sys, time; from tistore.cli.main import main; "
        "print(time.monotonic(), file=sys.stderr, flush=True); main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, "sql", str(store.path), endless, "--timeout", "0.5"],
        capture_output=True,
        text=True,
    )
    ended = time.monotonic()

    started, *said = done.stderr.splitlines()
    assert done.returncode == 1
    assert "error: the query took longer than" in said[0]
    assert ended - float(started) < 20  # it would take for ever


def test_an_interrupted_query_ends_with_130_and_no_traceback(store):
    endless = "SELECT sum(a.range * b.range % 7) FROM range(1000000) a, range(1000000) b"
    code = (
        "import tistore.query.store; from tistore.cli.main import main; "
        "print('ready', flush=True); main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "sql", str(store.path), endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(2)

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in said
    assert "FATAL" not in said


def test_a_reader_that_goes_away_ends_csv_without_a_traceback(store):
    code = "from tistore.cli.main import main; main()"
    query = "SELECT range FROM range(300000)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "sql", str(store.path), query, "--format", "csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()

    said = process.stderr.read()
    process.wait(timeout=30)

    assert b"Traceback" not in said, said
