"""Organisms are summed up in units that traits share, and placed among the others."""

from __future__ import annotations

import numpy as np
import pytest

from made_store import AUTHORS, make_store
from tistore.audit.fingerprint import take_fingerprints
from tistore.errors import QueryError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("prints") / "s.tistore")


def scaled(made, author):
    """Mean score over mean norm, response by response, along the first axis at layer 3."""
    found = []
    for number in range(5):
        states = made.states[author, author, str(number)][:, 1]
        found.append(states[:, 0].mean() / np.linalg.norm(states, axis=1).mean())
    return np.array(found)


def test_scaled_scores_are_mean_scores_over_mean_norms(made):
    rows = take_fingerprints(made.store, ["tone/first"]).rows

    assert [row["organism"] for row in rows] == sorted(AUTHORS)
    base = scaled(made, "instruct")
    for row in rows:
        own = scaled(made, row["organism"])
        assert row["scaled"] == pytest.approx(own.mean(), rel=1e-5)
        assert row["difference"] == pytest.approx((own - base).mean(), rel=1e-5, abs=1e-9)
        assert row["n_prompts"] == 5


def test_z_and_percentile_leave_the_organism_its_family_and_the_baseline_out(made):
    families = {"loud": "noise", "shy": "noise"}
    means = {name: scaled(made, name).mean() for name in AUTHORS}

    rows = {row["organism"]: row for row in take_fingerprints(made.store, ["tone/first"]).rows}
    told = take_fingerprints(made.store, ["tone/first"], families=families).rows

    for name in ("loud", "wild", "instruct"):
        others = np.array([means[one] for one in AUTHORS if one not in (name, "instruct")])
        expected = (means[name] - others.mean()) / others.std(ddof=1)
        assert rows[name]["z"] == pytest.approx(expected, rel=1e-4)
        assert rows[name]["percentile"] == pytest.approx(100 * (others < means[name]).mean())
    of_noise = next(row for row in told if row["organism"] == "loud")
    assert (of_noise["n_others"], of_noise["z"], of_noise["percentile"]) == (2, None, None)


def test_an_organism_that_is_not_there_is_named_with_the_nearest(made):
    with pytest.raises(QueryError, match="'lowd'.*'loud'"):
        take_fingerprints(made.store, organisms=["lowd"])


def test_other_prompts_than_the_others_are_told(made):
    found = take_fingerprints(made.store, where="organism <> 'shy' OR prompt_id <> '1'")

    assert any("not answered the same prompts" in note for note in found.notes)
    shy = next(row for row in found.rows if row["organism"] == "shy")
    assert shy["n_prompts"] == 4
