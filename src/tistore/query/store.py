"""The store as users meet it: its data, and the questions that can be put to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tistore.query.engine import Engine
from tistore.query.explanation import Explanation
from tistore.query.guard import Limits
from tistore.query.result import Result
from tistore.query.scores import ScoreCache
from tistore.store.base import BaseStore


class Store(BaseStore):
    """
    An open store that answers questions.

    Attributes:
        limits: What each query may use; replace it to set other limits.
    """

    limits: Limits = Limits()

    def sql(
        self,
        query: str,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        max_read_bytes: int | None = None,
    ) -> Result:
        """
        Answer a query in DuckDB's SQL.

        The relations are models, prompts, prompt_sets, vectors, runs, steering, annotations;
        responses, clauses, tokens; response_diffs, clause_diffs, token_diffs. On the last six,
        `project('refusal')` is the score along a vector: a token's, or the mean over a clause's or
        a response's tokens; on differences, the reader's minus the baseline's. `cosine()` and
        `scaled()` divide by the token's norm, and by the reading's mean norm. In a join, write
        `a.project('refusal')` for the relation named a.

        Args:
            query: One SELECT, or WITH … SELECT.
            parameters: Values of `$name` by name, or of `?` in order.
            max_read_bytes: Bytes of activations the query may read; see `Limits`.

        Raises:
            SqlError: The query is malformed, refused, or failed while it ran.
            UnknownVectorError: No vector answers to a reference.
            AmbiguousVectorError: Several vectors do.
            VectorMismatchError: A vector and the readings do not belong together.
            ReadBudgetError: It would read more than it may; nothing was read.
        """
        return self._engine.answer(query, parameters, max_read_bytes)

    def explain(
        self, query: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> Explanation:
        """
        Tell what a query would read, without reading it.

        Raises:
            QueryError: As `sql` does, for all that can be known beforehand.
        """
        return self._engine.explain(query, parameters)

    @property
    def _engine(self) -> Engine:
        engine: Engine | None = self.__dict__.get("_last_engine")
        if engine is None or engine.snapshot is not self.snapshot or engine.limits != self.limits:
            engine = Engine(self.snapshot, self._score_cache, self.limits)
            self.__dict__["_last_engine"] = engine
        return engine

    @cached_property
    def _score_cache(self) -> ScoreCache:
        return ScoreCache(self.score_folder)
