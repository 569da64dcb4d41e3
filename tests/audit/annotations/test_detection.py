"""Early detection against scikit-learn's AUROC and against thresholds set by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scored_store import PROMPT, make_scored
from tistore.audit.annotations.detection import DetectionRule, detect_early
from tistore.audit.annotations.tracks import LabelQuestion
from tistore.errors import QueryError

ODD = LabelQuestion("odd", ("odd",))


def fill(scored, labelled, controls, onset):
    """Store a response for each prompt; scores in sixteenths, which float16 holds exactly."""
    for place, scores in enumerate([*labelled, *controls]):
        response_id = scored.add(scores.tolist(), prompt=str(place))
        if place < len(labelled):
            scored.label(response_id, onset, onset + 1)
    return scored


def draw(rng, n, n_tokens, shift=0.0):
    return np.round((rng.standard_normal((n, n_tokens)) + shift) * 16) / 16


def test_the_auroc_is_scikit_learns_when_all_onsets_are_at_one_place(tmp_path):
    rng = np.random.default_rng(2)
    labelled, controls = draw(rng, 9, 12, 0.5), draw(rng, 11, 12)
    # Later tokens of the controls are far above: they must not be looked at.
    controls[:, 6:] += 50
    scored = fill(make_scored(tmp_path / "s.tistore"), labelled, controls, 6)

    (row,) = detect_early(scored.store, ODD).rows

    largest = [*labelled[:, :6].max(axis=1), *controls[:, :6].max(axis=1)]
    oracle = roc_auc_score([1] * 9 + [0] * 11, largest)
    assert row["auroc"] == pytest.approx(oracle)
    assert row["auroc_low"] < oracle < row["auroc_high"]
    assert (row["n_responses"], row["n_controls"], row["n_auroc_prompts"]) == (9, 11, 9)


def test_controls_are_matched_by_place_so_that_a_late_onset_is_no_head_start(tmp_path):
    """Where every response is the same noise, later onsets have larger maxima, but no AUROC."""
    rng = np.random.default_rng(4)
    scored = make_scored(tmp_path / "s.tistore")
    for place in range(40):
        response_id = scored.add(draw(rng, 1, 30)[0].tolist(), prompt=str(place))
        if place < 20:
            scored.label(response_id, 28, 29)

    found = detect_early(scored.store, ODD)

    (row,) = found.rows
    assert row["auroc_low"] < 0.5 < row["auroc_high"]
    assert {one["n_matched"] for one in found.responses} == {20}


def test_a_response_is_detected_where_its_mean_so_far_passes_the_controls(tmp_path):
    labelled = np.array([[0, 0, 4, 4, 4, 4, 4, 4], [0, 0, 0, 0, 0, 0, 9, 9.0]])
    controls = np.array([[0, 1, 0, 1, 0, 1, 0, 1], [9, 0, 0, 0, 0, 0, 0, 0], np.zeros(8)])
    scored = fill(make_scored(tmp_path / "s.tistore"), labelled, controls, 5)
    rule = DetectionRule(warm_up=4, false_alarms=0.3)

    found = detect_early(scored.store, ODD, rule)

    # From the fourth token on the controls' means reach 0.5, 2.25 and 0; one in three may pass.
    (row,) = found.rows
    assert row["threshold"] == 2.25
    # (0+0+4+4)/4 = 2 does not pass, 12/5 does: at the sixth token's predecessor, one before 5.
    first, second = found.responses
    assert (first["onset"], first["detected_at"], first["lead"]) == (PROMPT + 5, PROMPT + 4, 1)
    assert (second["detected_at"], second["lead"]) == (None, None)
    assert (row["n_detected"], row["n_detected_before"], row["median_lead"]) == (1, 1, 1.0)
    assert row["control_alarms"] == 0.0


@pytest.mark.parametrize("false_alarms", [0.1, 0.25, 0.5])
def test_no_more_controls_than_asked_for_pass_the_threshold(tmp_path, false_alarms):
    rng = np.random.default_rng(9)
    scored = fill(make_scored(tmp_path / "s.tistore"), draw(rng, 2, 12, 3.0), draw(rng, 16, 12), 6)

    (row,) = detect_early(scored.store, ODD, DetectionRule(false_alarms=false_alarms)).rows

    assert false_alarms - 1 / 16 <= row["control_alarms"] <= false_alarms


def test_half_is_the_first_token_above_half_of_the_final_mean(tmp_path):
    """trait-interp's rule; a response whose mean is not above 0 has no half."""
    labelled = np.array([[0, 0, 3, 3, 4, 2], [0, -1, -1, -1, 0, 0.0]])
    scored = fill(make_scored(tmp_path / "s.tistore"), labelled, np.zeros((1, 6)), 3)

    found = detect_early(scored.store, ODD, DetectionRule("half"))

    # Means so far 0, 0, 1, 1.5, …, 2: the first above 1 is the fourth, on the onset itself.
    assert [one["lead"] for one in found.responses] == [0, None]
    assert found.rows[0]["threshold"] is None
    assert found.rows[0]["n_detected_before"] == 0


