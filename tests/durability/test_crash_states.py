"""States a power cut may leave: what was acknowledged is in all of them, and each fsync is why."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from durability.crash_scenarios import SCENARIOS
from durability.crash_states import (
    NEEDED,
    Campaign,
    Scenario,
    choose,
    scratch_folder,
    states,
)
from durability.disk import Disk, read_tree, write_tree
from durability.recording import Operation

STATES_A_SCENARIO = 7


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder, in memory where there is such a place."""
    with scratch_folder() as folder:
        yield folder


@pytest.fixture
def campaign(scratch: Path, request: pytest.FixtureRequest) -> Campaign:
    """What examines states, in a place of its own."""
    folder = scratch / f"states-{len(list(scratch.iterdir()))}"
    folder.mkdir()
    return Campaign(folder)


@pytest.fixture(scope="module")
def recorded(scratch: Path) -> dict[str, Scenario]:
    """Every scenario, recorded once."""
    return {
        name: Scenario.record(name, scratch / f"scenario-{number}")
        for number, name in enumerate(SCENARIOS)
    }


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_power_cut_loses_nothing_that_was_acknowledged(name, recorded, campaign):
    """Whatever was not fsynced is lost, half there, or zero; each for itself."""
    found = list(states(recorded[name], random.Random(name), share=0.02))

    campaign.examine(choose(found, STATES_A_SCENARIO))

    campaign.findings.raise_if_broken()
    assert campaign.examined >= min(len(found), STATES_A_SCENARIO)


@pytest.mark.parametrize(
    ("purpose", "name"),
    # That one takes many states to show: `make torture` does.
    [pair for pair in sorted(NEEDED) if pair[1] != "two collect"],
)
def test_without_one_kind_of_fsync_a_promise_is_broken(purpose, name, recorded, campaign):
    """So the model is strict enough to notice, and the fsync is needed."""
    scenario = recorded[name]

    broken = campaign.find_broken(scenario.without(purpose), scenario)

    assert purpose in scenario.purposes()
    assert broken is not None


def test_every_fsync_is_for_something_that_is_needed(recorded):
    """A new kind of fsync has to be shown to be needed, here, and gets its reason in the format."""
    kinds = {purpose for scenario in recorded.values() for purpose in scenario.purposes()}

    assert kinds == {purpose for purpose, _ in NEEDED}


def test_the_disk_shows_processes_what_they_have_done(tmp_path, recorded):
    """The model, without a power cut, against the file system itself."""
    scenario = recorded["create and append"]
    disk = Disk(scenario.before)
    for operation in scenario.operations:
        if isinstance(operation, Operation):
            disk.do(operation)
    *_, whole = [
        cut for cut in disk.cuts(random.Random(0), 0) if cut.name == "all lasts, bytes whole"
    ]

    write_tree(disk.after(whole), tmp_path / "model")

    assert read_tree(tmp_path / "model") == disk.after(whole)
