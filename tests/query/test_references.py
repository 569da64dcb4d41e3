"""Which vector a reference means."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from tistore.errors import AmbiguousVectorError, UnknownVectorError, VectorMismatchError
from tistore.query.references import resolve
from tistore.schemas.model import Model
from tistore.schemas.vector import Vector


def vector(trait, layer=26, method="mean_diff", separation=None, seed=0, component="residual"):
    values = np.random.default_rng([seed, layer, len(method), len(trait)]).standard_normal(4)
    return Vector(trait, values, layer, component, method=method, separation=separation)


REFUSAL = vector("behavioral/refusal")
PROBE = vector("behavioral/refusal", method="probe")
EARLY = vector("behavioral/refusal", layer=20)


@pytest.mark.parametrize(
    "text", ["refusal", "behavioral/refusal", "refusal@26", "refusal:mean_diff@26", " refusal "]
)
def test_every_form_of_a_reference_finds_its_vector(text):
    assert resolve(text, None, [REFUSAL]).vector is REFUSAL


def test_a_vector_is_found_by_the_start_of_its_hash():
    assert resolve(PROBE.content_hash[:10], None, [REFUSAL, PROBE]).vector is PROBE


def test_method_and_layer_tell_vectors_apart():
    known = [REFUSAL, PROBE, EARLY]

    assert resolve("refusal:probe", None, known).vector is PROBE
    assert resolve("refusal@20", None, known).vector is EARLY
    assert resolve("refusal:mean_diff@26", None, known).vector is REFUSAL


def test_a_full_name_goes_before_another_trait_s_short_name():
    short, long = vector("refusal"), vector("behavioral/refusal")

    assert resolve("refusal", None, [long, short]).vector is short


def test_the_best_separated_vector_is_selected():
    weak, strong = vector("a/x", 20, separation=0.4), vector("a/x", 26, separation=2.1)

    assert resolve("x", None, [strong, weak]).vector is strong


def test_one_unmeasured_separation_makes_a_choice_ambiguous():
    with pytest.raises(AmbiguousVectorError, match="a/x:mean_diff@20, a/x:mean_diff@26"):
        resolve("x", None, [vector("a/x", 20, separation=0.4), vector("a/x", 26)])


def test_separation_does_not_choose_between_traits():
    known = [vector("a/x", separation=1.0), vector("b/x", separation=2.0, seed=1)]

    with pytest.raises(AmbiguousVectorError, match="a/x:mean_diff@26, b/x:mean_diff@26"):
        resolve("x", None, known)


def test_vectors_of_one_name_are_told_apart_by_hash():
    known = [vector("a/x", seed=1), vector("a/x", seed=2)]

    with pytest.raises(AmbiguousVectorError) as caught:
        resolve("a/x", None, known)

    assert all(each.content_hash[:8] in str(caught.value) for each in known)
    assert resolve(known[1].content_hash[:8], None, known).vector is known[1]


def test_vectors_of_one_name_say_their_component():
    known = [vector("a/x"), vector("a/x", component="attn_out", seed=1)]

    with pytest.raises(AmbiguousVectorError, match=r"\(a/x:mean_diff@26, attn_out, "):
        resolve("a/x", None, known)


def test_a_layer_takes_the_vector_fitted_there():
    direction = resolve("refusal", 20, [REFUSAL, EARLY])

    assert direction.vector is EARLY
    assert direction.note is None


def test_a_layer_without_a_vector_applies_the_selected_one_and_says_so():
    direction = resolve("refusal", 22, [REFUSAL])

    assert direction.vector is REFUSAL
    assert direction.site.layer == 22
    assert direction.note == "behavioral/refusal:mean_diff@26 is applied to layer 22"
    assert direction.key != resolve("refusal", None, [REFUSAL]).key


def test_a_reference_s_own_layer_chooses_the_vector_not_the_site():
    direction = resolve("refusal@26", 20, [REFUSAL, EARLY])

    assert direction.vector is REFUSAL
    assert direction.site.layer == 20


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("refusl", "did you mean 'refusal'?"),
        ("behavioural/refusal", "did you mean 'behavioral/refusal'?"),
        ("refusal@7", "behavioral/refusal:mean_diff@26"),
        ("zzz", "there are: refusal"),
    ],
)
def test_an_unknown_reference_is_told_the_nearest(text, told):
    with pytest.raises(UnknownVectorError, match="no vector") as caught:
        resolve(text, None, [REFUSAL])

    assert told in str(caught.value)


@pytest.fixture
def mixed(tmp_path):
    """Readings of two base models of different widths."""
    store = tistore.create(tmp_path / "store")
    with store.writer() as writer:
        for name, base, hidden in (("small", "org/small", 4), ("large", "org/large", 8)):
            writer.add(
                organism=Model(name, base_id=base),
                reader=Model(name, base_id=base),
                prompt_set="p",
                prompt_id="1",
                token_ids=[1, 2, 3],
                prompt_length=1,
                layers=[3],
                activations={"residual": np.ones((3, 1, hidden))},
            )
    return store


def test_a_vector_of_another_width_is_refused_by_name(mixed):
    mixed.add_vector("a/x", np.ones(4), layer=3)

    with pytest.raises(VectorMismatchError) as caught:
        mixed.sql("SELECT project('x') FROM responses")

    for word in ("a/x:unknown@3", "4 wide", "8 wide", "large on p#1"):
        assert word in str(caught.value)
    assert len(mixed.sql("SELECT project('x') FROM responses WHERE reader = 'small'")) == 1


def test_a_vector_of_another_base_model_is_refused(mixed):
    mixed.add_vector("a/x", np.ones(8), layer=3, model="small")

    with pytest.raises(VectorMismatchError, match="org/small.*org/large"):
        mixed.sql("SELECT project('x') FROM responses WHERE reader = 'large'")


def test_a_component_that_was_not_captured_is_named(mixed):
    mixed.add_vector("a/x", np.ones(4), layer=3, component="mlp_out")

    with pytest.raises(VectorMismatchError, match="mlp_out@3.*they have residual at layers 3"):
        mixed.sql("SELECT project('x') FROM tokens WHERE organism = 'small'")
