"""Scores computed again from the store agree with those trait-interp wrote, or it is said why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tistore
from tistore.errors import NotStoredError
from tistore.exchange.trait_interp.run import import_experiment
from tistore.exchange.trait_interp_check.check import CheckRow, check_projections
from tistore.exchange.trait_interp_check.recomputed import (
    StoredStates,
    cast_vector,
    recompute_norms,
    recompute_scores,
    shown_rounding,
)
from tistore.schemas.site import Site
from trait_interp_tree import Tree, build_tree, write_json

EXPERIMENTS = ("november", "december", "february")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The known tree; what a test alters in it, it puts back."""
    return build_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def store(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> tistore.Store:
    """All of it, moved in."""
    store = tistore.create(tmp_path_factory.mktemp("moved") / "a.tistore")
    for name in EXPERIMENTS:
        import_experiment(store, tree.experiment(name))
    return store


@pytest.fixture
def alter() -> Iterator[Callable[[Path, Callable[[Any], None]], None]]:
    """Change a JSON file for the length of a test."""
    before: dict[Path, bytes] = {}

    def change(path: Path, edit: Callable[[Any], None]) -> None:
        before.setdefault(path, path.read_bytes())
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    yield change
    for path, content in before.items():
        path.write_bytes(content)


def move_in(folder: Path, tmp_path: Path) -> dict[str, CheckRow]:
    """Import an experiment that was tampered with, and check it."""
    store = tistore.create(tmp_path / "a.tistore")
    import_experiment(store, folder)
    return {row.path: row for row in check_projections(store, folder)}


def check(store: tistore.Store, tree: Tree, name: str = "february") -> dict[str, CheckRow]:
    """Check an experiment: its rows by file."""
    return {row.path: row for row in check_projections(store, tree.experiment(name))}


def find_file(tree: Tree, schema: str, prompt_id: str) -> Path:
    """Find a projection file: of P1, that of the residual stream."""
    return next(
        path
        for path, (found, _) in tree.projections.items()
        if found == schema and path.stem == prompt_id and "attn_stream" not in path.parts
    )


def locate(path: Path) -> str:
    """Name a file as rows do."""
    parts = path.parts
    return "/".join(parts[parts.index("experiments") + 2 :])


def test_every_file_of_the_tree_is_told_of(store: tistore.Store, tree: Tree):
    told = {name: check(store, tree, name) for name in EXPERIMENTS}

    for name, rows in told.items():
        root = tree.experiment(name)
        assert set(rows) == {locate(p) for p in tree.projections if p.is_relative_to(root)}
    for path, (schema, _) in tree.projections.items():
        row = told[path.relative_to(tree.root).parts[1]][locate(path)]
        assert row.schema == schema
        assert row.verdict == ("unchecked" if schema == "P0" else "agreed"), row
        if schema == "P0":
            assert row.reason == "its reading was not imported"
        else:
            assert row.correlation == pytest.approx(1)
            assert 0 < row.largest_difference < row.tolerance < 1e-4
            assert row.largest_relative < 1e-6


def test_every_score_that_has_a_state_is_compared(store: tistore.Store, tree: Tree):
    rows = check(store, tree, "december") | check(store, tree, "february")

    stored = {"residual", "residual_out", "attn_out"}
    for path, (schema, records) in tree.projections.items():
        if schema == "P0":
            continue
        captured = [r for r in records if r[3] in stored and r[2] in (1, 3, 4)]
        row = rows[locate(path)]
        assert (row.n_projections, row.n_checked) == (len(records), len(captured))
        assert row.n_scores == sum(len(r[4]) + len(r[5]) for r in captured)
        assert row.n_norms == (row.n_scores if schema in ("P3", "P4") else 0)
        assert (row.reason is None) == (len(captured) == len(records))


def test_what_a_file_has_and_the_store_has_not_is_said(store: tistore.Store, tree: Tree):
    row = check(store, tree, "december")[locate(find_file(tree, "P1", "1"))]

    assert "5 not checked: after_attn: the normed input of the MLP" in row.reason
    assert "2 not checked: placeholder zeros, nothing was captured there" in row.reason
    assert "(residual_out@0, residual_out@2)" in row.reason


ALTERED = [
    ("december", "P1", "1", ("projections", "prompt", 2, 3, 2), "mean_diff@3", "prompt[2]"),
    ("december", "P1", "2", ("projections", "response", 0, 4, 1), "mean_diff@4", "response[0]"),
    ("december", "P2", "rust_100", ("projections", "response", 4), "mean_diff@3", "response[4]"),
    ("february", "P3", "1", ("projections", "prompt", 0), "probe@3", "prompt[0]"),
    ("february", "P3", "2", ("projections", "response", 6), "probe@3", "response[6]"),
    ("february", "P4", "10", ("projections", 1, "response", 1), "mean_diff@4", "response[1]"),
    ("february", "P4", "rust_100", ("projections", 0, "response", 3), "probe@3", "response[3]"),
]


@pytest.mark.parametrize(
    ("experiment", "schema", "prompt_id", "steps", "label", "place"),
    ALTERED,
    ids=[f"{case[1]}-{case[2]}" for case in ALTERED],
)
def test_one_altered_score_is_found(
    store: tistore.Store, tree: Tree, alter: Any, experiment: str, schema: str, prompt_id: str,
    steps: tuple[Any, ...], label: str, place: str,
):  # fmt: skip
    path = find_file(tree, schema, prompt_id)

    def move(content: Any) -> None:
        for step in steps[:-1]:
            content = content[step]
        content[steps[-1]] += 2e-4

    alter(path, move)
    rows = check(store, tree, experiment)

    row = rows.pop(locate(path))
    assert row.verdict == "differs"
    assert f"{label}: 1 of " in row.reason and f"most at {place}: " in row.reason
    assert row.largest_difference == pytest.approx(2e-4, rel=0.05)
    assert row.largest_difference > row.tolerance
    assert {other.verdict for other in rows.values()} == {"agreed"}


def test_an_altered_norm_is_found(store: tistore.Store, tree: Tree, alter: Any):
    path = find_file(tree, "P4", "10")

    alter(path, lambda content: content["projections"][0]["token_norms"]["prompt"].reverse())
    row = check(store, tree)[locate(path)]

    assert row.verdict == "differs"
    assert row.reason.startswith("probe@3: 4 of 11 token norms differ, most at prompt[")
    assert row.largest_difference < 1e-5 < row.largest_norm_difference


@pytest.fixture
def copy(tree: Tree, tmp_path: Path) -> Callable[[str], Path]:
    """Copy an experiment, to be tampered with before it is imported."""
    return lambda name: Path(shutil.copytree(tree.experiment(name), tmp_path / name))


def test_swapped_vectors_are_found(copy: Any, tmp_path: Path):
    """Under right names, the values of another."""
    folder = copy("february")
    probes = folder / "extraction/behavioral/refusal/base/vectors/response__5/residual/probe"
    (probes / "layer3.pt").rename(probes / "kept")
    (probes / "layer4.pt").rename(probes / "layer3.pt")
    (probes / "kept").rename(probes / "layer4.pt")

    rows = move_in(folder, tmp_path)

    assert [row.verdict for row in rows.values()] == ["differs"] * 4
    reasons = {row.prompt_id: row.reason for row in rows.values()}
    assert "probe@3: 11 of 11 scores differ" in reasons["10"]
    assert "mean_diff@4" not in reasons["10"]


def edit_response(path: Path, edit: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the response's states in a raw file."""
    content = torch.load(path, weights_only=True)
    for components in content["response"]["activations"].values():
        for name, states in components.items():
            components[name] = edit(states)
    torch.save(content, path)


def test_rows_a_token_off_are_found(copy: Any, tmp_path: Path):
    """A predicting capture without its first row passes for one of states at their tokens."""
    folder = copy("december")
    edit_response(folder / "inference/raw/residual/audit/discovery/2.pt", lambda rows: rows[1:])

    rows = move_in(folder, tmp_path)

    row = rows["inference/behavioral/refusal/residual_stream/audit/discovery/2.json"]
    assert row.verdict == "differs"
    assert "1 of 10 rows are not stored" in row.reason
    assert {r.verdict for r in rows.values() if r is not row} == {"agreed"}


def test_a_first_row_that_repeats_nothing_is_left_out_and_said(copy: Any, tmp_path: Path):
    """The store holds no state for it: predicting rows lie a token back, and this one is before."""
    folder = copy("december")

    def alter_first(rows: torch.Tensor) -> torch.Tensor:
        rows[0] = rows[0] * 2 + 1
        return rows

    edit_response(folder / "inference/raw/residual/audit/discovery/1.pt", alter_first)

    rows = move_in(folder, tmp_path)

    row = rows["inference/behavioral/refusal/residual_stream/audit/discovery/1.json"]
    assert (row.verdict, row.n_scores) == ("agreed", 27)
    assert row.reason.startswith("1 of 10 rows are not stored; ")


def test_what_was_not_imported_is_said(copy: Any, tmp_path: Path):
    folder = copy("february")
    (folder / "inference/flattery/raw/residual/audit/discovery/1.pt").unlink()
    vectors = folder / "extraction/behavioral/refusal/base/vectors/response__5/residual"
    (vectors / "mean_diff" / "layer4.pt").unlink()
    torch.save(torch.ones(12), vectors / "probe" / "layer3.pt")

    rows = {row.prompt_id: row for row in move_in(folder, tmp_path).values()}

    assert rows["1"].reason == "its reading was not imported"
    assert rows["2"].reason == "its vector is 12 wide, the states 8"
    missing = "behavioral/refusal, mean_diff, residual@4, response[:5]"
    assert f"1 not checked: its vector was not imported: {missing}" in rows["10"].reason
    assert {row.verdict for row in rows.values()} == {"unchecked"}


def test_a_centred_file_without_its_baseline_uses_the_vectors_own(
    store: tistore.Store, tree: Tree, alter: Any
):
    path = find_file(tree, "P4", "10")

    def drop(content: Any) -> None:
        del content["projections"][0]["baseline"]
        content["projections"][1]["baseline"] += 1

    alter(path, drop)
    row = check(store, tree)[locate(path)]

    assert row.verdict == "differs"
    assert "mean_diff@4: 11 of 11 scores differ" in row.reason and "probe@3" not in row.reason
    assert row.largest_difference == pytest.approx(1)


def test_rounded_scores_agree_to_the_decimals_shown(store: tistore.Store, tree: Tree, alter: Any):
    path = find_file(tree, "P3", "1")

    def shorten(content: Any) -> None:
        for half, scores in content["projections"].items():
            content["projections"][half] = [round(score, 2) for score in scores]

    alter(path, shorten)
    rounded = check(store, tree)[locate(path)]

    def move(content: Any) -> None:
        scores = content["projections"]["response"]
        scores[2] = round(scores[2] + 0.02, 2)

    alter(path, move)
    moved = check(store, tree)[locate(path)]

    assert rounded.verdict == "agreed" and rounded.tolerance == pytest.approx(0.005, rel=0.02)
    assert moved.verdict == "differs" and "1 of 10 scores differ" in moved.reason


UNCHECKED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("another layer", lambda c: c["projections"][0].update(layer=1), "(residual@1)"),
    ("another method", lambda c: c["projections"][0].update(method="rfm"), "vector was not"),
    ("another position", lambda c: c["metadata"].update(position="all[:]"), "vector was not"),
    ("an unknown component", lambda c: c["metadata"].update(component="after_attn"),
     "the normed input"),
    ("a component not stored", lambda c: c["metadata"].update(component="mlp_out"), "not stored"),
    ("too few scores", lambda c: [e["response"].pop() and e["response"].pop() for e in
     c["projections"]] and [e.pop("token_norms") for e in c["projections"]], "5 response scores"),
    ("no scores", lambda c: [e.update(response=[], token_norms=None) for e in c["projections"]],
     "no scores"),
    ("a prompt that is not there", lambda c: [e.update(prompt=[1.5], token_norms=None) for e in
     c["projections"]], "1 prompt scores for 4 tokens"),
    ("no metadata", lambda c: c.pop("metadata"), "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "reason"), [case[1:] for case in UNCHECKED], ids=[case[0] for case in UNCHECKED]
)
def test_what_cannot_be_checked_says_why(
    store: tistore.Store, tree: Tree, alter: Any, edit: Any, reason: str
):
    path = find_file(tree, "P4", "rust_100")

    alter(path, edit)
    row = check(store, tree)[locate(path)]

    assert row.verdict == "unchecked"
    assert reason in row.reason
    assert (row.n_checked, row.n_scores, row.largest_difference) == (0, 0, None)


def test_scores_of_rows_the_store_lacks_are_counted(store: tistore.Store, tree: Tree, alter: Any):
    """The reading holds the response only, the file the prompt as well."""
    path = find_file(tree, "P4", "rust_100")

    def lengthen(content: Any) -> None:
        for entry in content["projections"]:
            entry["prompt"] = [1.5, 2.5, 3.5, 4.5]
            del entry["token_norms"]

    alter(path, lengthen)
    row = check(store, tree)[locate(path)]

    assert (row.verdict, row.n_scores) == ("agreed", 7)
    assert row.reason == "4 of 11 rows are not stored"


def test_where_several_vectors_answer_the_one_that_fits_counts_and_is_named(
    store: tistore.Store, tree: Tree, alter: Any
):
    """Early files do not say where a vector was fitted."""
    path = find_file(tree, "P4", "10")

    alter(path, lambda content: content["metadata"].pop("position"))
    row = check(store, tree)[locate(path)]

    assert row.verdict == "agreed"
    assert "4 vectors answer to what the file says: compared with" in row.reason
    assert "response[:5], probe, model base" in row.reason


def test_an_experiment_that_was_not_imported_is_an_error(store: tistore.Store, tree: Tree):
    folder = tree.root / "experiments" / "decembre"
    write_json(folder / "config.json", {})

    with pytest.raises(NotStoredError, match="did you mean 'december'"):
        check_projections(store, folder)


HIDDEN = 4096


def write_states(path: Path, states: torch.Tensor) -> StoredStates:
    """Store states of one layer, [row, hidden]."""
    store = tistore.create(path)
    with store.writer() as writer:
        writer.add(
            organism="m",
            reader="m",
            prompt_set="s",
            prompt_id="1",
            token_ids=list(range(len(states))),
            prompt_length=1,
            layers=[7],
            activations={"residual": states[:, None]},
        )
    return StoredStates(store.snapshot.segments[0], Site("residual", 7), 0, len(states))


def draw_states(seed: int, scale: float = 1.0) -> torch.Tensor:
    """Draw bfloat16 states of a model's width, with a dimension of outlying size."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(40, HIDDEN, generator=generator) * scale
    states[:, 443] += 1000 * scale
    return states.bfloat16()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 200.0])
def test_the_tolerance_is_that_of_float32_and_little_more(tmp_path: Path, scale: float):
    """torch's float32 scores lie within it, and it is small beside what tells them apart."""
    states = draw_states(1, scale)
    stored = write_states(tmp_path / "a.tistore", states)
    for seed in range(5):
        vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))
        theirs = states.float() @ vector / (vector.norm() + 1e-8)
        one_by_one = (states.float() * vector / (vector.norm() + 1e-8)).cumsum(1)[:, -1]

        ours = recompute_scores(stored, vector.numpy(), 0.0)

        for scores in (theirs, one_by_one):
            assert (np.abs(scores.double().numpy() - ours.values) <= ours.tolerance).all()
        assert ours.tolerance.max() < 5e-3 * ours.values.std()


