"""Which vector a bare name is made to mean: by steering, by hand, by recorded figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tistore
from tistore.errors import AmbiguousVectorError, ChoiceError, ConfigError, UnknownVectorError
from tistore.schemas.model import name_in_precision
from tistore.vectors.choosing.candidates import Filters
from tistore.vectors.choosing.choose import RULES, choose, choose_named, choose_vectors
from tistore.vectors.choosing.pick import Settings
from tistore.vectors.choosing.plain import pick_named
from tistore.vectors.removal import remove_vectors

TRAIT = "tone/warm"
_numbers = itertools.count()


@pytest.fixture
def store(tmp_path):
    return tistore.create(tmp_path / "s.tistore")


def add(store, layer=5, method="probe", trait=TRAIT, model="instruct", **facts):
    values = np.random.default_rng([layer, len(method), len(trait), len(model or "")])
    return store.add_vector(
        trait, values.standard_normal(8), layer=layer, method=method, model=model, **facts
    )


def steer(store, vector, trait_mean, *, coefficient=2.0, coherence=90.0, baseline=10.0, n=20):
    row = {
        "trait": vector.trait,
        "vector_hash": vector.content_hash,
        "coefficient": coefficient,
        "trait_mean": trait_mean,
        "coherence_mean": coherence,
        "baseline_mean": baseline,
        "n": n,
    }
    store.add_rows("steering", [row])


def chosen(store, **asked):
    (choice,) = choose_vectors(store, **asked)
    return choice


def test_steering_takes_the_largest_change_among_coherent_runs(store):
    weak, strong, loud = (add(store, layer) for layer in (2, 5, 7))
    steer(store, weak, 30.0)
    steer(store, strong, 45.5, coherence=77.0)
    steer(store, loud, 95.0, coherence=76.9)

    choice = chosen(store)

    assert (choice.layer, choice.rule, choice.selected_by) == (5, "steering", "steering delta")
    assert choice.selection_score == pytest.approx(35.5)
    assert choice.n_candidates == 2
    assert "from 10.0 to 45.5" in choice.reason
    assert "n = 20" in choice.reason
    assert "optimistic" in choice.reason


def test_the_gate_can_be_lowered(store):
    add(store, 2)
    loud = add(store, 7)
    steer(store, loud, 95.0, coherence=70.0)

    asked = Settings(coherence=70.0)

    assert chosen(store, settings=asked).layer == 7
    with pytest.raises(ChoiceError, match="none of 1 steering runs"):
        chosen(store, rule="steering")


def test_a_vector_steered_against_its_trait_counts_by_what_it_took_away(store):
    pushed, pulled = add(store, 2), add(store, 5)
    steer(store, pushed, 50.0, baseline=40.0)
    steer(store, pulled, 5.0, baseline=40.0, coefficient=-3.0)

    choice = chosen(store)

    assert (choice.layer, choice.selection_score) == (5, pytest.approx(35.0))


def test_runs_that_cannot_be_compared_do_not_count(store):
    """No baseline, no push, no judged coherence, a vector that has left, another trait's run."""
    kept, left = add(store, 2), add(store, 9)
    add(store, 5)
    steer(store, kept, 20.0)
    steer(store, kept, 99.0, baseline=None)
    steer(store, kept, 98.0, coefficient=0.0)
    steer(store, kept, 97.0, coherence=None)
    steer(store, left, 96.0)
    remove_vectors(store, ["warm@9"])
    other = {"trait": "tone/cold", "vector_hash": kept.content_hash, "coefficient": 1.0}
    store.add_rows(
        "steering",
        [other | {"trait_mean": 95.0, "coherence_mean": 90.0, "baseline_mean": 0.0, "n": 5}],
    )

    assert chosen(store).selection_score == pytest.approx(10.0)


def test_equal_changes_are_decided_by_coherence_then_by_name(store):
    for layer, coherence in ((7, 80.0), (5, 90.0), (2, 90.0)):
        steer(store, add(store, layer), 40.0, coherence=coherence)

    assert chosen(store).layer == 2


def test_a_random_direction_is_never_preferred(store):
    steer(store, add(store, 2), 30.0)
    steer(store, add(store, 2, method="random"), 60.0)

    assert chosen(store).method == "probe"
    assert chosen(store, rule="incumbent").method == "random"


def test_steering_that_moved_nothing_does_not_choose(store):
    add(store, 2)
    steer(store, add(store, 5), 4.0)

    with pytest.raises(ChoiceError, match="moved the trait the way it was pushed"):
        chosen(store, rule="steering")


