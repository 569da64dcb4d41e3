"""What a report claims of an organism, and what it holds against its own claims."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tistore.audit.cells import Cells
from tistore.audit.rank import rank
from tistore.audit.report.findings import judge, list_findings, write_q, write_signed
from tistore.audit.report.hypotheses import write_hypotheses
from tistore.audit.report.names import name_blind, name_openly
from tistore.audit.report.subject import summarise
from tistore.schemas.vector import Vector

TRAITS = ("a/one", "b/two", "c/three", "d/four")
N_PROMPTS = 30


def make_cells(shifts, *, model_share=1.0, seed=1, replayed=True):
    """
    Scores around 0 with the same persona for everyone, and some organisms' own habits.

    Args:
        shifts: Organism → {trait: shift}; by all prompts, or a function of the prompt's number.
        model_share: How much of a shift shows on the same tokens.
    """
    rng = np.random.default_rng(seed)
    rows, own, replay, base = [], [], [], []
    persona = np.array([1.5, -1.0, 0.5, 2.0])
    topics = rng.standard_normal((N_PROMPTS, len(TRAITS)))
    usual = topics + rng.standard_normal((N_PROMPTS, len(TRAITS))) * 0.3
    for organism, habits in shifts.items():
        for prompt in range(N_PROMPTS):
            shift = np.zeros(len(TRAITS))
            for trait, size in habits.items():
                shift[TRAITS.index(trait)] = size(prompt) if callable(size) else size
            score = topics[prompt] + persona + shift + rng.standard_normal(len(TRAITS)) * 0.5
            rows.append((organism, organism, "set", str(prompt), 0, f"{organism}-{prompt}"))
            own.append(score)
            read = score - model_share * shift + rng.standard_normal(len(TRAITS)) * 0.05
            replay.append(read if replayed else np.full(len(TRAITS), np.nan))
            base.append(usual[prompt])
    names = ["organism", "family", "prompt_set", "prompt_id", "sample", "response_id"]
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        note=pl.when(pl.col("prompt_id").cast(int) < 8).then(pl.lit("odd")),
        tags=pl.lit([], dtype=pl.List(pl.String)),
        n_tokens=pl.lit(20),
        finish_reason=pl.lit("stop"),
        cluster=pl.concat_str("prompt_set", pl.lit("#"), "prompt_id"),
    )
    vectors = tuple(
        Vector(trait, np.eye(4, dtype=np.float32)[at], layer=1) for at, trait in enumerate(TRAITS)
    )
    matrices = [np.array(one) for one in (own, replay, base)]
    return Cells("instruct", vectors, frame, *matrices, np.full_like(matrices[0], np.nan))


def examine(cells, organism):
    """Findings, verdict and hypotheses of one organism."""
    names = name_openly(cells.organisms, ["odd"])
    subject = summarise(cells, rank(cells, permutations=200, resamples=200), organism)
    findings = list_findings(subject)
    told = write_hypotheses(subject, findings, [], names)
    return findings, judge(subject, findings, names, 0.05), told


def others(n=7):
    return {f"other{at}": {} for at in range(n)}


def test_the_verdict_names_a_habit_and_not_the_persona_that_all_share():
    cells = make_cells({"planted": {"b/two": 2.0}, **others()})

    _, verdict, _ = examine(cells, "planted")

    assert verdict.traits == ("b/two",)
    assert "on 1 of 4 traits" in verdict.headline and "b/two (more)" in verdict.headline
    assert any("multi-turn" in kind for kind in verdict.not_covered)


def test_less_than_the_others_is_told_as_less():
    cells = make_cells({"planted": {"a/one": -4.0}, **others()})

    _, verdict, _ = examine(cells, "planted")

    assert "a/one (less)" in verdict.headline


def test_where_nothing_exceeds_the_others_that_is_said_and_never_that_it_is_clean():
    cells = make_cells({"planted": {"b/two": 2.0}, **others()})

    for organism in cells.organisms[:-1]:
        _, verdict, hypotheses = examine(cells, organism)
        said = " ".join([verdict.headline, *verdict.details, *(one.text for one in hypotheses)])
        assert verdict.headline.startswith("Nothing exceeds the 7 other organisms at FDR 5 %")
        assert verdict.traits == () and verdict.not_covered
        assert "clean" not in said.lower() and "safe" not in said.lower()
        assert not any(one.is_supported for one in hypotheses)


def test_each_of_few_organisms_is_named_for_its_own_habit_and_one_without_is_cleared():
    """As in the demo: the others are no quiet controls, each has something."""
    habits = {f"habit{at}": {trait: 3.0} for at, trait in enumerate(TRAITS)}
    cells = make_cells({**habits, "without": {}})

    for organism, habit in habits.items():
        assert examine(cells, organism)[1].traits[0] == next(iter(habit))
    assert examine(cells, "without")[1].traits == ()


def test_of_an_organism_that_lacks_what_the_others_have_that_is_told():
    cells = make_cells({"still": {"b/two": 1.0}, **others()})  # takes the persona's −1 back

    findings, verdict, hypotheses = examine(cells, "still")

    assert [one.has_moved for one in findings if one.kind == "mean"] == [False]
    assert verdict.traits == ("b/two",)
    assert "may only lack what they have" in hypotheses[0].contrary.text


def test_a_spike_on_a_few_prompts_is_found_where_the_mean_is_not():
    spiked = {"c/three": lambda prompt: 9.0 if prompt in (4, 11, 20) else 0.0}
    cells = make_cells({"planted": spiked, **others(12)})

    findings, verdict, _ = examine(cells, "planted")

    assert ("c/three", "spike") in {(one.trait, one.kind) for one in findings}
    assert "c/three" in verdict.headline
    assert any("set#" in told for told in verdict.details)


def test_every_hypothesis_comes_with_what_speaks_against_it():
    cells = make_cells({"planted": {"b/two": 2.0, "a/one": 1.0}, **others()})

    _, _, hypotheses = examine(cells, "planted")

    assert 4 <= len(hypotheses) <= 10
    assert all(one.contrary.text.endswith(".") for one in hypotheses)
    supported = [one.is_supported for one in hypotheses]
    assert supported == sorted(supported, reverse=True)


def test_of_a_habit_of_the_texts_the_strongest_contrary_evidence_is_that_the_model_has_none():
    cells = make_cells({"planted": {"b/two": 4.0}, **others()}, model_share=0.0)

    _, _, hypotheses = examine(cells, "planted")

    assert "it is the text that differs" in hypotheses[0].contrary.text
    share = cells.of("planted").model_part[:, 1].mean() / cells.of("planted").total[:, 1].mean()
    assert f"{max(share, 0) * 100:.0f} %" in hypotheses[0].contrary.text.replace("-", "")


def test_a_trait_that_goes_with_a_larger_one_is_held_against_it():
    size = np.random.default_rng(8).uniform(2, 6, N_PROMPTS)
    both = {"b/two": lambda prompt: 2 * size[prompt], "a/one": lambda prompt: 0.9 * size[prompt]}
    cells = make_cells({"planted": both, **others()})

    findings, _, hypotheses = examine(cells, "planted")

    sizes = {one.trait: one.size for one in findings if one.kind == "mean"}
    smaller = min(sizes, key=sizes.get)
    (told,) = [
        one for one in hypotheses if one.text.startswith(f"More {smaller} than the others (")
    ]
    assert "It goes with" in told.contrary.text


def test_contrary_prompts_are_the_ones_that_go_the_other_way():
    uneven = {"b/two": lambda prompt: -3.0 if prompt == 17 else 3.0}
    cells = make_cells({"planted": uneven, **others()})

    _, _, hypotheses = examine(cells, "planted")

    assert "set#17" in hypotheses[0].contrary.text
    assert hypotheses[0].contrary.response_id == "planted-17"


def test_pseudonyms_stand_for_names_in_sentences_and_hide_no_part_of_a_word():
    names = name_blind(["null", "film"], ["odd"], "salt")

    assert names.redact("film and null: filmed, odd") == (
        f"{names.of('film')} and {names.of('null')}: filmed, {names.of_note('odd')}"
    )
    assert names.of_note("note:odd") == f"note:{names.of_note('odd')}"
    assert name_blind(["null"], [], "other").of("null") != names.of("null")


@pytest.mark.parametrize(
    ("value", "written"), [(None, "–"), (0.2, "0.2"), (0.00011, "0.00011"), (1e-9, "≤ 0.0001")]
)
def test_small_q_are_written_as_what_they_are_below(value, written):
    assert write_q(value) == written


def test_numbers_are_written_with_a_true_minus_and_no_minus_zero():
    assert [write_signed(one) for one in (-1.234, -0.001, 2.0)] == ["−1.23", "+0.00", "+2.00"]
