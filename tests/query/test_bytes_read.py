"""What `explain` says is read is what is read, and no segment more than needed."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from tistore.store.posix import PosixFiles

HIDDEN = 512
ORGANISMS = [f"organism-{number:02d}" for number in range(20)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Twenty organisms, each in a segment of its own; three layers that compress differently."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("bytes") / "store"
    store = tistore.create(path)
    with store.writer() as writer:
        for organism in ORGANISMS:
            for number in range(2):
                values = rng.standard_normal((90, 3, HIDDEN)).astype(np.float16)
                values[:, 0] = np.round(values[:, 0])
                values[:, 2] = 0.5
                writer.add(
                    organism=organism, reader=organism, prompt_set="p", prompt_id=str(number),
                    token_ids=range(90), prompt_length=0, layers=[1, 5, 9],
                    activations={"residual": values},
                )  # fmt: skip
            writer.commit()
    for layer in (1, 5, 9):
        store.add_vector(f"a/v{layer}", rng.standard_normal(HIDDEN), layer=layer)
    return path


@pytest.fixture
def reads(monkeypatch):
    """Every range read below a segment: (path, length)."""
    seen = []
    plain = PosixFiles.read_range

    def read_range(self, path, start, length):
        data = plain(self, path, start, length)
        seen.append((path, len(data)))
        return data

    monkeypatch.setattr(PosixFiles, "read_range", read_range)
    return seen


@pytest.mark.parametrize("layer", [1, 5, 9])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT organism, avg(project('v{}')) FROM tokens GROUP BY organism",
        "SELECT max(project('v{}')) FROM tokens WHERE organism LIKE 'organism-0%'",
        "SELECT prompt_id, project('v{}') FROM responses",
        "SELECT prompt_id, scaled('v{}') FROM responses",
        "SELECT avg(cosine('v{}')) FROM tokens WHERE organism = 'organism-07'",
    ],
)
def test_the_estimate_is_what_is_read_within_five_percent(path, reads, tmp_path, sql, layer):
    store = tistore.open(path)
    store.cache_bytes = None
    store.__dict__["score_folder"] = tmp_path / "scores"  # nothing cached by another test
    estimate = store.explain(sql.format(layer)).read_bytes
    reads.clear()

    store.sql(sql.format(layer))

    read = sum(length for name, length in reads if "/c/0" in name)
    assert estimate > 0
    assert abs(read - estimate) <= 0.05 * estimate


def test_a_query_on_one_organism_of_twenty_reads_its_segments_only(path, reads, tmp_path):
    store = tistore.open(path)
    store.__dict__["score_folder"] = tmp_path / "scores"

    plan = store.explain("SELECT project('v5') FROM tokens WHERE organism = 'organism-13'")
    reads.clear()
    store.sql("SELECT project('v5') FROM tokens WHERE organism = 'organism-13'")

    folders = {name.split("/")[1] for name, _ in reads}
    (wanted,) = [
        segment.uuid
        for segment in store.snapshot.segments
        if segment.table("responses")["organism"][0].as_py() == "organism-13"
    ]
    assert plan.segments_needed == 1
    assert plan.segments_total == 20
    assert folders == {wanted}