def test_the_incumbent_wants_twenty_points(store):
    vector = add(store, 5)
    steer(store, vector, 29.9)
    with pytest.raises(ChoiceError, match="wants 20 or more"):
        chosen(store, rule="incumbent")

    steer(store, vector, 30.0)

    assert chosen(store, rule="incumbent").selection_score == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("offset", "layer"), [(0, 12), (2, 14), (3, 14), (-5, 8), (-9, 3), (9, 20)]
)
def test_the_incumbent_moves_on_to_the_nearest_fitted_layer(store, offset, layer):
    """Halfway, the lower layer is taken, as by `min` over ascending layers."""
    for each in (3, 8, 12, 14, 16, 20):
        vector = add(store, each)
        add(store, each + 1, method="lda")
        if each == 12:
            steer(store, vector, 60.0)

    choice = chosen(store, rule="incumbent", settings=Settings(offset=offset))

    assert (choice.layer, choice.method) == (layer, "probe")


def test_other_rules_take_no_offset(store):
    add(store)

    with pytest.raises(ConfigError, match="takes no offset"):
        chosen(store, settings=Settings(offset=1))


def test_the_only_vector_is_taken_and_says_so(store):
    add(store, 5)

    choice = chosen(store)

    assert (choice.rule, choice.n_candidates) == ("only", 1)
    assert "only vector of tone/warm on instruct" in choice.reason
    assert choice.auroc is None


def test_recorded_separations_choose_where_nothing_better_is_known(store):
    add(store, 2, separation=1.0)
    add(store, 5, separation=3.25)
    add(store, 5, method="random", separation=9.0)
    add(store, 5, method="probe-clean")

    choice = chosen(store)

    assert (choice.layer, choice.method, choice.rule) == (5, "probe", "separation")
    assert choice.selection_score == 3.25
    assert (choice.auroc, choice.g) == (None, None), "what chose does not report"
    assert "optimistic" in choice.reason


def test_vectors_of_which_nothing_is_known_are_not_chosen_among(store):
    """The message says what would help, and the other trait is recorded all the same."""
    add(store, 2, separation=1.0)
    add(store, 5)
    add(store, 5, trait="tone/cold")

    with pytest.raises(ChoiceError, match="which of its 2 vectors") as caught:
        choose_vectors(store)

    assert all(
        word in str(caught.value) for word in ("steering", "scenarios", "separation", "--pick")
    )
    assert [key[0] for key in store.snapshot.choices] == ["tone/cold"]


def test_each_model_has_a_choice_of_its_own(store):
    add(store, 2)
    add(store, 5, model="flattery")

    choices = choose_vectors(store)

    assert [(one.model, one.layer) for one in choices] == [("flattery", 5), ("instruct", 2)]
    assert sum(vector.chosen is not None for vector in store.snapshot.vectors()) == 2


def test_a_model_in_another_precision_is_chosen_for_when_it_is_named(store):
    """It is there to be compared with: its vectors answer to hashes only."""
    copy = name_in_precision("instruct", "int8")
    add(store, 2)
    add(store, 5, model=copy)

    assert [one.model for one in choose(store).choices] == ["instruct"]
    assert [one.model for one in choose(store, filters=Filters(model=copy)).choices] == [copy]


def test_filters_narrow_what_is_chosen_among(store):
    for method, gain in (("probe", 30.0), ("lda", 60.0)):
        steer(store, add(store, 5, method=method), gain)

    outcome = choose(store, filters=Filters(method="probe"))

    assert [one.method for one in outcome.choices] == ["probe"]
    with pytest.raises(UnknownVectorError, match="did you mean 'probe'"):
        choose(store, filters=Filters(method="prob"))


def test_a_misspelt_trait_is_told_its_nearest(store):
    add(store)
    add(store, trait="manner/warm")

    with pytest.raises(UnknownVectorError, match="'warm'"):
        choose(store, ["wram"])
    with pytest.raises(AmbiguousVectorError, match="manner/warm, tone/warm"):
        choose(store, ["warm"])
    with pytest.raises(ConfigError, match="steering"):
        choose(store, rule="sterring")


def test_what_has_not_changed_is_not_recorded_again(store):
    vector = add(store, 2)
    add(store, 5)
    steer(store, vector, 40.0)
    first = chosen(store)
    number = store.snapshot.number

    again = choose(store)

    assert again.choices == (first,)
    assert again.new == ()
    assert store.snapshot.number == number


def test_an_interruption_costs_the_trait_at_hand_only(store, monkeypatch):
    add(store, trait="tone/cold")
    add(store, trait="tone/warm")

    def stop_at_warm(_, candidates, __):
        if candidates.trait == "tone/warm":
            raise KeyboardInterrupt
        return pick_named(candidates.vectors[0], 1)

    monkeypatch.setitem(RULES, "auto", stop_at_warm)

    with pytest.raises(KeyboardInterrupt):
        choose(store)

    assert [key[0] for key in store.snapshot.choices] == ["tone/cold"]


