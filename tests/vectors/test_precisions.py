"""Precisions are compared on the same texts, layer by layer, and their layers are ranked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

import tistore
from tistore.errors import QueryError
from tistore.schemas.model import PRECISIONS, find_original, is_copy, name_in_precision
from tistore.schemas.site import Site
from tistore.vectors.comparing.precisions import compare_precisions, correlate_ranks
from tistore.vectors.methods.registry import find_method
from tistore.vectors.scenario_readings import scenario_set
from tistore.vectors.scenario_rows import open_scenarios

LAYERS = (0, 1, 2, 3)
WIDTH = 16
NOISE = {"bf16": 0.0, "int8": 0.05, "int3": 2.0}
READERS = {name: name_in_precision("instruct", name) for name in NOISE}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Ten scenarios a side, told apart the better the deeper; the int3 arm lacks the first pair."""
    made = tistore.create(tmp_path_factory.mktemp("precisions") / "s.tistore")
    rng = np.random.default_rng(0)
    trait = np.linspace(0.2, 1.5, len(LAYERS))[:, None] * rng.standard_normal(WIDTH)
    with made.writer() as writer:
        for number in range(1, 11):
            for sign, side in ((1, "positive"), (-1, "negative")):
                rows = sign * trait + rng.standard_normal((3, len(LAYERS), WIDTH))
                for name, reader in READERS.items():
                    if name == "int3" and number == 1:
                        continue
                    noise = NOISE[name] * rng.standard_normal(rows.shape)
                    writer.add(
                        organism="scenarios",
                        reader=reader,
                        prompt_set=scenario_set("tone/joy", side),
                        prompt_id=str(number),
                        token_ids=[1, 2, number, 4],
                        prompt_length=1,
                        layers=LAYERS,
                        activations={"residual": rows + noise},
                    )
    return made


@pytest.fixture(scope="module")
def rows(store):
    """What every arm has read: all but the first pair."""
    reader = READERS["int3"]
    kept = open_scenarios(store, "tone/joy", reader=reader).to_row()["response_ids"]
    return {
        name: open_scenarios(store, "tone/joy", reader=reader, kept=kept)
        for name, reader in READERS.items()
    }


def compare(rows):
    sites = [Site("residual", layer) for layer in LAYERS]
    return compare_precisions(rows, "bf16", sites, find_method("mean_diff"))


def test_every_arm_is_compared_at_every_layer(rows):
    found = compare(rows)

    assert [(one.arm, one.site.layer) for one in found] == [
        (arm, layer) for arm in ("int8", "int3") for layer in LAYERS
    ]
    assert {(one.trait, one.reference, one.reference_reader) for one in found} == {
        ("tone/joy", "bf16", READERS["bf16"])
    }
    assert {(one.arm, one.reader) for one in found} == {
        (arm, READERS[arm]) for arm in ("int8", "int3")
    }


def test_directions_and_errors_are_numpys(rows):
    """The oracle sees the stored rows only."""
    for one in compare(rows):
        before, after = (rows[name].at(one.site) for name in ("bf16", one.arm))
        first, second = (
            side.positive.astype(np.float64).mean(0) - side.negative.astype(np.float64).mean(0)
            for side in (before, after)
        )
        together = [np.concatenate([c.positive, c.negative]).astype(float) for c in (before, after)]
        errors = np.linalg.norm(together[1] - together[0], axis=1)

        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert one.found.cosine == pytest.approx(cosine, abs=1e-6)
        expected = np.mean(errors / np.linalg.norm(together[0], axis=1))
        assert one.found.row_error == pytest.approx(expected, rel=1e-6)


def test_layers_are_ranked_by_held_out_g(rows):
    for arm in ("int8", "int3"):
        group = [one for one in compare(rows) if one.arm == arm]
        own = rankdata([-one.found.evaluation.g for one in group])
        before = rankdata([-one.found.reference.g for one in group])

        assert [one.rank for one in group] == own.tolist()
        assert [one.reference_rank for one in group] == before.tolist()
        assert correlate_ranks(group) == pytest.approx(spearmanr(own, before).statistic)
        assert correlate_ranks(group[:2]) is None


def test_arms_that_read_other_texts_are_not_compared(store, rows):
    other = open_scenarios(store, "tone/joy", reader=READERS["int8"])

    with pytest.raises(QueryError, match=r"instruct~int8 and instruct~bf16 have read other texts"):
        compare(rows | {"int8": other})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_copys_name_tells_whose_it_is(precision):
    copy = name_in_precision("my~base", precision)

    assert is_copy(copy)
    assert find_original(copy) == find_original(f"{copy}~again") == "my~base"


@pytest.mark.parametrize("name", [None, "instruct", "bf16", "a~b", "nf4-llama"])
def test_other_names_are_no_copies(name):
    assert not is_copy(name)
