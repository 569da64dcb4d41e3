"""Components of a reading may differ in width; a segment holds readings that agree in each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from example_readings import LAYERS, make_reading
from tistore.errors import InvalidRecordError, NotStoredError
from tistore.schemas.site import COMPONENTS, Site
from tistore.store.base import BaseStore

WIDTHS = st.dictionaries(st.sampled_from(COMPONENTS), st.integers(1, 40), min_size=1, max_size=4)


def make_states(seed: int, widths: dict[str, int], rows: int = 5) -> dict[str, np.ndarray]:
    """States that float16 holds, of some components at both layers."""
    rng = np.random.default_rng(seed)
    return {
        component: rng.standard_normal((rows, len(LAYERS), width)).astype(np.float16)
        for component, width in widths.items()
    }


def read_log(store: BaseStore) -> list[dict]:
    """The segments that commits name, by the bytes of the log."""
    bodies = [
        json.loads(path.read_text().splitlines()[0])
        for path in sorted((store.path / "commits").glob("*.json"))
    ]
    return [segment for body in bodies for segment in body["segments"]]


@settings(max_examples=8, deadline=None)
@given(readings=st.lists(WIDTHS, min_size=1, max_size=6))
def test_every_component_comes_back_as_wide_as_it_was(readings, tmp_path_factory):
    store = BaseStore.create(tmp_path_factory.mktemp("widths") / "s.tistore")
    written = [make_states(seed, widths) for seed, widths in enumerate(readings)]
    with store.writer() as writer:
        ids = [
            writer.add(**make_reading(seed, activations=states))
            for seed, states in enumerate(written)
        ]

    for response_id, states in zip(ids, written, strict=True):
        for component, values in states.items():
            for place, layer in enumerate(LAYERS):
                got = store.activations(
                    response_id, reader="flattery", layer=layer, component=component
                )
                np.testing.assert_array_equal(got, values[:, place])
    for segment in store.snapshot.segments:
        for component in segment.components:
            site = Site(component, LAYERS[0])
            width = segment.width(component)
            whole = segment.read(site).astype(np.float64)
            assert whole.shape == (segment.n_rows, width)
            means = whole.reshape(segment.n_readings, -1, width).mean(axis=1)
            np.testing.assert_allclose(segment.means(site), means, atol=1e-6)
            norms = np.linalg.norm(whole, axis=1)
            np.testing.assert_allclose(segment.norms(site), norms, rtol=1e-6)
    assert store.verify().ok


def test_readings_of_one_shape_share_a_segment_whatever_lies_between_them(store):
    """Patterns of sequences of all lengths go into one commit, a segment a length."""
    with store.writer() as writer:
        for seed in range(9):
            states = make_states(seed, {"residual": 8, "attention": 64 * (1 + seed % 3)})
            writer.add(**make_reading(seed, activations=states))

    assert store.snapshot.number == 1
    shapes = [(one.width("attention"), one.n_readings) for one in store.snapshot.segments]
    assert shapes == [(64, 3), (128, 3), (192, 3)]
    assert store.verify().uncommitted_segments == ()


def test_the_log_names_only_widths_that_differ(store):
    """A segment of one width is written as it always was."""
    with store.writer() as writer:
        same = make_states(0, {"residual": 8, "attn_out": 8})
        writer.add(**make_reading(0, activations=same))
        several = make_states(1, {"residual": 8, "heads": 16, "attn_out": 8})
        writer.add(**make_reading(1, activations=several))
        without = make_states(2, {"k_proj": 4, "heads": 16})
        writer.add(**make_reading(2, activations=without))

    entries = read_log(store)
    assert [(one["hidden"], one.get("widths")) for one in entries] == [
        (8, None),
        (8, {"heads": 16}),
        (16, {"k_proj": 4}),
    ]
    assert store.info().hidden == (8, 16)
    assert store.info().widths == {
        "attn_out": (8,), "heads": (16,), "k_proj": (4,), "residual": (8,),
    }  # fmt: skip
    assert store.info().raw_bytes == 2 * 5 * len(LAYERS) * (16 + 32 + 20)


def test_components_must_agree_in_rows_and_need_not_in_width(store):
    states = make_states(0, {"residual": 8}) | make_states(0, {"heads": 16}, rows=4)

    with pytest.raises(InvalidRecordError, match="components differ in rows"), store.writer() as w:
        w.add(**make_reading(0, activations=states))
    assert store.snapshot.number == 0


def test_the_width_of_what_was_not_captured_is_an_error(filled):
    with pytest.raises(NotStoredError, match="heads was not captured .* it has residual"):
        filled.snapshot.segments[0].width("heads")


def test_a_commit_that_fails_leaves_none_of_its_segments(store, monkeypatch):
    from tistore.store import committing as module

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    writer = store.writer()
    for seed in range(2):
        writer.add(**make_reading(seed, activations=make_states(seed, {"heads": 4 + seed})))
    monkeypatch.setattr(module, "append_commit", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        writer.commit()
    assert list((store.path / "segments").iterdir()) == []

    monkeypatch.undo()
    writer.close()
    assert [one.width("heads") for one in store.snapshot.segments] == [4, 5]
    assert store.verify().ok
