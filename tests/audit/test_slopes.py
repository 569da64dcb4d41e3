"""Lines within responses are NumPy's, of the readings a part is about."""

from __future__ import annotations

import numpy as np
import pytest

from ranked_store import BASE, N_PROMPTS, ORGANISMS, is_response, turns_of, write_ranked_store
from tistore.audit.cells import PARTS, read_cells
from tistore.audit.ranking.noise import read_noise
from tistore.audit.slopes import read_slopes


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_ranked_store(tmp_path_factory.mktemp("slopes") / "s.tistore")


def scores_of(written, part: str, organism: str, prompt: str, trait: int) -> np.ndarray:
    own = written[organism, organism, prompt].astype(np.float64)[:, trait]
    replay = written[organism, BASE.name, prompt].astype(np.float64)[:, trait]
    return {"total": own, "model": own - replay, "text": replay}[part]


@pytest.mark.parametrize("part", PARTS)
def test_a_rise_is_the_least_squares_line_from_end_to_end(part, stored):
    store, written = stored
    cells = read_cells(store)

    slopes = read_slopes(store, cells, part)

    assert slopes.position.shape == (len(ORGANISMS) * N_PROMPTS, 3)
    for row in (0, 17, 40, len(cells.rows) - 1):
        organism, prompt = cells.rows.select("organism", "prompt_id").row(row)
        audited = np.flatnonzero(is_response(int(prompt)))
        for trait in range(3):
            scores = scores_of(written, part, organism, prompt, _place(cells.traits[trait]))
            line = np.polyfit(audited, scores[audited], 1)[0]
            expected = line * (audited[-1] - audited[0])
            assert slopes.position[row, trait] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_a_rise_over_turns_is_that_of_the_turns_means(part, stored):
    store, written = stored
    cells = read_cells(store)

    slopes = read_slopes(store, cells, part)

    for row, (organism, prompt) in enumerate(cells.rows.select("organism", "prompt_id").rows()):
        if int(prompt) % 2:
            assert np.isnan(slopes.turn[row]).all()
            continue
        turns = np.array(turns_of(int(prompt)))
        scores = scores_of(written, part, organism, prompt, _place(cells.traits[0]))
        means = [scores[turns == turn].mean() for turn in (1, 3, 5)]
        expected = np.polyfit([0, 1, 2], means, 1)[0] * 2
        assert slopes.turn[row, 0] == pytest.approx(expected, abs=1e-5)


def test_samples_and_missing_readings_stay_in_their_rows(stored):
    store, _ = stored
    cells = read_cells(store, organisms=["ramp-a", "shy-a"])

    slopes = read_slopes(store, cells)

    rising = cells.traits.index("tone/rising")
    is_ramp = (cells.rows["organism"] == "ramp-a").to_numpy()
    assert (slopes.position[is_ramp, rising] > 3).all()
    assert (np.abs(slopes.position[~is_ramp, rising]) < 2).all()
    np.testing.assert_array_equal(slopes.take(is_ramp).turn, slopes.turn[is_ramp])


def test_noise_is_the_mean_change_of_a_second_reading(stored):
    store, written = stored
    cells = read_cells(store)

    noise = read_noise(store, cells)

    loud = cells.vectors[cells.traits.index("tone/loud")].reference
    changes = []
    for number in range(1, 5):
        audited = is_response(number)
        first = written["loud-a", "loud-a", str(number)].astype(np.float64)[audited, 0].mean()
        again = written["loud-a", "loud-a~again", str(number)].astype(np.float64)[audited, 0].mean()
        changes.append(abs(first - again))
    assert noise["loud-a", loud] == pytest.approx(np.mean(changes), rel=1e-3)
    assert {organism for organism, _ in noise} == {"loud-a"}


def _place(trait: str) -> int:
    return ["tone/loud", "tone/rising", "tone/other"].index(trait)
