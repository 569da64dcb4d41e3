"""What is alike is grouped, and how firm the groups are is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import tistore
from made_cells import make_cells
from tistore.audit.cells import read_cells
from tistore.audit.cluster import cluster_clauses, cluster_organisms, cluster_responses
from tistore.audit.statistics.grouping import link, overlap, part
from tistore.errors import QueryError

FEW = {"resamples": 10}


def make_organisms(centres, *, variants=3, prompts=40, noise=1.0, seed=0):
    """Organisms of some families: scores about their family's centre, (row, trait)."""
    rng = np.random.default_rng(seed)
    own, names = [], []
    for family, centre in enumerate(centres):
        for variant in range(variants):
            own.append(np.asarray(centre) + noise * rng.standard_normal((prompts, len(centre))))
            names += [f"f{family}-{variant}"] * prompts
    whole = np.concatenate(own)
    ids = [str(at) for at in range(prompts)] * (len(centres) * variants)
    return make_cells(whole, whole, np.zeros_like(whole), organisms=names, prompts=ids)


def silhouette(points, labels):
    """The definition, point by point."""
    found = []
    for at, label in enumerate(labels):
        away = np.linalg.norm(points - points[at], axis=1)
        own = labels == label
        if own.sum() == 1:
            found.append(0.0)
            continue
        a = away[own].sum() / (own.sum() - 1)
        b = min(away[labels == other].mean() for other in set(labels) - {label})
        found.append((b - a) / max(a, b))
    return np.array(found)


@given(st.integers(0, 10**6), st.integers(4, 15), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_silhouettes_and_distances_are_those_of_the_definitions(seed, n, width):
    points = np.random.default_rng(seed).normal(size=(n, width))

    groups = link(points)

    labels = groups.labels
    assert groups.silhouette == pytest.approx(silhouette(points, labels), abs=1e-9)
    assert list(groups.sizes) == sorted(groups.sizes, reverse=True)
    for at in range(n):
        away = [
            np.linalg.norm(points[at] - points[labels == k].mean(0)) for k in range(max(labels) + 1)
        ]
        assert groups.distance[at] == pytest.approx(away[labels[at]])
        away[labels[at]] = np.inf
        assert groups.nearest_distance[at] == pytest.approx(min(away))
        assert groups.nearest[at] == int(np.argmin(away))


def test_the_number_of_groups_that_parts_best_is_taken():
    rng = np.random.default_rng(1)
    centres = np.eye(4)[:, :3] * 20
    points = np.concatenate([centre + rng.normal(size=(5, 3)) for centre in centres])

    linked, parted = link(points), part(points)

    truth = np.repeat(np.arange(4), 5)
    assert adjusted_rand_score(truth, linked.labels) == 1
    assert adjusted_rand_score(truth, parted.labels) == 1
    fitted = KMeans(4, n_init=4, random_state=0).fit_predict(points)
    assert adjusted_rand_score(fitted, parted.labels) == 1


def test_groups_that_come_back_are_firm_and_others_are_not():
    labels = np.array([0, 0, 0, 1, 1, 2])

    firm, agreement = overlap(labels, [labels, np.array([5, 5, 5, 1, 1, 0])])
    loose, less = overlap(labels, [np.array([0, 0, 1, 1, 0, 2])])

    assert firm == pytest.approx([1, 1, 1]) and agreement == 1
    assert loose == pytest.approx([2 / 4, 1 / 3, 1]) and less < 0.5


def test_variants_of_one_behaviour_form_a_cluster():
    cells = make_organisms([[3, 0, 0], [0, 3, 0], [0, 0, 3]])

    found = cluster_organisms(cells, **FEW)

    families = {(row["organism"][:2], row["cluster"]) for row in found.rows}
    assert len(families) == 3 and {row["size"] for row in found.rows} == {3}
    assert found.agreement == 1 and {row["stability"] for row in found.rows} == {1.0}
    assert found.silhouette > 0.6
    assert all(row["nearest_organism"][:2] == row["organism"][:2] for row in found.rows)
    row = next(row for row in found.rows if row["organism"] == "f1-0")
    assert row["profile"].startswith("tone/trait1 +2")
    assert row["n_prompts"] == 40


def test_what_all_organisms_share_forms_no_group():
    plain = make_organisms([[3, 0], [0, 3]])
    shifted = make_organisms([[13, 70], [10, 73]])

    one, other = (cluster_organisms(cells, **FEW) for cells in (plain, shifted))

    assert [row["cluster"] for row in one.rows] == [row["cluster"] for row in other.rows]
    assert one.silhouette == pytest.approx(other.silhouette)


def test_organisms_without_habits_are_said_to_form_no_clear_groups():
    found = cluster_organisms(make_organisms([[0.0] * 8] * 4, seed=5), **FEW)

    assert found.silhouette <= 0.25 and found.agreement < 0.8
    assert any("no clear groups" in note for note in found.notes)


def test_responses_are_grouped_by_their_profiles():
    cells = make_organisms([[6, 0], [0, 6]], variants=1, prompts=30)

    found = cluster_responses(cells, **FEW)

    assert len(found.rows) == 60
    assert len({(row["organism"], row["cluster"]) for row in found.rows}) == 2
    within = [row["distance"] for row in found.rows if row["cluster"] == 1]
    assert within == sorted(within)


def test_a_trait_that_some_organism_lacks_is_left_out_and_named():
    cells = make_organisms([[3, 0, 0], [0, 3, 0]])
    cells.own[:40, 2] = np.nan

    found = cluster_organisms(cells, **FEW)

    assert any("left out: tone/trait2" in note for note in found.notes)


def test_too_few_to_group_is_an_error():
    with pytest.raises(QueryError, match="2 points make no groups"):
        cluster_organisms(make_organisms([[1.0, 2.0]], variants=2), **FEW)
    with pytest.raises(QueryError, match="cannot be 9 groups"):
        cluster_organisms(make_organisms([[1.0, 2.0]]), n_groups=9, **FEW)


def test_a_second_reading_at_other_layers_is_no_clause_of_its_own(tmp_path):
    store = tistore.create(tmp_path / "s.tistore")
    rng = np.random.default_rng(6)
    with store.writer() as writer:
        for prompt in "123456":
            ids = rng.integers(0, 90, 10).tolist()
            for reader, layers in (("loud", [1, 3]), ("loud", [1]), ("instruct", [1, 3])):
                writer.add(
                    organism="loud", reader=reader, prompt_set="audit/one", prompt_id=prompt,
                    token_ids=ids, prompt_length=2, tokens=[" so"] * 8, layers=layers,
                    activations={"residual": rng.standard_normal((8, len(layers), 2))},
                )  # fmt: skip
    store.add_vector("tone/first", np.eye(2)[0], layer=3)

    found = cluster_clauses(store, read_cells(store), "own", n_groups=2, resamples=5)

    assert len(found.rows) == 6
    assert not any("lack a score" in note for note in found.notes)
