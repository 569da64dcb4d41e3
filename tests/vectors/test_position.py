"""Positions are Python slices of a frame, and their names round-trip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tistore.datasets.trait_interp.positions import decode_position, encode_position
from tistore.errors import ConfigError, NotStoredError
from tistore.schemas import role
from tistore.vectors.position import FRAMES, ROLE_FRAMES, Position

bounds = st.none() | st.integers(-20, 20)
brackets = st.one_of(
    st.integers(-20, 20).map(str),
    st.tuples(bounds, bounds).map(
        lambda pair: ":".join("" if bound is None else str(bound) for bound in pair)
    ),
)
texts = st.builds(
    lambda turn, frame, inside: f"{turn}{frame}[{inside}]",
    st.just("") | st.integers(-9, 9).map(lambda number: f"turn[{number}]:"),
    st.sampled_from(FRAMES),
    brackets,
)


@given(texts)
def test_a_position_is_written_as_it_was_read(text):
    position = Position.parse(text)

    assert str(position) == text
    assert Position.parse(str(position)) == position


@given(st.sampled_from(["prompt", "response", "all"]), bounds, bounds)
def test_a_slice_selects_what_python_would(frame, start, stop):
    text = f"{frame}[{'' if start is None else start}:{'' if stop is None else stop}]"
    whole = list(range(10))
    of_frame = {"prompt": whole[:4], "response": whole[4:], "all": whole}[frame]

    assert list(Position.parse(text).select(4, 10)) == of_frame[start:stop]


@st.composite
def sequences(draw):
    """Roles and turns of each token, and where the prompt ends."""
    length = draw(st.integers(0, 15))
    roles = draw(st.lists(st.sampled_from(["", *ROLE_FRAMES]), min_size=length, max_size=length))
    turns = draw(st.lists(st.integers(-1, 3), min_size=length, max_size=length))
    return draw(st.integers(0, length)), roles, sorted(turns)


@given(texts, sequences())
def test_every_position_selects_what_plain_lists_would(text, sequence):
    prompt_length, roles, turns = sequence
    places = list(range(len(roles)))
    parts = {"prompt": places[:prompt_length], "response": places[prompt_length:], "all": places}
    frame = text.split(":", 1)[1] if text.startswith("turn") else text
    name, inside = frame[:-1].split("[")
    found = parts.get(name) or [place for place in places if roles[place] == name]
    if name in parts:
        found = parts[name]
    if text.startswith("turn"):
        number = int(text[len("turn[") : text.index("]")])
        known = sorted({turn for turn in turns if turn >= 0})
        if number < 0:
            number = known[number] if -number <= len(known) else None
        found = [place for place in found if turns[place] == number]
    if ":" in inside:
        start, stop = (int(bound) if bound else None for bound in inside.split(":"))
        wanted = found[start:stop]
    else:
        index = int(inside)
        wanted = [found[index]] if -len(found) <= index < len(found) else []

    selected = Position.parse(text).select(prompt_length, len(roles), roles, np.array(turns))

    assert list(selected) == wanted


ROLES = "system user user template thinking thinking assistant user assistant assistant".split()
TURNS = [0, 0, 0, 1, 1, 1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("prompt[-1]", [3]),
        ("response[0]", [4]),
        ("all[-2]", [8]),
        ("all[3:-2]", [3, 4, 5, 6, 7]),
        ("thinking[:]", [4, 5]),
        ("system[-1]", [0]),
        ("assistant[:2]", [6, 8]),
        ("tool_call[:]", []),
        ("turn[1]:all[:]", [3, 4, 5, 6]),
        ("turn[1]:prompt[:]", [3]),
        ("turn[-1]:assistant[-1]", [9]),
        ("turn[-2]:user[:3]", [7]),
        ("turn[-5]:all[:]", []),
        ("turn[4]:all[:]", []),
    ],
)
def test_tokens_are_found_by_part_role_and_turn(text, selected):
    assert list(Position.parse(text).select(4, 10, ROLES, TURNS)) == selected


def test_every_role_is_a_frame():
    named = {getattr(role, name) for name in dir(role) if name.endswith("_ROLE")}
    assert named <= set(FRAMES)


def test_a_position_says_what_it_must_be_told():
    position = Position.parse("turn[0]:thinking[:]")

    assert position.needs_roles
    assert position.needs_turns
    with pytest.raises(NotStoredError, match="needs the role of each token"):
        position.select(1, 2, None, [0, 0])
    with pytest.raises(NotStoredError, match="needs the turn of each token"):
        position.select(1, 2, ["thinking"] * 2)
    plain = Position.parse("response[:5]")
    assert not plain.needs_roles
    assert not plain.needs_turns


@pytest.mark.parametrize(
    "text",
    [
        "response",
        "response[5",
        "response[a:]",
        "response[1:2:3]",
        "response[]",
        "turn[0]",
        "turn[0]response[:]",
        "turn[]:response[:]",
        "turn[0]:turn[1]:all[:]",
        "response[٣]",
        "",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ConfigError, match="no position"):
        Position.parse(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("respnse[:5]", "response"), ("tool_result[:]", "tool"), ("full[:]", "all")],
)
def test_a_frame_under_another_name_is_refused_with_ours(text, meant):
    with pytest.raises(ConfigError, match="is no part of a sequence") as caught:
        Position.parse(text)
    assert f"'{meant}'" in caught.value.mend


@given(texts)
def test_trait_interps_folders_mean_the_same_position(text):
    """Where its own reading of the name is another, the name is known to be lossy."""
    position = Position.parse(text)
    decoded = decode_position(encode_position(text))

    both_ends = position.start is not None and position.stop is not None
    is_plain = position.turn is None and (position.is_index or not both_ends)
    if position.frame in {"prompt", "response", "all", "thinking", "system", "tool_call"}:
        assert Position.parse(decoded.text) == position
        assert decoded.is_lossy == (not is_plain)
    else:
        assert decoded.is_lossy
