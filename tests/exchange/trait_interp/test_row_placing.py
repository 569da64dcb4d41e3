"""Which token a row belongs to, where names alone do not tell."""

from __future__ import annotations

import pytest
import torch

from tistore.errors import ForeignFileError
from tistore.exchange.trait_interp.raw_file import read_raw_file
from tistore.exchange.trait_interp.row_placing import place_rows

HIDDEN = 6


def save(path, *, prompt, response, n_response, names=("residual",), dtype=torch.bfloat16, **more):
    """Write a capture of four prompt tokens; `prompt` and `response` are rows, or None."""
    content = {}
    for half, rows, n_tokens in (("prompt", prompt, 4), ("response", response, n_response)):
        content[half] = {
            "text": "x" * n_tokens,
            "tokens": ["x"] * n_tokens,
            "token_ids": list(range(n_tokens)),
            "activations": {}
            if rows is None
            else {layer: {name: rows.to(dtype) + layer for name in names} for layer in (0, 5)},
        } | more
    torch.save(content, path)
    return read_raw_file(path)


def draw(n_rows, seed=0):
    return torch.randn(n_rows, HIDDEN, generator=torch.Generator().manual_seed(seed)) * 8


def predicting(n_rows):
    """Rows of a response whose first repeats the prompt's last."""
    rows = draw(n_rows, seed=1)
    rows[0] = draw(4)[-1]
    return rows


@pytest.mark.parametrize(
    ("names", "rows", "expected"),
    [
        (("residual_in", "residual_out"), predicting(5), ("A1", "predicting", 0, 8, 1)),
        (("after_attn", "residual_out"), predicting(5), ("A2", "predicting", 0, 8, 1)),
        (("after_attn", "residual_out"), draw(4, 2), ("A3", "at-token", 0, 8, 0)),
        # As many rows as tokens and no repeat: a generation that ended before its batch did.
        (("after_attn", "residual_out"), draw(5, 2), ("A3", "at-token", 0, 9, 0)),
        (("residual",), draw(4, 2), ("A4", "at-token", 0, 8, 0)),
    ],
)
def test_old_captures_are_told_by_names_and_rows(tmp_path, names, rows, expected):
    raw = save(
        tmp_path / "1.pt", prompt=draw(4), response=rows, n_response=5, names=names,
        dtype=torch.float16,
    )  # fmt: skip

    placed = place_rows(raw, is_replay=False)

    assert (
        placed.variety, placed.convention, placed.first_position, placed.n_rows, placed.n_dropped,
    ) == expected  # fmt: skip


def test_a_repeat_that_is_not_exact_is_noted(tmp_path):
    """Another forward pass may have computed the same state a little differently."""
    rows = predicting(5)
    rows[0] *= 1.002
    raw = save(
        tmp_path / "1.pt", prompt=draw(4), response=rows, n_response=5,
        names=("after_attn", "residual_out"), dtype=torch.float16,
    )  # fmt: skip

    placed = place_rows(raw, is_replay=False)

    assert placed.variety == "A2"
    assert "only nearly" in placed.notes[0]


def test_a_live_capture_has_later_names_and_earlier_rows(tmp_path):
    raw = save(tmp_path / "1.pt", prompt=draw(4), response=predicting(5), n_response=5)

    placed = place_rows(raw, is_replay=False)

    assert (placed.variety, placed.convention, placed.n_rows) == ("live", "predicting", 8)


def test_a_response_alone_begins_after_the_prompt(tmp_path):
    raw = save(tmp_path / "1.pt", prompt=None, response=draw(5), n_response=5)

    placed = place_rows(raw, is_replay=False)

    assert (placed.variety, placed.first_position, placed.n_rows) == ("A7", 4, 5)


@pytest.mark.parametrize(("prompt", "response"), [(draw(4), draw(3)), (draw(4), draw(6)),
                                                  (draw(3), draw(5))])  # fmt: skip
def test_a_number_of_rows_that_no_capture_leaves_is_refused(tmp_path, prompt, response):
    raw = save(tmp_path / "1.pt", prompt=prompt, response=response, n_response=5)

    with pytest.raises(ForeignFileError, match=r"rows for \d tokens"):
        place_rows(raw, is_replay=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("prompt"), "no prompt and response"),
        (lambda c: c["prompt"].update(activations={}) or c["response"].update(activations={}),
         "no activations"),
        (lambda c: c["response"]["activations"].pop(5), "different layers"),
        (lambda c: c["response"]["activations"][5].clear(), "different layers"),
        (lambda c: c["prompt"]["activations"].update(one={}), "not laid out by layer"),
        (lambda c: c["prompt"]["activations"][5].update(residual=torch.zeros(4, 2, 2)),
         r"\[row, hidden\]"),
        (lambda c: c["prompt"]["activations"][5].update(residual=torch.zeros(4, 7)), "not one"),
        (lambda c: c["prompt"]["activations"][5].update(residual=draw(4)), "floating point type"),
        (lambda c: c["prompt"].update(token_ids=[1, -4, 2, 3]), "token ids"),
        (lambda c: c["prompt"].update(token_ids=["a"]), "token ids"),
    ],
)  # fmt: skip
def test_a_capture_whose_parts_do_not_agree_is_refused_by_name(tmp_path, change, reason):
    path = tmp_path / "1.pt"
    save(path, prompt=draw(4), response=draw(5), n_response=5)
    content = torch.load(path)
    change(content)
    torch.save(content, path)

    with pytest.raises(ForeignFileError, match=reason) as caught:
        read_raw_file(path)

    assert str(path) in str(caught.value)


def test_a_response_of_which_no_row_was_captured_is_told(tmp_path):
    raw = save(tmp_path / "1.pt", prompt=draw(4), response=None, n_response=5)

    placed = place_rows(raw, is_replay=False)

    assert (placed.first_position, placed.n_rows) == (0, 4)
    assert placed.notes == ("no row of its response was captured: none of its tokens is audited",)
