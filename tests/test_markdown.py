"""Text in Markdown: a renderer shows what the model wrote, character by character."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tistore.markdown import code, code_block, escape, quote_in_context, quote_line, visible

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = st.text(
    st.sampled_from("a1 \n\t\r`*_[]()<>&|~$#+-=.:!\\\"'é👩\u200d\u202e\x1b"), max_size=12
)


def render(line: str) -> tuple[str, str]:
    """The text of a quote as a renderer shows it, and what of it is bold."""
    tokens = RENDERER.parse(line)
    kinds = [token.type for token in tokens]
    assert kinds == [
        "blockquote_open", "paragraph_open", "inline", "paragraph_close", "blockquote_close",
    ], (line, kinds)  # fmt: skip
    shown, bold, is_bold = "", "", False
    for child in tokens[2].children:
        if child.type in ("strong_open", "strong_close") or child.content in ("<b>", "</b>"):
            is_bold = child.type == "strong_open" or child.content == "<b>"
            continue
        assert child.type in ("text", "text_special"), (line, child.type)
        shown += child.content
        bold += child.content if is_bold else ""
    return shown, bold


@given(before=NASTY, text=NASTY.filter(lambda text: text.strip(" ")), after=NASTY)
@example(before="word", text=", and so", after="on")
@example(before="", text="# heading", after="")
@example(before="", text="1. item", after="")
@example(before="1", text=". item", after="")
@example(before="-", text="--", after="")
@example(before="`code", text="** <script>alert(1)</script> | _a_ \\", after="`")
@example(before="a", text=" b ", after="c")
@example(before="", text="\r", after="\n")
@example(before="", text="[link](http://a.b)", after="![image](x)")
@example(before="&am", text="p;", after="&lt;")
def test_a_quote_renders_as_the_text_with_the_span_in_bold(before, text, after):
    shown, bold = render(quote_in_context(before, text, after))

    assert shown == (visible(before) + visible(text) + visible(after)).strip(" ")
    assert bold == visible(text).strip(" ")


@given(text=NASTY.filter(lambda text: text.strip(" ")))
def test_a_quoted_line_renders_literally(text):
    shown, _ = render(quote_line(escape(text)))

    assert shown == visible(text).strip(" ")


@given(text=NASTY.filter(lambda text: text.strip(" ")))
@example(text="ends in a #")
@example(text="1. a_b _c_ [d](e) $k$\n- i")
def test_a_heading_renders_literally(text):
    (line,) = [one for one in RENDERER.parse(f"# {escape(text)}") if one.type == "inline"]

    assert "".join(one.content for one in line.children) == visible(text).strip(" ")


@given(text=NASTY.filter(str.strip))
def test_code_renders_literally(text):
    (inline,) = (token for token in RENDERER.parse(f"x {code(text)}") if token.type == "inline")
    (span,) = (child for child in inline.children if child.type == "code_inline")

    assert span.content.strip(" ") == visible(text).strip(" ")


def test_a_block_of_code_holds_its_own_fences():
    sql = "SELECT '```' -- ````\nFROM responses"

    (token,) = RENDERER.parse(code_block(sql, "sql"))

    assert (token.type, token.info, token.content) == ("fence", "sql", f"{sql}\n")


@pytest.mark.parametrize("text", [" ", "   "])
def test_a_span_of_spaces_can_be_seen(text):
    assert render(quote_in_context("a", text, "b"))[1] == "␣" * len(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\nb\r\nc\td", "a↵b↵c⇥d"),
        ("\x1b[31mred\x07", "�[31mred�"),
        ("left\u202eright", "left�right"),
        ("12\u202f000\xa0€", "12 000 €"),
        ("👩\u200d👧", "👩\u200d👧"),
    ],
)
def test_nothing_a_terminal_would_act_on_is_printed(text, wanted):
    assert visible(text) == wanted
