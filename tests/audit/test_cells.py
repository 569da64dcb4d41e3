"""The numbers an audit starts from are those that SQL gives, each in its place."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from departing_store import write_store_of_odd_readings
from tistore.audit.cells import read_cells
from tistore.errors import PairingError, QueryError
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt

HIDDEN, LAYER = 6, 3
BASE = Model("instruct", base_id="tiny", dtype="bfloat16")
LOUD = Model("loud", base_id="tiny", adapter_id="loud", dtype="bfloat16")
SHY = Model("shy", base_id="tiny", adapter_id="shy", dtype="bfloat16")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two organisms and their base, eleven prompts, two samples; shy's sample 1 has no replay."""
    rng = np.random.default_rng(3)
    store = tistore.create(tmp_path_factory.mktemp("cells") / "s.tistore")
    with store.writer() as writer:
        for author in (BASE, LOUD, SHY):
            for number in range(1, 12):
                for sample in (0, 1):
                    ids = rng.integers(0, 900, 9).tolist()
                    readers = [author, *([BASE] if author is not BASE else [LOUD])]
                    if author is SHY and sample == 1:
                        readers = [author]
                    for reader in readers:
                        writer.add(
                            organism=author,
                            reader=reader,
                            prompt_set="audit/one",
                            prompt_id=str(number),
                            sample=sample,
                            token_ids=ids,
                            prompt_length=4,
                            layers=[LAYER],
                            activations={"residual": rng.standard_normal((9, 1, HIDDEN))},
                            prompt=Prompt(
                                "audit/one",
                                str(number),
                                f"Ask {number}?",
                                note="odd" if number % 2 else None,
                                tags=("first",) if number == 1 else (),
                            ),
                        )
    for trait in ("tone/loud", "tone/shy"):
        store.add_vector(trait, rng.standard_normal(HIDDEN), layer=LAYER, method="mean_diff")
    return store


def test_each_cell_is_the_score_that_sql_gives(store):
    asked = store.sql(
        "SELECT organism, reader, prompt_id, sample, project($loud), project($shy) FROM responses",
        {"loud": "tone/loud", "shy": "tone/shy"},
    )
    scores = {row[:4]: row[4:] for row in asked.fetchall()}
    unread = (np.nan, np.nan)

    cells = read_cells(store)

    assert cells.organisms == ["loud", "shy"] and cells.traits == ["tone/loud", "tone/shy"]
    assert len(cells.rows) == 44
    for at, row in enumerate(cells.rows.iter_rows(named=True)):
        author, place = row["organism"], (row["prompt_id"], row["sample"])
        for matrix, (writer, reader) in {
            "own": (author, author),
            "replay": (author, "instruct"),
            "base": ("instruct", "instruct"),
            "swapped": ("instruct", author),
        }.items():
            expected = scores.get((writer, reader, *place), unread)
            found = getattr(cells, matrix)[at]
            assert found == pytest.approx(expected, rel=1e-6, nan_ok=True), (matrix, row)


def test_parts_add_up_to_the_total_where_all_are_known(store):
    cells = read_cells(store)

    whole = cells.model_part + cells.text_part

    assert np.isnan(whole).sum() == 22  # shy's second samples were not replayed
    assert whole[~np.isnan(whole)] == pytest.approx(cells.total[~np.isnan(whole)], abs=1e-12)


def test_samples_are_averaged_by_prompt_as_far_as_they_are_there(store):
    cells = read_cells(store, ["shy"]).of("shy")

    prompts = cells.by_prompt()

    assert prompts.rows["prompt_id"].to_list() == [str(number) for number in range(1, 12)]
    assert prompts.own[:, 0] == pytest.approx(cells.own.reshape(11, 2).mean(axis=1))
    assert prompts.replay[:, 0] == pytest.approx(cells.replay.reshape(11, 2)[:, 0])
    assert prompts.by_prompt() is prompts


