"""Clauses are found on characters and mapped to tokens."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tistore.datasets.clauses import align_tokens, split_clauses, split_clauses_incumbent


def clause_texts(text: str) -> list[str]:
    return [clause.text for clause in split_clauses(text, [(i, i + 1) for i in range(len(text))])]


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("Yes, of course. I agree!", ["Yes,", "of course.", "I agree!"]),
        ("Pi is 3.14 and 1,000 is more", ["Pi is 3.14 and 1,000 is more"]),
        ("See https://a.b/c?d=e; at 10:30.", ["See https://a.b/c?d=e;", "at 10:30."]),
        ('He said "no." Then left', ['He said "no."', "Then left"]),
        ("one\n\ntwo", ["one", "two"]),
        ("1. Mix\n2. Bake", ["1. Mix", "2. Bake"]),
        ("well-known – but dear—very", ["well-known –", "but dear—", "very"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("Wait... what?!", ["Wait...", "what?!"]),
        ("no end", ["no end"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_clauses_end_where_a_reader_would_pause(text, clauses):
    assert clause_texts(text) == clauses


pieces = st.lists(
    st.sampled_from(["a", " word", ",", ". ", "\n", " 3.1", "!", "”", " ", "é", "—", "?!\n\n", ""]),
    max_size=30,
)


@given(pieces)
def test_every_token_with_a_visible_character_is_in_exactly_one_clause(tokens):
    text = "".join(tokens)
    offsets = align_tokens(text, tokens)
    assert offsets is not None

    clauses = split_clauses(text, offsets)

    owners = [[c for c in clauses if c.token_start <= i < c.token_end] for i in range(len(tokens))]
    for token, owned_by in zip(tokens, owners, strict=True):
        assert len(owned_by) == 1 or not token.strip()
        assert len(owned_by) <= 1
    for clause in clauses:
        assert clause.text == text[clause.char_start : clause.char_end]
        assert clause.text.strip() == clause.text != ""
        spelled = "".join(tokens[clause.token_start : clause.token_end])
        assert spelled.strip() == clause.text


def test_tokens_the_text_leaves_out_get_no_width():
    assert align_tokens("Hi you", ["Hi", " you", "</s>"]) == [(0, 2), (2, 6), (6, 6)]
    assert align_tokens("Hi you", ["Hi", "X"]) is None


def split_as_the_incumbent(tokens: list[str]) -> list[tuple[int, int, str]]:
    """Its loop, as its page describes it: collect tokens, close after one that holds a mark."""
    clauses, begin, collected = [], 0, ""
    for index, token in enumerate(tokens):
        collected += token
        holds_mark = any(mark in token for mark in [",", ".", ";", "—", "\n", "!", "?", ":"])
        if holds_mark or index == len(tokens) - 1:
            if collected.strip():
                clauses.append((begin, index + 1, collected.strip()))
            begin, collected = index + 1, ""
    return clauses


@given(st.lists(st.one_of(st.text(max_size=4), st.text("a ,.;—\n!?:–", max_size=3))))
@example([" a;", "b—", "c\n", "d!", "e?", "f:", "g,", "h.", "i"])
def test_the_incumbents_clauses_are_those_of_its_own_loop(tokens):
    clauses = split_clauses_incumbent(tokens)

    found = [(clause.token_start, clause.token_end, clause.text) for clause in clauses]
    assert found == split_as_the_incumbent(tokens)
    text = "".join(tokens)
    assert all(clause.text == text[clause.char_start : clause.char_end] for clause in clauses)


def test_the_two_rules_differ_inside_numbers():
    tokens = ["Pi", " is", " 3", ".", "14", "."]

    assert [clause.text for clause in split_clauses_incumbent(tokens)] == ["Pi is 3.", "14."]
    offsets = align_tokens("".join(tokens), tokens)
    assert [clause.text for clause in split_clauses("".join(tokens), offsets)] == ["Pi is 3.14."]
