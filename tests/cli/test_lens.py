"""`tistore lens` as people read it, and as programs do."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from lens_store import write_lens_store
from tistore.cli.main import app
from tistore.errors import ConfigError, QueryError, ReadBudgetError, SqlError
from tistore.query.lens_question import LensQuestion, look


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made, _, _ = write_lens_store(tmp_path_factory.mktemp("lens") / "s", response=40)
    return made


def lens(store, *arguments):
    return CliRunner().invoke(
        app, ["lens", str(store.path), *map(str, arguments)], catch_exceptions=False
    )


def test_json_is_the_relations_own_numbers(store):
    done = lens(store, "--organism", "hedge", "--prompt-id", 1, "--layer", 5, "-k", 3, "--json")

    rows = json.loads(done.stdout)
    sql = "SELECT position, rank, top_tokens[1:3] FROM lens WHERE organism = 'hedge' AND reader = 'hedge' AND prompt_id = '1' AND layer = 5 ORDER BY position"  # noqa: E501
    expected = store.sql(sql).fetchall()
    assert [(row["position"], row["rank"], row["top_tokens"]) for row in rows] == expected
    assert list(rows[0]) == [
        "organism", "reader", "prompt_set", "prompt_id", "sample", "response_id", "position",
        "token", "layer", "next_token", "next_token_id", "rank", "probability", "entropy",
        "top_tokens", "top_token_ids", "top_probabilities",
    ]  # fmt: skip


def test_a_table_has_a_line_for_each_token_and_layer(store):
    done = lens(
        store, "--organism", "flattery", "--reader", "instruct", "--prompt-set", "audit/discovery",
        "--prompt-id", 0, "--sample", 0, "--layer", "2,5", "--position", "10-12,20",
        "--where", "is_response", "-k", 2,
    )  # fmt: skip

    lines = done.stdout.strip().splitlines()[2:]
    assert len(lines) == 2 * 2  # positions 10 and 20 are not under audit
    assert all("flattery read by instruct" in line for line in lines)
    assert all("audit/discovery#0" in line for line in lines)
    assert all(line.count("'<") == 3 for line in lines)  # the next token, and two likeliest


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"organism": "flatery"}, "no organism 'flatery'; did you mean 'flattery'"),
        ({"reader": "nobody"}, "no reader 'nobody'"),
        ({"prompt_id": "77"}, "no prompt_id '77'"),
        ({"layers": "3"}, "no layer 3 in this store; it has 2, 5"),
        ({"layers": "two"}, "'two' is no layer"),
        ({"positions": "9-4"}, "'9-4' is no position"),
        ({"positions": "4000"}, "there is no row of position 4000 among texts read by their own"),
        ({"k": 11}, "k is 1 to 10"),
        ({"where": "rank > 10000"}, "there is no row of where rank > 10000"),
        ({"organism": "hedge", "reader": "flattery"}, "there is no row of reader 'flattery' among"),
    ],
)
def test_what_is_not_there_is_named(store, question, message):
    with pytest.raises(QueryError) as refused:
        look(store, LensQuestion(**question))

    assert message in str(refused.value)


def test_a_condition_is_one_condition():
    with pytest.raises(SqlError):
        LensQuestion(where="true; DROP TABLE x")


def test_a_comment_in_the_condition_ends_with_it(store):
    found = look(store, LensQuestion(where="position = 9 -- no more", layers="2"))

    assert {row["position"] for row in found.rows} == {9}


def test_the_budget_can_be_set(store):
    with pytest.raises(ReadBudgetError):
        lens(store, "--max-multiply-adds", "1e3")


@pytest.mark.parametrize("given", ["nan", "-1", "0"])
def test_a_budget_that_is_no_number_is_refused_and_not_taken_for_none(store, given):
    for arguments in (["lens", store.path], ["sql", store.path, "SELECT 1"]):
        done = CliRunner().invoke(app, [*map(str, arguments), "--max-multiply-adds", given])

        assert isinstance(done.exception, ConfigError)


def test_sql_can_be_given_the_budget_that_its_refusal_names(store):
    arguments = ["sql", str(store.path), "SELECT max(rank) FROM lens"]

    refused = CliRunner().invoke(app, [*arguments, "--max-multiply-adds", "10"])
    done = CliRunner().invoke(app, [*arguments, "--max-multiply-adds", "1e12"])

    assert "--max-multiply-adds" in refused.exception.mend
    assert done.exit_code == 0