def test_samples_that_lack_a_side_of_a_part_are_left_out_of_both_sides(store):
    cells = read_cells(store, ["shy"]).of("shy")

    prompts = cells.by_prompt("model")

    assert prompts.model_part[:, 0] == pytest.approx(cells.model_part.reshape(11, 2)[:, 0])
    assert prompts.own[:, 0] == pytest.approx(cells.own.reshape(11, 2)[:, 0])


def test_readings_of_a_text_over_other_tokens_are_no_readings_of_it(tmp_path):
    """Whatever the names of the readers: "loud" sorts behind "instruct"."""
    cells = read_cells(write_store_of_odd_readings(tmp_path / "s.tistore"))

    assert set(cells.rows["n_tokens"]) == {12}
    assert np.flatnonzero(np.isnan(cells.replay[:, 0])).tolist() == [0, 1]


def test_rows_know_their_prompts_and_can_be_narrowed(store):
    cells = read_cells(store, ["tone/loud"], organisms=["loud"], where="prompt_id <> '11'")

    assert cells.organisms == ["loud"] and len(cells.rows) == 20
    first = cells.rows.row(0, named=True)
    assert (first["note"], first["tags"], first["family"]) == ("odd", ["first"], "loud")
    assert first["cluster"] == "audit/one#1"
    by_note = cells.with_clusters("note").rows
    assert set(by_note["cluster"].to_list()) == {
        "odd",
        *(f"audit/one#{i}" for i in range(2, 11, 2)),
    }


def test_families_are_named_by_organism(store):
    cells = read_cells(store).with_families({"loud": "noise"})

    families = dict(zip(cells.rows["organism"], cells.rows["family"], strict=True))
    assert families == {"loud": "noise", "shy": "shy"}
    with pytest.raises(QueryError, match="lowd"):
        cells.with_families({"lowd": "noise"})


def test_names_that_are_not_there_are_errors_with_the_nearest(store):
    with pytest.raises(QueryError, match="'lout'.*loud"):
        read_cells(store, organisms=["lout"])
    with pytest.raises(QueryError, match="instrukt"):
        read_cells(store, baseline="instrukt")
    with pytest.raises(QueryError, match="nobody"):
        read_cells(store, ["nobody"])


def test_organisms_in_another_precision_are_compared_only_when_that_is_asked_for(tmp_path, store):
    rng = np.random.default_rng(4)
    mixed = tistore.create(tmp_path / "mixed.tistore")
    with mixed.writer() as writer:
        for author in (BASE, Model("loud", base_id="tiny", dtype="float32")):
            writer.add(
                organism=author,
                reader=author,
                prompt_set="a",
                prompt_id="1",
                token_ids=[1, 2, 3],
                prompt_length=1,
                layers=[LAYER],
                activations={"residual": rng.standard_normal((3, 1, HIDDEN))},
            )
    mixed.add_vector("tone/loud", rng.standard_normal(HIDDEN), layer=LAYER)

    with pytest.raises(PairingError, match="precision"):
        read_cells(mixed)
    assert len(read_cells(mixed, any_pairing=True).rows) == 1


def test_an_organisms_reading_of_other_tokens_of_an_answer_is_none_of_the_baselines(tmp_path):
    rng = np.random.default_rng(5)
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for prompt in "12":
            for author, readers in (("loud", ["loud"]), ("instruct", ["instruct", "loud"])):
                ids = rng.integers(0, 900, 8).tolist()
                for reader in readers:
                    start = 5 if (author, reader, prompt) == ("instruct", "loud", "1") else 2
                    writer.add(
                        organism=author, reader=reader, prompt_set="audit/one", prompt_id=prompt,
                        token_ids=ids, prompt_length=2, layers=[LAYER],
                        activations={"residual": rng.standard_normal((8, 1, HIDDEN))},
                        is_response=[at >= start for at in range(8)],
                    )  # fmt: skip
    store.add_vector("tone/loud", rng.standard_normal(HIDDEN), layer=LAYER)

    cells = read_cells(store)

    assert np.isnan(cells.swapped[:, 0]).tolist() == [True, False]
    assert np.isfinite(cells.base).all()
