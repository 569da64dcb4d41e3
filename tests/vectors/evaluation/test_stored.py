"""Evaluating vectors of a store, from the command line too."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tistore
from command_line import run
from scenario_store import HIDDEN, write_scenario_store
from tistore.errors import ConfigError, NotStoredError, QueryError, UnknownVectorError
from tistore.schemas.evaluation import VectorEvaluation
from tistore.schemas.prompt import Prompt
from tistore.vectors.choosing.choose import choose_named
from tistore.vectors.contrast import Contrast
from tistore.vectors.evaluation.cross_fit import cross_fit
from tistore.vectors.evaluation.evaluate import QUICK, Effort, massive_energy
from tistore.vectors.evaluation.specificity import lay_out_matrix, measure_specificity
from tistore.vectors.evaluation.stored import evaluate_vectors
from tistore.vectors.methods.registry import METHODS

TRAITS = ("tone/polite", "tone/terse", "mind/doubt")
SMALL = Effort(resamples=100, permutations=20, random=20, splits=2)


@pytest.fixture
def written(tmp_path):
    made = write_scenario_store(tmp_path / "s.tistore", TRAITS)
    for trait in TRAITS:
        made.add_mean_difference(trait, 5)
    return made


def contrast_of(written, trait: str, layer: int = 5) -> Contrast:
    groups = np.arange(20)
    sides = (written.rows[trait, side, layer] for side in ("positive", "negative"))
    return Contrast(*sides, groups, groups)


def test_a_stored_vector_is_evaluated_as_its_rows_in_numpy_are(written):
    """The rows come from the store; the oracle's are those that were written to it."""
    done = evaluate_vectors(written.store, ["polite"], effort=SMALL)

    (one,) = done.evaluations
    held_out = cross_fit(contrast_of(written, "tone/polite"), METHODS["mean_diff"])
    assert (one.trait, one.tested_on, one.layer) == ("tone/polite", "tone/polite", 5)
    assert (one.evaluation.n_positive, one.evaluation.n_groups) == (20, 20)
    assert one.evaluation.is_paired and one.evaluation.polarity == 1
    assert one.evaluation.auroc == pytest.approx(held_out.auroc)
    assert one.evaluation.g == pytest.approx(held_out.g, rel=1e-4)
    assert one.evaluation.auroc > 0.9 and one.evaluation.beats_nulls
    assert one.evaluation.massive_energy is None  # not calibrated
    assert done.notes == ()


def test_figures_are_stored_and_sql_can_ask_for_them(written):
    done = evaluate_vectors(written.store, effort=QUICK)

    rows = written.store.sql("SELECT trait, auroc, g_low FROM evaluations ORDER BY trait")
    assert [row["trait"] for row in rows.rows()] == sorted(TRAITS)
    table = tistore.open(written.store.path).snapshot.table("evaluations")
    assert [VectorEvaluation.from_row(row) for row in table.to_pylist()] == list(done.evaluations)


def test_the_vectors_of_a_trait_are_evaluated_at_their_own_layers(written):
    """Layer 2 holds noise only."""
    written.add_mean_difference("tone/polite", 2)

    done = evaluate_vectors(written.store, ["polite"], every=True, effort=QUICK)

    auroc = {one.layer: one.evaluation.auroc for one in done.evaluations}
    assert auroc[5] > 0.9 > 0.8 > auroc[2]


@pytest.mark.parametrize("suffix", ["-clean", "-on-clean"])
@pytest.mark.parametrize("name", ["mean_diff", "probe"])
def test_cleaned_vectors_are_fitted_again_as_they_were_cleaned(written, name, suffix):
    """Without dimension 0, where the trait lies, nothing is left to find."""
    contrast = contrast_of(written, "tone/polite")
    values = METHODS[name](contrast, 0).values.copy()
    values[0] = 0
    written.store.add_vector(
        "tone/polite", values, layer=5, method=name + suffix, position="response[:]",
        model="instruct",
    )  # fmt: skip

    done = evaluate_vectors(written.store, [f"polite:{name}{suffix}"], effort=QUICK)

    assert done.evaluations[0].evaluation.auroc < 0.75


def test_massive_energy_is_the_share_of_the_squared_length(written):
    values = np.array([3.0, 0.0, 4.0, 0.0], dtype=np.float32)
    assert massive_energy(values, [0, 1]) == pytest.approx(9 / 25)
    assert massive_energy(values, []) == 0

    done = run("calibrate", written.store.path)
    assert done.exit_code == 0, done.stderr
    store = tistore.open(written.store.path)
    (one,) = evaluate_vectors(store, ["polite"], effort=QUICK).evaluations
    clean = store.vector("polite").unit
    assert one.evaluation.massive_energy is not None
    assert 0 <= one.evaluation.massive_energy <= float((clean**2).sum()) + 1e-6


