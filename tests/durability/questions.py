"""Everything that can be read of a store, each question with an answer that can be compared."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tistore
from durability.every_file import Sound
from tistore.audit.log import read_analyses
from tistore.exchange.files.export import export_files
from tistore.exchange.selection import Selection
from tistore.query.spans import top_spans
from tistore.query.store import Store
from tistore.schemas.site import Site
from tistore.schemas.tables import LOG_TABLES, SEGMENT_TABLES
from tistore.store.run_status import describe_newest_run
from tistore.store.segment import Segment

Question = Callable[[Store], Any]
"""What is asked of an open store; the answer can be compared with ==."""

_QUERIES = {
    "scores of tokens": "SELECT response_id, reader, position, project('flattery') FROM tokens",
    "scores of clauses": "SELECT response_id, text, project('early'), cosine('flattery') "
    "FROM clauses",
    "scores of responses": "SELECT response_id, reader, text, project('flattery'), "
    "scaled('early') FROM responses",
    "cosines": "SELECT response_id, position, logprob, cosine('early') FROM tokens",
    "differences": "SELECT response_id, reader, baseline, position, token, project('flattery') "
    "FROM token_diffs",
    "differences of clauses": "SELECT response_id, reader, text, project('early') "
    "FROM clause_diffs",
    "differences of responses": "SELECT response_id, reader, project('early') FROM response_diffs",
    "the long form": "SELECT vector, response_id, position, score FROM scores "
    "WHERE vector IN ('flattery', 'early') AND position < 20",
    "an expression": "SELECT response_id, project('flattery - 2*early', 5) FROM responses",
}
_QUERIES_OF_ACTIVATIONS = {
    "a vector without cached scores": "SELECT response_id, position, project('hedging') "
    "FROM tokens",
    "the lens": "SELECT response_id, reader, position, layer, next_token, rank, entropy, "
    "top_tokens FROM lens WHERE position < 8",
}

QUICK = {
    "info", "status", "the log of analyses", "scores of tokens", "scores of responses", "cosines",
    "relation annotations", "the lens", "activations", "an export",
}  # fmt: skip
"""Questions that between them go every way there is into a store."""


def list_questions(*, is_bundle: bool = False) -> dict[str, Question]:
    """List what people ask of a store, or of a bundle of scores; each takes some 50 ms."""
    asked: dict[str, Question] = {
        "info": lambda store: store.info(),
        "the best spans": lambda store: top_spans(store, "early", by="clause"),
        "the log of analyses": read_analyses,
        "status": describe_newest_run,
    }
    queries = {f"relation {name}": f"SELECT * FROM {name}" for name in LOG_TABLES}
    queries |= _QUERIES if is_bundle else _QUERIES | _QUERIES_OF_ACTIVATIONS
    asked |= {name: partial(_ask, query=query) for name, query in queries.items()}
    return asked if is_bundle else asked | {"activations": _read_readings, "an export": _export}


def list_reads() -> dict[str, Question]:
    """List what the questions are answered from, read without a query; about a millisecond each."""
    return {
        "vectors": _read_vectors,
        "activations of segments": _of_segments(_read_activations),
        "means": _of_segments(lambda segment, site: segment.means(site).tobytes()),
        "norms": _of_segments(lambda segment, site: segment.norms(site).tobytes()),
        "bundled scores": _read_bundled_scores,
        "unembeddings": _read_unembeddings,
        "what was before it was compacted": _read_before,
        **{f"table {name}": partial(_read_table, name=name) for name in LOG_TABLES},
        **{f"{name} of segments": partial(_read_tables, name=name) for name in SEGMENT_TABLES},
    }


def ask_everything(
    sound: Sound, questions: Mapping[str, Question]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """
    Ask a sound store, and find out which questions read a file.

    Returns:
        The answers by question; and for every file the questions that read it: the others cannot
        be answered wrongly because of it.
    """
    root = sound.path.resolve()
    answers: dict[str, Any] = {}
    readers: dict[str, list[str]] = {path: [] for path in sound.files}
    for name, question in questions.items():
        sound.restore_cached()
        with _watch_opening() as opened:
            answers[name] = question(tistore.open(sound.path))
        if any(path.startswith(f"{root}/scores/") for path in opened):
            sound.forget_cached()
            with _watch_opening() as also_opened:
                assert question(tistore.open(sound.path)) == answers[name]
            opened |= also_opened
        for path in sorted(os.path.relpath(path, root) for path in opened):
            if path in readers:
                readers[path].append(name)
    sound.forget_cached()
    return answers, readers


@contextmanager
def _watch_opening() -> Iterator[set[str]]:
    """Collect the paths of files that are opened, in whatever way, while the block runs."""
    opened: set[str] = set()

    def noting(plain: Callable[..., Any]) -> Callable[..., Any]:
        def open_noted(path: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(path, str | Path):
                opened.add(os.path.realpath(path))
            return plain(path, *arguments, **named)

        return open_noted

    with patch("os.open", noting(os.open)), patch("io.open", noting(io.open)):
        yield opened


def _ask(store: Store, query: str) -> Any:
    return repr(store.sql(query).to_arrow().to_pydict())


def _read_table(store: Store, name: str) -> Any:
    return repr(store.snapshot.table(name).to_pydict())


def _read_tables(store: Store, name: Any) -> Any:
    return [repr(segment.table(name).to_pydict()) for segment in store.snapshot.segments]


def _of_segments(read: Callable[[Segment, Site], Any]) -> Question:
    def read_all(store: Store) -> Any:
        return [
            read(segment, Site("residual", layer))
            for segment in store.snapshot.segments
            for layer in segment.layers
        ]

    return read_all


def _read_activations(segment: Segment, site: Site) -> Any:
    return segment.read(site).tobytes() if segment.has_activations("residual") else None


def _read_vectors(store: Store) -> Any:
    vectors = store.snapshot.vectors()
    return [(one.reference, one.chosen, one.values.tobytes()) for one in vectors]


def _read_bundled_scores(store: Store) -> Any:
    return [
        segment.scores(direction).tobytes()
        for segment in store.snapshot.segments
        for direction in sorted(segment.scored)
    ]


def _read_before(store: Store) -> Any:
    """Read what was there before segments and tables were replaced: older commits need it."""
    compactions = (
        commit.number for commit in store.snapshot.commits if commit.body["operation"] == "compact"
    )
    first = next(compactions, None)
    if first is None:
        return None
    before = tistore.open(store.path, at=first - 1)
    reads = list_reads()
    of_segments = [f"{name} of segments" for name in ("activations", *SEGMENT_TABLES)]
    needed = ("means", "norms", "vectors", "table prompts", *of_segments)
    return [reads[name](before) for name in needed]


def _read_unembeddings(store: Store) -> Any:
    found = [store.snapshot.unembedding(name) for name in sorted(store.snapshot.heads)]
    return [
        (one.tokens, [(block.first, block.values.tobytes()) for block in one.blocks()])
        for one in found
    ]


def _read_readings(store: Store) -> Any:
    """Read stretches of rows, reading by reading."""
    rows = store.sql("SELECT response_id, reader FROM responses").fetchall()
    return [
        store.activations(response_id, reader=reader, layer=2).tobytes()
        for response_id, reader in rows
    ]


def _export(store: Store) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        chosen = Selection.parse("prompt_id = '0' AND reader = 'instruct'", None, None)
        export_files(store, Path(folder) / "out", "npy", chosen)
        return [(path.name, path.read_bytes()) for path in sorted(Path(folder).rglob("*.npy"))]