def test_the_later_paths_rounding_of_the_vector_is_followed(tmp_path: Path):
    """It went to float16, then to the states' type, before the product."""
    states = draw_states(2)
    stored = write_states(tmp_path / "a.tistore", states)
    vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(9))
    vector /= vector.norm()
    v = vector.half().bfloat16()
    theirs = (states.float() @ v.float() / (v.float().norm() + 1e-8)).double().numpy()

    plain = recompute_scores(stored, vector.numpy(), 0.0)
    cast = recompute_scores(stored, cast_vector(vector.numpy(), "bfloat16"), 0.0)

    assert (np.abs(theirs - plain.values) > plain.tolerance).any()
    assert (np.abs(theirs - cast.values) <= cast.tolerance).all()
    assert cast_vector(v.float().numpy(), "bfloat16") is None


def test_lengths_are_those_of_float32_within_their_tolerance(tmp_path: Path):
    states = draw_states(3)
    stored = write_states(tmp_path / "a.tistore", states)

    ours = recompute_norms(stored)

    theirs = states.float().norm(dim=1).double().numpy()
    assert (np.abs(theirs - ours.values) <= ours.tolerance).all()
    assert ours.tolerance.max() < 1e-4 * theirs.max()


def test_states_past_float16_are_scored_as_they_were(tmp_path: Path):
    states = draw_states(4, scale=2.0**14)
    stored = write_states(tmp_path / "a.tistore", states)
    vector = torch.ones(HIDDEN)

    ours = recompute_scores(stored, vector.numpy(), 0.0)

    theirs = (states.double() @ vector.double() / (HIDDEN**0.5 + 1e-8)).numpy()
    assert stored.exponent > 0
    assert (np.abs(theirs - ours.values) <= ours.tolerance).all()


@settings(deadline=None)
@given(numbers=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8), decimals=st.integers(1, 9))
def test_the_decimals_shown_bound_what_rounding_took(numbers: list[float], decimals: int):
    rounded = [round(number, decimals) for number in numbers]

    allowed = shown_rounding(rounded)

    assert allowed >= 0.5 * 10.0**-decimals * 0.999
    differences = [abs(a - b) for a, b in zip(numbers, rounded, strict=True)]
    assert max(differences) <= allowed * 1.001 + 1e-11