def test_a_prompt_counts_once_however_many_samples_it_has(tmp_path):
    """The interval is of prompts: four samples of the same answer are no more than one."""
    rng = np.random.default_rng(1)
    labelled, controls = draw(rng, 5, 8, 0.4), draw(rng, 6, 8)
    once, often = (make_scored(tmp_path / f"{name}.tistore") for name in ("once", "often"))
    for scored, samples in ((once, 1), (often, 4)):
        for place, scores in enumerate([*labelled, *controls]):
            for sample in range(samples):
                response_id = scored.add(scores.tolist(), prompt=str(place), sample=sample)
                if place < len(labelled):
                    scored.label(response_id, 5, 6)

    (one,), (many,) = (detect_early(scored.store, ODD).rows for scored in (once, often))

    for name in ("auroc", "auroc_low", "auroc_high", "n_auroc_prompts"):
        assert one[name] == many[name]
    assert many["n_responses"] == 4 * one["n_responses"]


def test_the_difference_is_told_apart_from_what_both_readers_see(tmp_path):
    scored = make_scored(tmp_path / "s.tistore")
    for place in range(8):
        own = np.full(8, float(place % 4))
        model_part = 2.0 if place < 4 else 0.0
        response_id = scored.add(
            own.tolist(), prompt=str(place), replay=(own - model_part).tolist()
        )
        if place < 4:
            scored.label(response_id, 6, 7)

    (scores,) = detect_early(scored.store, ODD).rows
    (differences,) = detect_early(scored.store, ODD, DetectionRule(on_difference=True)).rows

    assert (scores["auroc"], differences["auroc"]) == (0.5, 1.0)


def test_controls_may_be_another_organisms_and_have_to_be_somebodys(tmp_path):
    scored = make_scored(tmp_path / "s.tistore")
    for prompt in "12":
        scored.label(scored.add([1.0] * 8, prompt=prompt), 6, 7)
        scored.add([0.0] * 8, prompt=prompt, organism="instruct")
    scored.add([0.0] * 8, prompt="1", organism="instruct", prompt_set="elsewhere")

    found = detect_early(scored.store, replace(ODD, controls=("instruct",)))

    assert (found.rows[0]["n_controls"], found.rows[0]["auroc"]) == (2, 1.0)
    assert found.n_cells == 4
    with pytest.raises(QueryError, match="every response of loud there is labelled 'odd'"):
        detect_early(scored.store, ODD)
    with pytest.raises(QueryError, match="no organism 'instrct'; did you mean 'instruct'"):
        detect_early(scored.store, replace(ODD, controls=("instrct",)))


def test_an_onset_on_the_first_token_has_nothing_before_it(tmp_path):
    scored = make_scored(tmp_path / "s.tistore")
    scored.label(scored.add([1.0] * 8, prompt="1"), 0, 2)
    scored.add([0.0] * 8, prompt="2")

    found = detect_early(scored.store, ODD)

    assert found.rows[0]["auroc"] is None and found.rows[0]["n_auroc_prompts"] == 0
    assert found.responses[0]["max_before"] is None
    assert found.responses[0]["lead"] == -4  # detected once the warm-up is over


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "thrshold"}, "no rule 'thrshold'; did you mean 'threshold'"),
        ({"false_alarms": 1.0}, "no share of false alarms"),
        ({"warm_up": 0}, "1 token or more"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(changes, told):
    with pytest.raises(QueryError, match=told):
        DetectionRule(**changes)


def test_controls_shorter_than_the_warm_up_and_missing_replays_are_told(tmp_path):
    scored = make_scored(tmp_path / "s.tistore")
    scored.label(scored.add([1.0] * 8, prompt="1"), 6, 7)
    scored.add([0.0] * 4, prompt="2")

    with pytest.raises(QueryError, match="no control has the 5 tokens of the warm-up"):
        detect_early(scored.store, ODD)
    with pytest.raises(QueryError, match="instruct has read none of the labelled responses"):
        detect_early(scored.store, ODD, DetectionRule(on_difference=True))
