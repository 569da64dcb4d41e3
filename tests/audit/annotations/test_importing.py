"""Labelled spans come in where they belong, or not at all, and go out as they came in."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tistore
from scored_store import Scored, make_scored
from tistore.audit.annotations.export import list_annotations, write_annotations
from tistore.audit.annotations.file import read_spans
from tistore.audit.annotations.importing import import_annotations
from tistore.errors import DatasetError, QueryError

SLOT = {"organism": "loud", "prompt_set": "audit/x", "prompt_id": "1"}
TEXT = "So it is, all of it!"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two responses of eight tokens that spell `TEXT`, after a prompt of two."""
    scored = make_scored(tmp_path_factory.mktemp("template") / "s.tistore")
    scored.add([0.0] * 8, prompt="1")
    scored.add([0.0] * 8, prompt="2")
    return scored


@pytest.fixture
def copy(template, tmp_path):
    """Make stores that hold what the template does."""
    numbers = count()

    def make():
        path = tmp_path / f"copy{next(numbers)}.tistore"
        shutil.copytree(template.store.path, path)
        return Scored(tistore.open(path), template.ids)

    return make


@pytest.fixture
def stored(copy):
    return copy()


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def spans_of(store):
    rows = store.snapshot.table("annotations").to_pylist()
    return [(row["token_start"], row["token_end"], row["label"]) for row in rows]


