"""Positions are Python slices of a frame, and their names round-trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tistore.errors import ConfigError
from tistore.vectors.position import Position

bounds = st.none() | st.integers(-20, 20)


@given(st.sampled_from(["prompt", "response", "all"]), bounds, bounds)
def test_a_slice_selects_what_python_would(frame, start, stop):
    text = f"{frame}[{'' if start is None else start}:{'' if stop is None else stop}]"
    whole = list(range(10))
    of_frame = {"prompt": whole[:4], "response": whole[4:], "all": whole}[frame]

    position = Position.parse(text)

    assert list(position.select(4, 10)) == of_frame[start:stop]
    assert str(position) == text
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    ("text", "selected"), [("prompt[-1]", [3]), ("response[0]", [4]), ("all[-2]", [8])]
)
def test_an_index_selects_one_token(text, selected):
    assert list(Position.parse(text).select(4, 10)) == selected
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize("text", ["respnse[:5]", "response", "response[5", "response[a:]", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(ConfigError, match="no position"):
        Position.parse(text)
