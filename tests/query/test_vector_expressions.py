"""Vectors made of others, written where a vector is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tistore
from tistore.errors import QueryError, UnknownVectorError, VectorMismatchError
from tistore.query.references import Direction, resolve
from tistore.query.spans import top_spans
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector

HIDDEN = 8
LAYER = 2  # of the brute-force store; its vectors lie at 5 and 2
TRAITS = ("refusal", "sycophancy")


def vector(trait, layer=26, seed=0, hidden=HIDDEN, **more):
    values = 7 * np.random.default_rng([seed, layer, *map(ord, trait)]).standard_normal(hidden)
    return Vector(trait, values, layer, **{"method": "mean_diff", **more})


REFUSAL = vector("behavioral/refusal", midpoint=4.0, model="base", position="response[:5]")
SYCOPHANCY = vector("behavioral/sycophancy", midpoint=1.0, model="base", position="response[:5]")
EVIL = vector("tone/evil", method="probe")
EVIL_EARLY = vector("tone/evil", layer=20, method="probe")
STORED = [REFUSAL, SYCOPHANCY, EVIL]


def unit(stored, without=()):
    """A vector of length 1 in float64, as a reader of the documentation would compute it."""
    values = np.array(stored.values, dtype=np.float64)
    values[list(without)] = 0
    return values / np.sqrt((values**2).sum())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("refusal + sycophancy", unit(REFUSAL) + unit(SYCOPHANCY)),
        ("refusal - 0.5*sycophancy", unit(REFUSAL) - 0.5 * unit(SYCOPHANCY)),
        (" refusal  -  .5 * sycophancy ", unit(REFUSAL) - 0.5 * unit(SYCOPHANCY)),
        ("0.3*refusal@26 + 0.7*evil:probe@26", 0.3 * unit(REFUSAL) + 0.7 * unit(EVIL)),
        ("-1*behavioral/refusal", -unit(REFUSAL)),
        ("refusal - -2e-1*evil", unit(REFUSAL) + 0.2 * unit(EVIL)),
        (
            "refusal - sycophancy + 3*evil",
            unit(REFUSAL) - unit(SYCOPHANCY) + 3 * unit(EVIL),
        ),
        (f"{REFUSAL.content_hash[:10]} + evil", unit(REFUSAL) + unit(EVIL)),
        (
            "2*refusal without 1, 3 - sycophancy",
            2 * unit(REFUSAL, [1, 3]) - unit(SYCOPHANCY),
        ),
        (
            "refusal - sycophancy without 0,7",
            unit(REFUSAL) - unit(SYCOPHANCY, [0, 7]),
        ),
    ],
)
def test_a_combination_adds_up_unit_vectors(text, wanted):
    made = resolve(text, None, STORED).vector

    assert made.values.dtype == np.float32
    np.testing.assert_allclose(made.values, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(made.unit, wanted / np.linalg.norm(wanted), rtol=0, atol=1e-6)
    assert made.method == "combination"


@pytest.mark.parametrize(
    "text", ["refusal without 1,3", "refusal without  3 , 1", "1*refusal without 1, 3"]
)
def test_a_cleaned_vector_lacks_its_dimensions_and_is_normalised_without_them(text):
    made = resolve(text, None, STORED).vector

    assert made.values[[1, 3]].tolist() == [0, 0]
    np.testing.assert_allclose(made.unit, unit(REFUSAL, [1, 3]), rtol=0, atol=1e-6)
    assert (made.method, made.model, made.layer) == ("cleaned", "base", 26)
    assert REFUSAL.values.all(), "the stored vector is as it was"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tone/refusal + sycophancy", "refusal + sycophancy"),
        ("tone/refusal + sycophancy", "tone/refusal + sycophancy:mean_diff@26"),
        ("refusal without 3", "refusal without 3"),
        ("2*refusal", "2*refusal"),
        ("anti-refusal", "anti-refusal"),
    ],
)
def test_a_stored_name_goes_before_its_reading_as_an_expression(name, text):
    named = vector(name, seed=5)

    direction = resolve(text, None, [*STORED, named])

    assert direction.vector is named
    assert direction.parts == ()


def test_names_that_look_like_expressions_can_be_parts():
    odd = [vector("a + b", seed=5), vector("evil without mercy", seed=6), vector("a", seed=7)]

    summed = resolve("refusal - a + b + a", None, [*STORED, *odd]).vector
    cleaned = resolve("0.5*evil without mercy without 3 + a", None, [*STORED, *odd]).vector

    np.testing.assert_allclose(
        summed.values, unit(REFUSAL) - unit(odd[0]) + unit(odd[2]), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        cleaned.values, 0.5 * unit(odd[1], [3]) + unit(odd[2]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("text", "trait", "reference"),
    [
        (
            "refusal - 0.5*sycophancy",
            "refusal - 0.5*sycophancy",
            "behavioral/refusal:mean_diff@26 - 0.5*behavioral/sycophancy:mean_diff@26",
        ),
        (
            "-2.0*refusal@26 + evil:probe without 1,2",
            "-2*refusal + evil without 1, 2",
            "-2*behavioral/refusal:mean_diff@26 + tone/evil:probe@26 without 1, 2",
        ),
        (
            "refusal without 1,2",
            "refusal without 1, 2",
            "behavioral/refusal:mean_diff@26 without 1, 2",
        ),
    ],
)
def test_an_expression_is_named_as_it_was_written_and_its_reference_means_the_same(
    text, trait, reference
):
    direction = resolve(text, None, STORED)

    assert direction.vector.trait == trait
    assert direction.vector.reference == str(direction) == reference
    assert resolve(reference, None, STORED) == direction
    assert resolve(reference, None, STORED).key == direction.key


def test_the_same_expression_twice_is_one_direction():
    """A query that names it in SELECT and in GROUP BY means one column."""
    once, again = (resolve("refusal + evil", None, STORED) for _ in range(2))

    assert once == again
    assert hash(once) == hash(again)
    assert once != resolve("refusal + 2*evil", None, STORED)
    assert once != resolve("refusal + evil", 20, STORED)
    assert once != "refusal + evil"


def test_a_combination_knows_its_parts():
    direction = resolve("refusal without 3 - 0.5*sycophancy", 26, STORED)

    (first, cleaned), (second, plain) = direction.parts
    assert (first, second) == (1.0, -0.5)
    assert plain == Direction(SYCOPHANCY, Site("residual", 26))
    assert cleaned == resolve("refusal without 3", 26, STORED)
    assert resolve("refusal without 3", 26, STORED).parts == ()


def test_a_midpoint_is_combined_as_scores_are():
    made = resolve("refusal - 0.5*sycophancy", None, STORED).vector

    length = np.linalg.norm(unit(REFUSAL) - 0.5 * unit(SYCOPHANCY))
    assert made.midpoint == pytest.approx((4.0 - 0.5 * 1.0) / length)


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("refusal + evil", None),
        ("refusal + sycophancy", 20),
        ("refusal without 3", None),
        ("refusal without 3 + sycophancy", None),
    ],
)
def test_a_midpoint_that_no_longer_holds_is_left_out(text, layer):
    assert resolve(text, layer, STORED).vector.midpoint is None


def test_only_what_the_parts_share_is_told_of_a_combination():
    same = resolve("refusal + sycophancy", None, STORED).vector
    mixed = resolve("refusal + evil", None, STORED).vector

    assert (same.model, same.position) == ("base", "response[:5]")
    assert (mixed.model, mixed.position) == (None, "unknown")


def test_a_layer_chooses_each_part_and_says_what_was_not_fitted_there():
    stored = [*STORED, EVIL_EARLY]

    early = resolve("refusal + evil", 20, stored)

    np.testing.assert_allclose(
        early.vector.values, unit(REFUSAL) + unit(EVIL_EARLY), rtol=0, atol=1e-6
    )
    assert early.site == early.vector.site == Site("residual", 20)
    assert early.note == "behavioral/refusal:mean_diff@26 is applied to layer 20"
    assert str(early).endswith(" on layer 20")
    assert resolve("refusal + evil", 26, stored).note is None
    both = resolve("refusal + sycophancy", 20, stored)
    assert both.note is not None and "sycophancy:mean_diff@26 are applied" in both.note
    cleaned = resolve("refusal without 1", 20, stored)
    assert cleaned.note == "behavioral/refusal:mean_diff@26 without 1 is applied to layer 20"


def test_parts_at_two_layers_are_refused_until_a_layer_is_named():
    stored = [REFUSAL, EVIL_EARLY]

    with pytest.raises(VectorMismatchError) as caught:
        resolve("refusal + evil", None, stored)

    for word in (REFUSAL.reference, "residual@26", EVIL_EARLY.reference, "residual@20"):
        assert word in caught.value.message
    assert "project('refusal + evil', 26)" in str(caught.value.mend)
    assert resolve("refusal + evil", 26, stored).site.layer == 26


def test_parts_of_two_components_or_widths_are_refused():
    attention = vector("tone/warm", component="attn_out")
    wide = vector("tone/wide", hidden=HIDDEN + 1)

    with pytest.raises(VectorMismatchError, match="residual@26 .*attn_out@26"):
        resolve("refusal + warm", 26, [REFUSAL, attention])
    with pytest.raises(VectorMismatchError, match="8 wide, .*9 wide"):
        resolve("refusal + wide", None, [REFUSAL, wide])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("refusal +", "character 10, a vector is missing"),
        ("+ refusal", "character 1, a vector is missing"),
        ("refusal + - evil", "character 10, a vector is missing"),
        ("refusal + 2*", "character 11, a vector is missing after 2*"),
        ("refusal - 0.5 evil", "character 11, '0.5 evil' lacks the * of 0.5*evil"),
        ("0*refusal + evil", "0 is no coefficient"),
        ("1e999*refusal + evil", "1e999 is no coefficient"),
        ("refusal without", "a dimension is missing"),
        ("refusal without 3,", "a dimension is missing"),
        ("refusal without x", "'x' is no dimension"),
        ("refusal without -3", "'-3' is no dimension"),
        ("refusal without 3, 03", "dimension 03 is named twice"),
        ("evil + without 3", "character 8, a vector is missing before 'without'"),
    ],
)
def test_a_malformed_expression_is_told_where_and_how_to_write_it(text, told):
    with pytest.raises(UnknownVectorError, match="is no vector expression") as caught:
        resolve(text, None, STORED)

    assert told in caught.value.message
    assert "write 'refusal - 0.5*sycophancy'" in str(caught.value.mend)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("refusal + refusl", "no vector 'refusl'; did you mean 'refusal'?"),
        ("refusal+evil", "has spaces around + and -: 'refusal + evil'"),
        ("refusal-0.5*evil", "has spaces around + and -: 'refusal - 0.5*evil'"),
    ],
)
def test_a_name_that_is_not_there_is_told_the_nearest(text, told):
    with pytest.raises(UnknownVectorError) as caught:
        resolve(text, None, STORED)

    assert told in str(caught.value)


def test_dimensions_outside_the_vector_are_refused():
    with pytest.raises(VectorMismatchError, match="dimensions 0 to 7, and no 8, 9"):
        resolve("refusal without 8, 3, 9", None, STORED)


@pytest.mark.parametrize(
    "text",
    [
        "refusal - refusal",
        "refusal - evil - refusal + evil",
        "refusal without 0, 1, 2, 3, 4, 5, 6, 7",
        "refusal - nearly",
    ],
)
def test_what_cancels_is_no_direction(text):
    nearly = Vector("tone/nearly", REFUSAL.values * np.float32(3), 26)

    with pytest.raises(QueryError, match="nothing is left of"):
        resolve(text, None, [*STORED, nearly])


def with_blend(truth):
    """The brute-force answers, one more vector among them, made by hand."""
    refusal, sycophancy = (truth.vectors[name][0].astype(np.float64) for name in TRAITS)
    refusal[[0, 2]] = 0
    blend = refusal / np.linalg.norm(refusal) - 0.5 * sycophancy / np.linalg.norm(sycophancy)
    return replace(truth, vectors={"blend": (blend, LAYER)})


@pytest.mark.parametrize("relation", ["responses", "clauses", "tokens", "token_diffs"])
def test_an_expression_is_projected_like_any_vector(truth, relation):
    wanted = [row["score"] for row in with_blend(truth).rows(relation, "project", "blend")]

    call = f"project('refusal without 0, 2 - 0.5*sycophancy', {LAYER})"
    answer = truth.store.sql(f"SELECT {call} AS score FROM {relation}")

    found = [row[0] for row in answer.fetchall()]
    known = [value for value in wanted if value is not None]
    assert found.count(None) == len(wanted) - len(known)
    np.testing.assert_allclose(
        sorted(value for value in found if value is not None), sorted(known), rtol=1e-4, atol=1e-4
    )


def test_an_expression_may_stand_in_select_and_group_by(truth):
    call = f"project('refusal + sycophancy', {LAYER})"

    rows = truth.store.sql(f"SELECT {call}, count(*) FROM responses GROUP BY {call}").fetchall()

    assert len(rows) > 1


def test_spans_are_ranked_by_an_expression(truth):
    rows = top_spans(truth.store, "refusal without 0", by="token", n=3)

    assert len(rows) == 3


def test_explain_names_what_an_expression_is_made_of(truth):
    plan = truth.store.explain(f"SELECT project('refusal - sycophancy', {LAYER}) FROM tokens")

    (named,) = plan.vectors
    assert "behavioral/refusal:mean_diff@5 - behavioral/sycophancy:mean_diff@2" in named


def test_a_made_vector_can_be_had_and_committed_under_a_name(tmp_path):
    store = tistore.create(tmp_path / "store")
    for stored in STORED:
        store.add_vector(stored.trait, stored.values, layer=26, method=stored.method)

    made = store.vector("refusal - 0.5*sycophancy")
    store.add_vector("made/blend", made.values, layer=made.layer, method=made.method)

    assert store.vector("blend").content_hash == made.content_hash
    assert store.vector("blend").reference == "made/blend:combination@26"
    assert store.vector("refusal").reference == "behavioral/refusal:mean_diff@26"
    assert store.vector("refusal + evil", layer=20).layer == 20


def test_a_stored_vector_is_not_passed_off_as_another_layer_s(tmp_path):
    store = tistore.create(tmp_path / "store")
    store.add_vector("tone/evil", EVIL.values, layer=26)

    with pytest.raises(VectorMismatchError, match="evil:unknown@26 was not fitted at layer 20"):
        store.vector("evil", layer=20)
