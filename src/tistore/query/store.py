"""The store as users meet it: its data, and the questions that can be put to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from tistore.errors import NotStoredError, VectorMismatchError
from tistore.query.engine import Engine
from tistore.query.explanation import Explanation
from tistore.query.limits import Limits
from tistore.query.massive import MassiveDims
from tistore.query.progress import Progress, show_on_terminal
from tistore.query.references import resolve
from tistore.query.result import Result
from tistore.query.scores import ScoreCache, Warmed
from tistore.query.span_question import check_condition
from tistore.schemas.vector import Vector
from tistore.store.base import BaseStore
from tistore.store.rewriting.remove import RemoveReport
from tistore.store.score_files import ScoreFolder


class Store(BaseStore):
    """
    An open store that answers questions.

    Attributes:
        limits: What each query may use; replace it to set other limits.
        cache_bytes: What the files of cached scores may hold together; no limit when None.
        on_progress: Told how far a scan is, a few times a second, once it has taken two; keeps a
            line on the terminal unless replaced.
    """

    limits: Limits = Limits()
    cache_bytes: int | None = 16 * 10**9
    on_progress: Callable[[Progress], None] = staticmethod(show_on_terminal)

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
        responses, clauses, tokens; response_diffs, clause_diffs, token_diffs; scores. On all but
        the first seven, `project('refusal')` is the score along a vector: a token's, or the mean
        over a clause's or a response's tokens; on differences, the reader's minus the baseline's.
        `cosine()` and `scaled()` divide by the token's norm, and by the reading's mean norm;
        `centered()` takes the vector's training midpoint off; `trajectory()` lists the token
        scores of a response or a clause. In a join, write `a.project('refusal')` for the relation
        named a. `lens` puts each token's stored states to the model's head, layer by layer.
        `docs/queries.md` has all of it.

        Args:
            query: One SELECT, or WITH … SELECT.
            parameters: Values of `$name` by name, or of `?` in order.
            max_read_bytes: Bytes of activations the query may read; see `Limits`.

        Raises:
            SqlError: The query is malformed, refused, or failed while it ran.
            UnknownVectorError: No vector answers to a reference.
            AmbiguousVectorError: Several vectors do.
            VectorMismatchError: A vector and the readings do not belong together.
            PairingError: A difference would be of readings that differ in precision, template or
                tokenizer, and the query does not name the column `pairing`.
            QueryError: The vectors of an expression cancel each other.
            ReadBudgetError: It would read more than it may; nothing was read.
        """
        return self._engine.answer(query, parameters, max_read_bytes)

    def warm(
        self,
        query: str,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        max_read_bytes: int | None = None,
    ) -> list[Warmed]:
        """
        Compute the token scores a query needs and cache them on disk, without running it.

        Segments are worked off one after the other; nothing is kept in memory. When it is
        interrupted, what is finished stays cached.

        Returns:
            For each vector, what was there and what had to be computed.

        Raises:
            QueryError: As `sql` does.
            StoreError: The cache cannot be written.
        """
        return self._engine.warm(query, parameters, max_read_bytes)

    def explain(
        self, query: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> Explanation:
        """
        Tell what a query would read, without reading it.

        Raises:
            QueryError: As `sql` does, for all that can be known beforehand.
        """
        return self._engine.explain(query, parameters)

    def find_readings(self, where: str, reader: str | None = None) -> list[str]:
        """
        List the keys of the readings that satisfy a condition.

        Args:
            where: SQL condition on the columns of `responses`.
            reader: Only this reader's.

        Raises:
            SqlError: The condition is malformed or refused.
            QueryError: It is more than a condition, or fails as `sql` does.
        """
        check_condition(where)
        # The line break ends a comment the condition may end with.
        query = f"SELECT reading_key FROM responses WHERE ({where}\n)"
        if reader is None:
            return [key for (key,) in self.sql(query).fetchall()]
        named = self.sql(f"{query} AND reader = $reader", {"reader": reader})
        return [key for (key,) in named.fetchall()]

    def remove(
        self,
        where: str,
        *,
        reader: str | None = None,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> RemoveReport:
        """
        Remove the readings that satisfy a condition; see `remove_readings`.

        What another process adds meanwhile stays, whether it satisfies the condition or not.

        Args:
            where: SQL condition on the columns of `responses`.
            reader: Only this reader's.
            reason: For people; stored.
            dry_run: Only tell.

        Raises:
            QueryError: As `find_readings` raises.
            NotStoredError: No reading satisfies it.
            NoRoomError: What stays of their segments does not fit on the disk a second time.
            RewriteConflictError: Other processes keep removing or replacing.
        """
        self.refresh()
        keys = self.find_readings(where, reader)
        if not keys:
            raise NotStoredError(
                f"no reading satisfies {where!r}" + (f" and is {reader}'s" if reader else ""),
                mend="try the condition in `tistore sql`",
            )
        return self.remove_readings(keys, reason=reason, dry_run=dry_run)

    def vector(self, expression: str, layer: int | None = None) -> Vector:
        """
        Find a vector, or work one out of others, as `project(expression, layer)` would use it.

        `refusal - 0.5*sycophancy` adds up unit vectors, each times its number;
        `refusal without 443, 1802` sets these dimensions to 0, `refusal without massive` those that
        `tistore calibrate` has found. Commit it with `add_vector` to give it a name.

        Args:
            expression: Vector reference, or an expression of several.
            layer: Layer it is wanted at; that of the vectors when None.

        Raises:
            UnknownVectorError: No vector answers to a reference, or the expression is malformed.
            AmbiguousVectorError: Several vectors do.
            VectorMismatchError: The vectors do not belong together; or a single vector was not
                fitted at `layer`.
            QueryError: The vectors cancel each other.
        """
        direction = resolve(expression, layer, self.snapshot.vectors(), MassiveDims(self.snapshot))
        if direction.vector.site != direction.site:
            raise VectorMismatchError(
                f"{direction.vector.reference} was not fitted at layer {direction.site.layer}",
                mend="leave the layer out",
            )
        return direction.vector

    def forget(self, directions: Collection[str]) -> None:
        """Give up the scores of some directions that are kept in memory, by their keys."""
        self._score_cache.forget(directions)

    @property
    def _engine(self) -> Engine:
        engine: Engine | None = self.__dict__.get("_last_engine")
        if engine is None or engine.snapshot is not self.snapshot or engine.limits != self.limits:
            engine = Engine(self.snapshot, self._score_cache, self.limits, self._tell)
            self.__dict__["_last_engine"] = engine
        return engine

    @cached_property
    def score_files(self) -> ScoreFolder:
        """The files of cached scores."""
        return ScoreFolder(self.score_folder, self.cache_bytes)

    @cached_property
    def _score_cache(self) -> ScoreCache:
        return ScoreCache(self.score_files)

    def _tell(self, progress: Progress) -> None:
        self.on_progress(progress)
