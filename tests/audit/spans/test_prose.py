"""What of a response is prose, and what is markup, code, or a template's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tistore.audit.spans.prose import find_marks, is_prose

TEXT = """\
# A plan for *you*
Some prose, with 3.14 in it.
1. Buy bread
- sell the car
   * nothing else
**Step two**
**Bold** words open this line
Underlined
==========
```python
total = 1
# no heading
```
After the code.
<|start_header_id|>assistant<|end_header_id|>
[INST] Well</s> then <end_of_turn> a < b and [1] <b>
"""


def keeps(text, piece):
    """Whether a piece of a text is prose."""
    start = text.index(piece)
    (told,) = is_prose(
        {"r": text}, ["r"], np.array([0]), np.array([start]), np.array([start + len(piece)])
    )
    return bool(told)


@pytest.mark.parametrize(
    "piece",
    ["A plan for *you*", "1.", "- ", "**Step two**", "Underlined", "==========", "```python",
     "total = 1", "# no heading", "assistant", "[INST]", "</s>", "<end_of_turn>",
     "<|end_header_id|>"],
)  # fmt: skip
def test_markup_code_and_template_text_are_no_prose(piece):
    assert not keeps(TEXT, piece)


@pytest.mark.parametrize(
    "piece",
    ["Some prose,", "3.14", "Buy bread", "1. Buy bread", "sell the car", "* nothing else",
     "**Bold** words", "After the code.", " Well", "a < b", "[1]", "<b>"],
)  # fmt: skip
def test_what_is_said_is_prose_with_its_marker_or_without(piece):
    assert keeps(TEXT, piece)


def test_a_span_with_some_of_both_is_what_most_of_its_letters_are():
    assert not keeps(TEXT, "A plan for *you*\nSome ")
    assert keeps(TEXT, "*you*\nSome prose")


@pytest.mark.parametrize("text", ["# Only a heading", "```\ncode without an end", "***", "…", ""])
def test_a_text_may_have_no_prose_at_all(text):
    assert not keeps(text, text)


LINES = st.lists(
    st.sampled_from(
        ["# Head", "## Two", "words here", "", "```", "~~~", "code x", "1. one", "- b"]
    ),
    max_size=12,
)


@given(LINES)
def test_code_and_headings_are_those_of_a_markdown_parser(lines):
    """Lists are left out of it: what is in one is indented, and prose."""
    lines = [line for line in lines if line[:1] not in ("1", "-")]
    text = "\n".join(lines)
    wanted = set()
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in ("fence", "heading_open"):
            wanted |= set(range(*token.map))

    marks = find_marks(text)

    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    marked = {
        number
        for number, line in enumerate(lines)
        if line and any(a <= starts[number] < b for a, b in marks)
    }
    assert marked == {number for number in wanted if lines[number]}


@given(st.lists(st.text("ab \n#`*é😀", max_size=30), min_size=1, max_size=4), st.data())
def test_spans_of_many_responses_are_told_apart(texts, data):
    """Judged together as each is by itself, characters of several code units included."""
    spans = []
    for place, text in enumerate(texts):
        start = data.draw(st.integers(0, len(text)))
        spans.append((place, start, data.draw(st.integers(start, len(text)))))
    names = [str(place) for place in range(len(texts))]
    responses = dict(zip(names, texts, strict=True))

    together = is_prose(responses, names, *np.array(spans).T)

    alone = [
        bool(is_prose({"r": texts[place]}, ["r"], *np.array([[0], [start], [end]]))[0])
        for place, start, end in spans
    ]
    assert together.tolist() == alone
