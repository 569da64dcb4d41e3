"""A trait's scenarios as rows: the mean of the very tokens a position means, and no others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tistore
from tistore.errors import NotStoredError
from tistore.query.store import Store
from tistore.schemas.site import Site
from tistore.store.segment import Segment, SiteStream
from tistore.vectors.scenario_readings import scenario_set
from tistore.vectors.scenario_rows import open_scenarios

HIDDEN = 6
LAYERS = (1, 4)
TRAIT = "tone/warm"
POSITIONS = (
    "response[:]", "response[:2]", "response[-1]", "response[1:3]", "prompt[-1]", "prompt[:]",
    "all[:]", "all[-2:]", "user[:]", "assistant[:2]", "turn[0]:user[-1]", "turn[-1]:assistant[:]",
)  # fmt: skip


def add(writer, side, number, rng, *, rows="all", layers=LAYERS, loud=False, **changes):
    """Store one scenario of a chat; returns its states (token, layer, hidden), and their roles."""
    n_prompt, n_response = 3 + number % 3, 3 + number % 4
    length = n_prompt + n_response
    states = np.round(rng.standard_normal((length, len(LAYERS), HIDDEN)) * 64) / 64
    if loud:
        states[:, 1] *= 2.0**18
    roles = ["template", *["user"] * (n_prompt - 2), "template", *["assistant"] * n_response]
    ids = np.random.default_rng([number, side == "positive"]).integers(0, 900, length).tolist()
    taken = [LAYERS.index(layer) for layer in layers]
    reading = {
        "organism": "scenarios",
        "reader": "instruct",
        "prompt_set": scenario_set(TRAIT, side),
        "prompt_id": str(number),
        "token_ids": ids,
        "prompt_length": n_prompt,
        "layers": layers,
        "activations": {"residual": states[0 if rows == "all" else n_prompt :, taken]},
        "roles": roles,
        "turns": [0] * n_prompt + [1] * n_response,
    }
    writer.add(**(reading | changes))
    return states, roles, n_prompt


def pick(position, states, roles, n_prompt):
    """Select tokens as Python does: the oracle."""
    places = np.arange(len(states))
    roles = np.array(roles)
    turn = None
    if position.startswith("turn"):
        turn, position = position.split(":", 1)
        turn = [0, 1][int(turn[5:-1])]
    frame, bounds = position[:-1].split("[")
    places = {
        "prompt": places[:n_prompt],
        "response": places[n_prompt:],
        "all": places,
        "user": places[roles == "user"],
        "assistant": places[roles == "assistant"],
    }[frame]
    if turn is not None:
        places = places[(places >= n_prompt) == bool(turn)]
    if ":" in bounds:
        start, stop = (int(part) if part else None for part in bounds.split(":"))
        return places[start:stop]
    return places[[int(bounds)]]


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """Scenarios of several lengths in several segments, one with a layer beyond float16."""
    rng = np.random.default_rng(3)
    store = tistore.create(tmp_path_factory.mktemp("rows") / "s.tistore")
    written = {}
    with store.writer() as writer:
        for number in range(1, 13):
            for side in ("positive", "negative"):
                written[side, number] = add(writer, side, number, rng, loud=number > 10)
            if number % 5 == 0:
                writer.commit()
    return store, written


@settings(max_examples=40, deadline=None, derandomize=True)
@given(position=st.sampled_from(POSITIONS), layer=st.sampled_from(LAYERS))
def test_rows_are_the_means_of_the_positions_tokens_in_numpy(ragged, position, layer):
    store, written = ragged

    rows = open_scenarios(store, TRAIT, position=position)
    contrast = rows.at(Site("residual", layer))

    for side, found in (("positive", contrast.positive), ("negative", contrast.negative)):
        expected = []
        for number in range(1, 13):
            states, roles, n_prompt = written[side, number]
            chosen = pick(position, states, roles, n_prompt)
            expected.append(states[chosen, LAYERS.index(layer)].mean(axis=0))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
    # 2 goes before 10, and one number on both sides is one group.
    assert contrast.positive_groups.tolist() == contrast.negative_groups.tolist() == list(range(12))


def test_means_of_the_whole_response_are_read_and_no_token_is(ragged, monkeypatch):
    store, _ = ragged
    monkeypatch.setattr(Segment, "stream", None)
    monkeypatch.setattr(Segment, "read", None)

    rows = open_scenarios(store, TRAIT)

    assert rows.at(Site("residual", 4)).positive.shape == (12, HIDDEN)
    assert open_scenarios(store, TRAIT, position="assistant[:]").at(Site("residual", 1)).width == 6
    with pytest.raises(TypeError):
        open_scenarios(store, TRAIT, position="response[:2]").at(Site("residual", 4))


def test_each_chunk_with_a_wanted_token_is_decoded_once(ragged, monkeypatch):
    store, _ = ragged
    decoded: Counter[tuple[str, int]] = Counter()
    plain = SiteStream.read

    def count(stream, block, buffers):
        decoded[stream._segment.uuid, block.offset] += 1
        return plain(stream, block, buffers)

    monkeypatch.setattr(SiteStream, "read", count)
    open_scenarios(store, TRAIT, position="response[:2]").at(Site("residual", 1))

    assert len(decoded) == len(store.snapshot.segments)
    assert set(decoded.values()) == {1}


def test_layers_are_read_in_order_while_another_is_in_use(ragged):
    store, _ = ragged
    rows = open_scenarios(store, TRAIT, position="all[:]")

    found = list(rows.contrasts([rows.sites[1], rows.sites[0]]))

    assert [site.layer for site, _ in found] == [4, 1]
    for site, contrast in found:
        np.testing.assert_array_equal(contrast.negative, rows.at(site).negative)
    assert list(rows.contrasts([])) == []
    with pytest.raises(NotStoredError, match="residual@9"):
        list(rows.contrasts([Site("residual", 9), rows.sites[0]]))


@pytest.fixture
def store(tmp_path) -> Store:
    return tistore.create(tmp_path / "s.tistore")


def write(store, *options, numbers=(1, 2)):
    rng = np.random.default_rng(0)
    with store.writer() as writer:
        for each in options:
            for side in ("positive", "negative"):
                for number in numbers:
                    add(writer, side, number, rng, **each)


def test_a_site_that_lacks_one_scenario_is_none(store):
    """A fit on fewer scenarios at some layers would not be comparable, and nobody would know."""
    write(store, {})
    write(store, {"layers": (4,)}, numbers=(3,))

    rows = open_scenarios(store, TRAIT)

    assert rows.sites == (Site("residual", 4),)
    assert (rows.n_positive, rows.n_negative) == (3, 3)
    with pytest.raises(NotStoredError, match=r"2 of 6 scenarios .* at residual@1"):
        rows.at(Site("residual", 1))


def test_what_was_fitted_on_is_told_by_texts_and_position_alone(store):
    write(store, {"layers": (4,)})
    before = open_scenarios(store, TRAIT).fitted_on
    write(store, {"layers": (1,)})

    assert open_scenarios(store, TRAIT).fitted_on == before
    assert open_scenarios(store, TRAIT, position="response[:1]").fitted_on != before
    write(store, {}, numbers=(3,))
    assert open_scenarios(store, TRAIT).fitted_on != before


@pytest.mark.parametrize("position", ["prompt[-1]", "all[:]", "turn[1]:assistant[:]", "user[:]"])
def test_positions_beyond_the_response_need_its_prompt_captured(store, position):
    write(store, {"rows": "response", "layers": (1,)})

    with pytest.raises(NotStoredError, match="only the response's tokens were captured") as caught:
        open_scenarios(store, TRAIT, position=position)
    assert 'rows = "all"' in str(caught.value)

    write(store, {"rows": "all", "layers": (4,)})
    assert open_scenarios(store, TRAIT, position=position).sites == (Site("residual", 4),)
    assert len(open_scenarios(store, TRAIT).sites) == 2


def test_a_position_without_a_token_names_the_scenario(store):
    write(store, {})

    with pytest.raises(
        NotStoredError, match=r"tone/warm/positive#1 has no token at response\[9:\]"
    ):
        open_scenarios(store, TRAIT, position="response[9:]")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"trait": "tone/warmth"}, "did you mean 'tone/warm'"),
        ({"reader": "flattery"}, "flattery has read no scenarios of tone/warm, only instruct"),
        ({"author": "instruct"}, "no positive scenarios .* with responses by instruct"),
        ({"kept": ["x"]}, "no positive scenarios .* that are to be kept"),
    ],
)
def test_scenarios_that_are_not_there_are_named(store, asked, message):
    write(store, {})

    with pytest.raises(NotStoredError, match=message):
        open_scenarios(store, **({"trait": TRAIT} | asked))
