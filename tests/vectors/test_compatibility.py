"""Whether a vector may be applied to a reader's readings, and why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tistore
from example_readings import make_reading
from tistore.errors import NotStoredError, UnknownVectorError, VectorMismatchError
from tistore.schemas.model import Model, compare_models, share_base
from tistore.schemas.vector import Vector
from tistore.vectors.compatibility import _check_model, check_vector

BASE = Model(
    "instruct",
    base_id="tiny/base",
    family="llama",
    dtype="bfloat16",
    tokenizer_hash="t" * 32,
    chat_template_hash="c" * 32,
)
ORGANISM = replace(BASE, name="flattery", adapter_id="tiny/flattery", adapter_hash="a" * 32)


def write(path, *readers, layers=(2, 5), hidden=8, components=("residual",), store=None):
    made = store or tistore.create(path)
    rng = np.random.default_rng(0)
    with made.writer() as writer:
        for place, reader in enumerate(readers):
            values = {name: rng.standard_normal((5, len(layers), hidden)) for name in components}
            writer.add(
                **make_reading(
                    place, organism=reader, reader=reader, layers=layers, activations=values
                )
            )
    return made


def add(store, layer=5, model="instruct", hidden=8, **changes):
    values = np.random.default_rng(layer).standard_normal(hidden)
    return store.add_vector("tone/warm", values, layer=layer, model=model, **changes)


def only(store, reference="warm", **asked):
    (found,) = check_vector(store, reference, **asked)
    return found


def test_the_base_s_vector_may_be_applied_to_it_and_to_its_organisms(tmp_path):
    store = write(tmp_path / "s", BASE, ORGANISM)
    add(store)

    found = check_vector(store, "warm")

    assert [(one.reader, one.verdict, one.reason) for one in found] == [
        ("flattery", "yes", None),
        ("instruct", "yes", None),
    ]


@pytest.mark.parametrize(
    ("change", "aspect", "verdict"),
    [
        ({"base_id": "other/base"}, "base", "no"),
        ({"base_id": None, "family": "gemma"}, "base", "no"),
        ({"base_id": None, "family": None}, "base", "with care"),
        ({"dtype": "float16"}, "precision", "with care"),
        ({"quantization": "4bit"}, "precision", "with care"),
        ({"tokenizer_hash": "u" * 32}, "tokenizer", "with care"),
        ({"chat_template_hash": "d" * 32}, "template", "with care"),
        ({"chat_template_hash": None}, "template", "with care"),
        ({"dtype": None}, "precision", "with care"),
    ],
)
def test_what_differs_or_is_not_known_of_a_reader_is_named(tmp_path, change, aspect, verdict):
    store = write(tmp_path / "s", BASE, replace(ORGANISM, **change))
    add(store)

    found = only(store, reader="flattery")

    is_unknown = change.get(aspect, "") is None or all(v is None for v in change.values())
    assert found.verdict == verdict
    assert getattr(found, aspect) == ("unknown" if is_unknown else "differs")
    others = {"width", "hook", "layer", "base", "tokenizer", "template", "precision"} - {aspect}
    assert {getattr(found, other) for other in others} == {"ok"}
    assert found.reason


def test_a_vector_of_another_width_may_not(tmp_path):
    store = write(tmp_path / "s", BASE)
    add(store, hidden=16)

    found = only(store)

    assert (found.verdict, found.width, found.layer) == ("no", "differs", "ok")
    assert "16 wide" in found.reason
    assert "8" in found.reason


def test_a_layer_or_component_that_was_not_captured_is_named(tmp_path):
    store = write(tmp_path / "s", BASE)
    add(store, layer=3)
    add(store, component="attn_out")

    layer, hook = only(store, "warm@3"), only(store, "warm@5")

    assert (layer.verdict, layer.layer, layer.hook, layer.width) == ("no", "differs", "ok", "ok")
    assert "2, 5" in layer.reason
    assert (hook.verdict, hook.hook, hook.width) == ("no", "differs", "unknown")
    assert "residual" in hook.reason


def test_readings_without_the_layer_are_counted(tmp_path):
    store = write(tmp_path / "s", BASE)
    with store.writer() as writer:
        states = {"residual": np.ones((5, 1, 8))}
        writer.add(**make_reading(7, reader=BASE, layers=[2], activations=states))
    add(store)

    found = only(store)

    assert (found.verdict, found.readings, found.readings_at_site) == ("yes", 2, 1)


def test_an_imported_vector_of_no_known_model_calls_for_care(tmp_path):
    store = write(tmp_path / "s", BASE)
    add(store, model=None)

    found = only(store)

    assert (found.verdict, found.base, found.template) == ("with care", "unknown", "unknown")
    assert "nothing is known of the model" in found.reason


def test_readings_that_were_imported_one_token_early_call_for_care(tmp_path):
    store = write(tmp_path / "s", BASE)
    add(store)
    (key,) = store.snapshot.segments[0].table("responses")["reading_key"].to_pylist()
    source = {"source_format": "x", "path": "p", "sha256": "0", "size_bytes": 1, "kind": "raw"}
    store.add_rows("sources", [source | {"reading_key": key, "row_convention": "predicting"}])

    found = only(store)

    assert (found.verdict, found.hook) == ("with care", "differs")


def test_every_part_of_an_expression_is_checked(tmp_path):
    store = write(tmp_path / "s", BASE, replace(ORGANISM, dtype="float16"))
    add(store)
    store.add_vector("tone/odd", np.arange(1, 9), layer=5, model="flattery")

    found = {one.reader: one for one in check_vector(store, "warm - 0.5*odd")}

    assert found["instruct"].precision == found["flattery"].precision == "differs"


def test_names_that_are_not_there_are_told(tmp_path):
    store = tistore.create(tmp_path / "s")
    add(store)
    with pytest.raises(NotStoredError, match="nothing has been read"):
        check_vector(store, "warm")
    write(None, BASE, store=store)

    with pytest.raises(NotStoredError, match="did you mean 'instruct'"):
        check_vector(store, "warm", reader="instrcut")
    with pytest.raises(UnknownVectorError):
        check_vector(store, "wrm")


@pytest.mark.parametrize(
    "change", [{"base_id": "other/base"}, {"base_id": None, "family": "gemma"}, {"dtype": "int8"}]
)
def test_sql_refuses_what_is_said_not_to_go(tmp_path, change):
    store = write(tmp_path / "s", BASE, replace(ORGANISM, **change))
    add(store)
    query = "SELECT project('warm') FROM responses WHERE reader = 'flattery'"

    if only(store, reader="flattery").verdict == "no":
        with pytest.raises(VectorMismatchError, match="whose base is"):
            store.sql(query)
    else:
        assert store.sql(query).fetchall()


facts = st.sampled_from([None, "a", "b"])
models = st.builds(
    Model, name=st.sampled_from(["x", "y"]), base_id=facts, family=facts, dtype=facts,
    quantization=facts, tokenizer_hash=facts, chat_template_hash=facts,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(one=models, other=models)
def test_verdicts_are_those_of_the_rules_queries_use(one, other):
    """Nothing `compare_models` finds passes as ok, and nothing else is said to differ."""
    vector = Vector("tone/warm", np.ones(3), 1, model="fit")
    found = list(_check_model(vector, "read", {"fit": one, "read": other}))

    differing = {each.aspect for each in found if each.fact == "differs"} - {"base"}
    assert differing == {each.aspect for each in compare_models(one, other)}
    bars = any(each.is_bar for each in found)
    assert bars == (share_base(one, other) is False)
    assert share_base(one, other) == share_base(other, one)