def test_an_imported_vector_is_named_and_nothing_is_evaluated(written):
    rng = np.random.default_rng(0)
    written.store.add_vector("far/away", rng.normal(size=HIDDEN), layer=5, method="probe",
                             position="response[:]", model="instruct")  # fmt: skip
    written.store.add_vector("tone/blend", rng.normal(size=HIDDEN), layer=5, model="instruct")

    with pytest.raises(NotStoredError, match="far/away:probe@5: no scenarios") as raised:
        evaluate_vectors(written.store, ["polite", "away", "blend"], effort=QUICK)
    assert "tone/blend:unknown@5 cannot be fitted again" in raised.value.message
    assert not written.store.snapshot.table("evaluations").num_rows

    done = evaluate_vectors(written.store, effort=QUICK)  # nobody named them
    assert {one.trait for one in done.evaluations} == set(TRAITS)
    assert any("far/away" in note for note in done.notes)
    with pytest.raises(UnknownVectorError, match="did you mean 'polite'"):
        evaluate_vectors(written.store, ["polit"], effort=QUICK)


def test_what_was_evaluated_before_a_failure_is_kept_and_the_vector_is_named(written):
    with written.store.writer() as writer:
        for side in ("positive", "negative"):
            few = f"scenarios/tone/few/{side}"
            for number in ("1", "2"):
                writer.add(
                    organism="scenarios", reader="instruct", prompt_set=few,
                    prompt_id=number, token_ids=[len(side), int(number), 1, 2, 3], prompt_length=2,
                    layers=(2, 5), activations={"residual": np.ones((3, 2, HIDDEN))},
                )  # fmt: skip
    written.store.add_vector("tone/few", np.ones(HIDDEN), layer=5, method="mean_diff",
                             position="response[:]", model="instruct")  # fmt: skip

    with pytest.raises(ConfigError, match="tone/few:mean_diff@5: 2 scenarios on a side"):
        evaluate_vectors(written.store, ["polite", "few"], effort=QUICK)

    table = tistore.open(written.store.path).snapshot.table("evaluations")
    assert table["trait"].to_pylist() == ["tone/polite"]


def test_on_another_traits_scenarios_the_vector_is_scored_as_it_is(written):
    """NumPy: no fold, no fit, one direction for all rows."""
    (one,) = evaluate_vectors(written.store, ["polite"], on="tone/terse", effort=SMALL).evaluations

    unit = written.store.vector("polite").values.astype(float)
    unit /= np.linalg.norm(unit)
    sides = [written.rows["tone/terse", side, 5] @ unit for side in ("positive", "negative")]
    above = (sides[0][:, None] > sides[1][None, :]).mean()
    assert one.evaluation.auroc == pytest.approx(above)
    assert one.evaluation.folds == 0 and one.tested_on == "tone/terse"
    assert one.evaluation.n_permutations == 20 and one.evaluation.reliability is None
    others = evaluate_vectors(written.store, on="tone/terse", effort=QUICK).evaluations
    assert [other.trait for other in others] == ["mind/doubt", "tone/polite"]
    # It has no midpoint.
    assert one.evaluation.balanced_accuracy is None


def test_an_imported_vector_is_scored_on_the_readings_that_are_named(written):
    """Its model goes by another name here, and nobody knows its position."""
    values = np.eye(HIDDEN)[1]  # what tells terse from not
    written.store.add_vector("far/brief", values, layer=5, model="org/base-8b")

    with pytest.raises(NotStoredError, match="org/base-8b has read no scenarios of tone/terse"):
        evaluate_vectors(written.store, ["brief"], on="tone/terse", effort=QUICK)
    with pytest.raises(ConfigError, match="as its own model reads them"):
        evaluate_vectors(written.store, ["polite"], reader="instruct", effort=QUICK)
    done = evaluate_vectors(
        written.store, ["brief"], on="tone/terse", reader="instruct", effort=QUICK
    )

    sides = [written.rows["tone/terse", side, 5][:, 1] for side in ("positive", "negative")]
    above = (sides[0][:, None] > sides[1][None, :]).mean()
    assert done.evaluations[0].evaluation.auroc == pytest.approx(above)