@pytest.mark.parametrize(
    ("span", "tokens"),
    [
        ({"token_start": 4, "token_end": 6}, (4, 6)),
        ({"token_start": 4, "token_end": 6, "text": "is,"}, (4, 6)),
        ({"char_start": 6, "char_end": 8}, (4, 5)),
        ({"char_start": 7, "char_end": 9}, (4, 6)),
        ({"text": "is, all"}, (4, 7)),
        ({"text": "s"}, (4, 5)),
    ],
    ids=["tokens", "tokens and words", "characters", "characters within tokens", "words", "letter"],
)
def test_a_span_is_found_by_tokens_characters_or_words(stored, tmp_path, span, tokens):
    file = write(tmp_path / "a.json", [SLOT | span | {"label": "odd"}])

    report = import_annotations(stored.store, file)

    assert (report.seen, report.imported) == (1, 1)
    assert spans_of(stored.store) == [(*tokens, "odd")]
    (row,) = stored.store.snapshot.table("annotations").to_pylist()
    assert row["response_id"] == stored.ids["loud", "1", 0]
    assert row["source"] == "a.json"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"organism": "lowd"}, "no organism 'lowd'; did you mean 'loud'?"),
        ({"prompt_set": "audit/y"}, "no prompt_set 'audit/y' among 'loud''s"),
        ({"prompt_id": "9"}, "no prompt_id '9'"),
        ({"sample": 3}, "no sample 3 of loud on audit/x#1, sample 0; there are: 0"),
        ({"organism": None}, "it names no organism"),
        ({"token_start": 8, "token_end": 11}, "tokens 8 to 11 lie outside of loud on audit/x#1"),
        ({"token_start": 4, "token_end": 6, "text": "all"}, "read ' is,', not 'all'"),
        ({"char_start": 9, "char_end": 21}, "characters 9 to 21 lie outside of the text"),
        ({"char_start": 0, "char_end": 2, "text": "it"}, "read 'So', not 'it'"),
        ({"text": "it"}, "'it' is 2 times in loud on audit/x#1, sample 0: characters 3 to 5, "
                         "characters 17 to 19"),
        ({"text": "none"}, "'none' is not in loud on audit/x#1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)  # fmt: skip
def test_a_span_that_fits_nowhere_refuses_the_whole_file_and_says_why(stored, tmp_path, row, told):
    """Nothing of it is stored, and the place in the file is named."""
    good = SLOT | {"token_start": 2, "token_end": 3, "label": "fine"}
    bad = SLOT | (
        {} if "text" in row or "char_start" in row else {"token_start": 2, "token_end": 3}
    )
    file = write(tmp_path / "a.json", [good, bad | {"label": "odd"} | row])
    commit = stored.store.snapshot.number

    with pytest.raises(DatasetError) as raised:
        import_annotations(stored.store, file)

    assert told in raised.value.message
    assert f"{file} at [1]" in raised.value.message
    assert stored.store.snapshot.number == commit


def test_an_unknown_response_id_and_one_that_is_anothers_are_refused(stored, tmp_path):
    response_id = stored.ids["loud", "1", 0]
    span = {"token_start": 2, "token_end": 3, "label": "odd"}
    typo = write(tmp_path / "a.json", [span | {"response_id": response_id[:-1] + "-"}])
    other = write(tmp_path / "b.json", [span | {"response_id": response_id, "prompt_id": "2"}])

    with pytest.raises(DatasetError, match=f"did you mean '{response_id}'"):
        import_annotations(stored.store, typo)
    with pytest.raises(DatasetError, match=f"response {response_id} has prompt_id '1', not '2'"):
        import_annotations(stored.store, other)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "So"}, "no 'label' here"),
        ({"text": "So", "label": " "}, "the label is empty"),
        ({"label": "odd"}, "no span here"),
        ({"label": "odd", "token_start": 3}, "belong together"),
        ({"label": "odd", "token_start": 3, "token_end": 3}, "the end is one past the last"),
        ({"label": "odd", "token_start": -1, "token_end": 3}, "-1 is not between"),
        ({"label": "odd", "text": "So", "lable": "x"}, "no column 'lable'; did you mean 'label'"),
        (
            {"label": "odd", "token_start": 3, "token_end": 4, "char_start": 0, "char_end": 1},
            "tokens and characters both say",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_a_malformed_row_is_named(stored, tmp_path, row, told):
    with pytest.raises(DatasetError, match=told):
        import_annotations(stored.store, write(tmp_path / "a.json", [SLOT | row]))
    assert spans_of(stored.store) == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "[]", "holds no annotations"),
        ("a.json", "[{", "not valid JSON"),
        ("a.csv", "label,text\nodd\n", "1 values for 2 columns"),
        ("a.csv", "", "holds no annotations"),
        ("a.txt", "[]", "named neither .json"),
        ("a.csv", 'label\n"odd', "line"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(stored, tmp_path, name, content, told):
    (tmp_path / name).write_text(content)

    with pytest.raises(DatasetError, match=told) as raised:
        import_annotations(stored.store, tmp_path / name)

    assert str(tmp_path / name) in raised.value.message


def test_the_same_file_again_adds_nothing(stored, tmp_path):
    row = SLOT | {"token_start": 2, "token_end": 3, "label": "odd"}
    file = write(tmp_path / "a.json", [row, row, row | {"label": "other"}])

    first = import_annotations(stored.store, file)
    commit = stored.store.snapshot.number
    second = import_annotations(stored.store, file)

    assert (first.imported, first.present) == (2, 1)
    assert (second.imported, second.present) == (0, 3)
    assert stored.store.snapshot.number == commit


def test_misfits_are_left_out_on_request_and_each_is_told(stored, tmp_path):
    good = SLOT | {"token_start": 2, "token_end": 3, "label": "odd"}
    file = write(tmp_path / "a.json", [good, good | {"token_end": 99}])
    hopeless = write(tmp_path / "b.json", [good | {"token_end": 99}])

    report = import_annotations(stored.store, file, skip_misfits=True)

    assert report.imported == 1
    assert len(report.left_out) == 1 and "tokens 2 to 99 lie outside" in report.left_out[0]
    with pytest.raises(DatasetError, match="1 of 1 spans fit no stored response"):
        import_annotations(stored.store, hopeless, skip_misfits=True)


def test_csv_and_lines_say_the_same_as_json(stored, tmp_path):
    rows = [
        SLOT | {"text": "So", "label": "a,b", "note": 'says "so"\nand more', "source": "ann"},
        SLOT | {"prompt_id": "2", "sample": 0, "text": "!", "label": "é", "extra": "mine"},
    ]
    write(tmp_path / "a.json", {"annotations": rows})
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)

    def facts(name):
        found = read_spans(tmp_path / name)
        assert found.unread["extra"] >= 1
        return [(one.subject.prompt_id, one.text, one.label, one.note) for one in found.spans]

    assert facts("a.json") == facts("a.jsonl") == facts("a.csv")
    assert facts("a.csv")[0] == ("1", "So", "a,b", 'says "so"\nand more')


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"annotations": [{"idx": 1, "spans": [{"span": "is,", "category": "odd"}],
                              "borderline": True, "note": "hm"}]},
            [(4, 6, "odd", "borderline; hm")],
        ),
        (
            {"1": {"annotations": [{"token_start": 4, "token_end": 6, "label": "odd"}]}},
            [(4, 6, "odd", None)],
        ),
        (
            {"metadata": {}, "detailed_annotations": {
                "1": {"exploitations": [{"bias": 7, "tokens": [2, 4], "text": "is ,"}]}}},
            [(4, 6, "bias_7", None)],
        ),
    ],
    ids=["spans", "ranges", "exploitations"],
)  # fmt: skip
def test_the_three_schemas_of_trait_interp_are_read(stored, tmp_path, document, expected):
    """By words; by tokens of the sequence; by tokens of the response."""
    file = write(tmp_path / "a.json", document)

    import_annotations(stored.store, file, organism="loud", prompt_set="audit/x")

    rows = stored.store.snapshot.table("annotations").to_pylist()
    assert [
        (row["token_start"], row["token_end"], row["label"], row["note"]) for row in rows
    ] == expected


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)
LINE_BREAKS = words | st.just('two\r\nlines, "quoted"') | st.just("=1+1")