def test_a_dry_run_records_nothing(store):
    add(store)
    number = store.snapshot.number

    outcome = choose(store, dry_run=True)

    assert len(outcome.new) == 1
    assert store.snapshot.number == number


def test_what_a_person_named_is_overturned_by_a_person_only(store):
    add(store, 2)
    steer(store, add(store, 5), 60.0)
    choose_named(store, ["warm@2"])

    assert chosen(store).rule == "named"
    assert chosen(store).layer == 2
    (choice,) = choose(store, keep_named=False).choices
    assert (choice.rule, choice.layer) == ("steering", 5)


def test_a_named_vector_that_is_fitted_anew_stays_the_named_one(store):
    old = add(store, 2)
    steer(store, add(store, 5), 60.0)
    choose_named(store, ["warm@2"])
    for seed in (1, 2):
        values = np.random.default_rng(seed).standard_normal(8)
        with store.writer() as writer:
            writer.remove_vectors([old])
            old = type(old)(TRAIT, values, 2, method="probe", model="instruct")
            writer.add_rows("vectors", [old.to_row()])

        choice = chosen(store)

        assert (choice.rule, choice.vector_hash) == ("named", old.content_hash)
        assert choice.reason == "named by hand, one of 2 vectors; fitted anew since"


def test_when_the_named_vector_has_left_a_rule_chooses_again(store):
    add(store, 2)
    steer(store, add(store, 5), 60.0)
    choose_named(store, ["warm@2"])
    remove_vectors(store, ["warm@2"])

    assert chosen(store).rule == "only"


def test_naming_needs_one_vector(store):
    add(store, 2)
    add(store, 5)
    add(store, 5, position="response[:5]")

    with pytest.raises(AmbiguousVectorError, match="names 3 vectors"):
        choose_named(store, ["warm"])
    with pytest.raises(AmbiguousVectorError, match="names 2 vectors"):
        choose_named(store, ["warm:probe@5"])
    with pytest.raises(AmbiguousVectorError, match="cannot both"):
        choose_named(store, ["warm@2", "warm@5"], filters=Filters(position="unknown"))
    with pytest.raises(UnknownVectorError, match="did you mean"):
        choose_named(store, ["tone/warn:probe@2"])

    (choice,) = choose_named(store, ["warm@5"], filters=Filters(position="response[:5]")).choices
    assert choice.position == "response[:5]"


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    runs=st.lists(
        st.tuples(
            st.sampled_from([2, 5, 7]),
            st.sampled_from([-2.0, 1.0, 4.0]),
            st.floats(0, 100),
            st.one_of(st.none(), st.floats(0, 100)),
            st.floats(60, 95),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_the_incumbent_rule_is_its_formula(tmp_path, runs):
    """Against the rule in plain Python: the largest signed change of the runs that pass."""
    store = tistore.create(tmp_path / f"{next(_numbers)}.tistore")
    vectors = {layer: add(store, layer) for layer in (2, 5, 7)}
    for layer, coefficient, trait, baseline, coherence in runs:
        steer(
            store, vectors[layer], trait, coefficient=coefficient, coherence=coherence,
            baseline=baseline,
        )  # fmt: skip
    deltas = [
        (trait - baseline) * np.sign(coefficient)
        for _, coefficient, trait, baseline, coherence in runs
        if baseline is not None and coherence >= 77
    ]

    if not deltas or max(deltas) < 20:
        with pytest.raises(ChoiceError):
            chosen(store, rule="incumbent")
    else:
        assert chosen(store, rule="incumbent").selection_score == pytest.approx(max(deltas))


def read_answer(store, prompt_set, layers):
    with store.writer() as writer:
        writer.add(
            organism="instruct",
            reader="instruct",
            prompt_set=prompt_set,
            prompt_id="1",
            token_ids=[1, 2, 3],
            prompt_length=1,
            layers=layers,
            activations={"residual": np.ones((3, len(layers), 8))},
        )


def test_a_vector_of_a_layer_that_no_answer_was_read_at_is_no_candidate(store):
    """Its name would be of no use; scenarios are read at more layers than audits."""
    far = add(store, layer=2, separation=3.0)
    near = add(store, layer=5, separation=2.0)
    read_answer(store, f"scenarios/{TRAIT}/positive", [2, 5])

    assert chosen(store, rule="separation").vector_hash == far.content_hash

    read_answer(store, "audit/one", [5])

    assert chosen(store, rule="separation").vector_hash == near.content_hash
    only = choose(store, rule="separation", filters=Filters(method="probe"), dry_run=True)
    assert only.choices[0].n_candidates == 1


def test_vectors_none_of_which_was_read_at_are_chosen_among_all_the_same(store):
    read_answer(store, "audit/one", [7])
    best = add(store, layer=2, separation=3.0)
    add(store, layer=5, separation=2.0)

    assert chosen(store, rule="separation").vector_hash == best.content_hash