def test_fresh_scenarios_of_the_trait_under_another_name_tell_of_the_vector(tmp_path):
    """Scenarios that both have in common are told of."""
    written = write_scenario_store(tmp_path / "s", ["tone/polite", "x/y"], shift=3)
    written.add_mean_difference("tone/polite", 5, midpoint=0.0)
    with written.store.writer() as writer:
        for number, side in ((1, "positive"), (2, "negative"), (3, "positive"), (4, "negative")):
            states = np.zeros((3, 2, HIDDEN))
            states[..., 0] = 2.0 if side == "positive" else -2.0
            shared = Prompt(f"scenarios/fresh/polite/{side}", str(number), "tone/polite positive 1")
            own = Prompt(f"scenarios/fresh/polite/{side}", str(number), f"fresh {number}")
            prompt = shared if number == 1 else own
            writer.add(
                organism="scenarios", reader="instruct", prompt_set=prompt.prompt_set,
                prompt_id=str(number), token_ids=[7, number, 1, 2, 3], prompt_length=2,
                layers=(2, 5), activations={"residual": states}, prompt=prompt,
            )  # fmt: skip

    done = evaluate_vectors(written.store, ["polite"], on="fresh/polite", effort=QUICK)

    assert done.evaluations[0].evaluation.auroc == 1
    assert done.evaluations[0].evaluation.balanced_accuracy == 1
    assert "1 of 4 scenarios of fresh/polite are scenarios of tone/polite as well" in done.notes[0]


def test_a_vector_is_not_scored_as_it_is_on_its_own_scenarios(written):
    with pytest.raises(QueryError, match="was fitted on the scenarios of tone/polite"):
        evaluate_vectors(written.store, ["polite"], on="tone/polite", effort=QUICK)


def test_every_vector_separates_its_own_scenarios_and_no_others(written):
    found = measure_specificity(written.store)

    matrix = lay_out_matrix(found.evaluations)
    assert len(found.evaluations) == 9
    assert list(matrix[0]) == ["vector", *sorted(TRAITS)]
    for row in matrix:
        own = row["vector"].partition(":")[0]
        assert row[own] > 2
        assert all(abs(row[trait]) < 1.2 for trait in TRAITS if trait != own)
    own = next(one for one in found.evaluations if one.trait == one.tested_on)
    held_out = cross_fit(contrast_of(written, own.trait), METHODS["mean_diff"])
    assert own.evaluation.auroc == pytest.approx(held_out.auroc)  # its own are held out


def test_eval_prints_one_row_a_vector_and_all_figures_as_json(written):
    done = run("vectors", "eval", written.store.path, "polite", "doubt",
               "--permutations", 20, "--random", 20, "--json")  # fmt: skip

    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["reference"] for row in rows] == [
        "tone/polite:mean_diff@5",
        "mind/doubt:mean_diff@5",
    ]
    assert rows[0]["n_permutations"] == 20 and rows[0]["beats_nulls"] is True
    assert {"auroc_low", "auroc_high", "vector_hash", "split_half_cosine"} <= set(rows[0])
    table = run("vectors", "eval", written.store.path, "polite", "--permutations", 0, "--random", 0)
    assert table.exit_code == 0 and "auroc" in table.stdout.split()


def test_specificity_prints_a_matrix_and_its_long_form_as_json(written):
    table = run("vectors", "specificity", written.store.path, "--measure", "auroc")
    assert table.exit_code == 0, table.stderr
    assert table.stdout.split()[:4] == ["vector", *sorted(TRAITS)]

    rows = json.loads(run("vectors", "specificity", written.store.path, "--json").stdout)
    assert len(rows) == 9
    assert {"reference", "tested_on", "g", "auroc", "g_low"} <= set(rows[0])


def test_what_cannot_be_scored_is_left_blank_and_said_unless_it_was_asked_for(written):
    """A vector of tokens that were not captured keeps nobody from the others."""
    values = np.arange(1.0, 13.0)
    written.store.add_vector(
        "tone/terse", values, layer=5, method="probe", position="prompt[-1]", model="instruct"
    )
    choose_named(written.store, ["terse:probe@5"])

    table = run("vectors", "specificity", written.store.path, "--format", "md")

    assert table.exit_code == 0, table.stderr
    lines = {line.split("|")[1].strip(): line for line in table.stdout.splitlines()}
    assert "tone/polite:mean_diff@5" in lines and "tone/terse:probe@5" not in lines
    assert "left blank" in table.stderr and "prompt[-1]" in table.stderr
    asked = run("vectors", "specificity", written.store.path, "terse", "polite")
    assert asked.exit_code == 1 and "prompt[-1]" in str(asked.exception)


def test_other_scenarios_are_named_without_their_category(written):
    short, full = (
        evaluate_vectors(written.store, ["polite"], on=name, effort=QUICK).evaluations[0]
        for name in ("terse", "tone/terse")
    )

    assert (short.tested_on, short.evaluation.g) == ("tone/terse", full.evaluation.g)


def test_one_trait_alone_has_nothing_to_be_specific_against(written):
    done = run("vectors", "specificity", written.store.path, "polite")

    assert done.exit_code == 1
    assert "comparison needs two or more" in str(done.exception)