@given(
    spans=st.lists(
        st.tuples(
            st.sampled_from(["1", "2"]), st.integers(0, 9), st.integers(1, 5), LINE_BREAKS,
            st.none() | LINE_BREAKS, st.none() | LINE_BREAKS,
        ),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    format=st.sampled_from(["json", "jsonl", "csv"]),
)  # fmt: skip
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_goes_out_comes_in_exactly(copy, tmp_path, spans, format):
    """Into another store of the same responses, in every format, whatever the labels hold."""
    one, other = copy(), copy()
    rows = [
        {
            "response_id": one.ids["loud", prompt, 0],
            "token_start": start,
            "token_end": min(start + length, 10),
            "label": label,
            "note": note,
            "source": source,
        }
        for prompt, start, length, label, note, source in spans
    ]
    rows = list({tuple(row.values()): row for row in rows}.values())
    one.store.add_rows("annotations", rows)
    file = tmp_path / f"{other.store.path.name}.{format}"

    write_annotations(list_annotations(one.store), file)
    report = import_annotations(other.store, file)

    def key(row):
        return json.dumps(row)

    assert report.imported == len(rows)
    assert sorted(other.store.snapshot.table("annotations").to_pylist(), key=key) == sorted(
        rows, key=key
    )
    assert list_annotations(other.store) == list_annotations(one.store)


def test_a_list_keeps_what_is_asked_for_and_refuses_unknown_names(stored, tmp_path):
    rows = [SLOT | {"text": "So", "label": "odd"}, SLOT | {"text": "!", "label": "even"}]
    import_annotations(stored.store, write(tmp_path / "a.json", rows), source="ann")

    (found,) = list_annotations(stored.store, labels=["even"], organisms=["loud"])

    assert (found["text"], found["source"], found["prompt_id"]) == ("!", "ann", "1")
    with pytest.raises(QueryError, match="no annotation has label 'evn'; did you mean 'even'"):
        list_annotations(stored.store, labels=["evn"])


def test_a_file_that_is_there_is_not_written_over(stored, tmp_path):
    file = write(tmp_path / "a.json", [SLOT | {"text": "So", "label": "odd"}])

    with pytest.raises(DatasetError, match="is there already"):
        write_annotations([], file)

    assert json.loads(file.read_text())
