"""Text that Markdown shows as it is, whatever a model wrote."""

from __future__ import annotations

import re
import unicodedata

_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
# An underscore inside a word emphasises nothing, and prompt sets and traits are full of them; a
# number sign after one closes no heading.
_MARKS = re.compile(r"[\\`*\[\]|~$<>&]|(?<![^\W_])_|_(?![^\W_])|(?<!\S)#")
_BLOCK_MARK = re.compile(r"(\d{0,9})([#+\-=.):])")
_KEPT = "\u200c\u200d"
"""Joiners: without them, letters of some scripts and many emoji fall apart."""


def visible(text: str) -> str:
    """Keep a text on one line, with nothing that a terminal would act on."""
    text = text.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "⇥")
    return text if text.isprintable() else "".join(map(_make_visible, text))


def _make_visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    if category in ("Zl", "Zp"):
        return "↵"
    return "�" if category.startswith("C") and character not in _KEPT else character


def escape(text: str) -> str:
    """Write a text on one line, so that Markdown takes no character of it for a mark."""
    return _MARKS.sub(lambda match: _escape_mark(match[0]), visible(text))


def _escape_mark(mark: str) -> str:
    return _ENTITIES.get(mark, f"\\{mark}")


def code(text: str) -> str:
    """Write a text as code on a line."""
    text = visible(text)
    fence = "`" * (_longest_run(text) + 1)
    room = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{room}{text}{room}{fence}"


def code_block(text: str, language: str) -> str:
    """Write lines of code, between fences longer than any in it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def quote_in_context(before: str, text: str, after: str) -> str:
    """Quote a text in bold, with what stands before and after it."""
    if not text.strip(" "):
        text = "␣" * len(text)
    inner = text.strip(" ")
    lead, tail = text[: len(text) - len(text.lstrip(" "))], text[len(text.rstrip(" ")) :]
    before, after = visible(before + lead), visible(tail + after)
    line = f"{escape(before)}{_embolden(before, inner, after)}{escape(after)}"
    return quote_line(line)


def quote_line(escaped: str) -> str:
    """Quote an escaped line; what would open a heading or a list at its start does not."""
    line = escaped.strip(" ")
    if match := _BLOCK_MARK.match(line):
        line = f"{match[1]}\\{match[2]}{line[match.end() :]}"
    return f"> {line}"


def _embolden(before: str, text: str, after: str) -> str:
    """Asterisks, or a tag where the characters around would keep asterisks from working."""
    if not text:
        return ""
    shown = visible(text)
    opens = not _is_mark(shown[0]) or not before or _is_mark(before[-1]) or before[-1] == " "
    closes = not _is_mark(shown[-1]) or not after or _is_mark(after[0]) or after[0] == " "
    return f"**{escape(text)}**" if opens and closes else f"<b>{escape(text)}</b>"


def _is_mark(character: str) -> bool:
    """Whether CommonMark counts it as punctuation: emphasis must not hang between two letters."""
    return unicodedata.category(character)[0] in "PS"
