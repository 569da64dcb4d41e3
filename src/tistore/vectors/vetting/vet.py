"""Having a judge score a trait's scenarios; every score is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from tistore.errors import InterruptedRunError, JudgeError, KeyConflictError, PartialRunError
from tistore.schemas.judgement import Judgement
from tistore.schemas.model import BASE_READER
from tistore.store.base import BaseStore
from tistore.store.snapshot import Snapshot
from tistore.store.writer import Writer
from tistore.vectors.vetting.client import JudgeClient, NoAnswerError, RefusedTextError
from tistore.vectors.vetting.endpoint import JudgeEndpoint
from tistore.vectors.vetting.rubric import Rubric
from tistore.vectors.vetting.scenario_texts import ScenarioText, read_texts
from tistore.vectors.vetting.score import score_answer

BATCH = 32
"""Judgements in a commit: what a process that is killed has paid for in vain, at the most."""

BATCH_SECONDS = 20.0
"""Age of the last commit after which fewer make one, since a judge may be slow."""

MOST_FAILURES = 5
"""Questions in a row without an answer, after which the judge counts as gone."""

OnJudged = Callable[[int, int], None]
"""Told how many responses have been dealt with, and how many there are in all."""


@dataclass(frozen=True, slots=True)
class Vetting:
    """
    What a judge has done with a trait's scenarios.

    Attributes:
        trait: `category/name`.
        judge: Model that judged.
        endpoint: Host it was asked at.
        rubric_hash: What it was told.
        n_judged: Responses judged now, those without a score among them.
        n_known: Responses that this judge had judged under this rubric before.
        n_unscored: Of those judged now, answers that held no score.
        n_refused: Responses the endpoint will not judge; nothing is stored of these.
    """

    trait: str
    judge: str
    endpoint: str
    rubric_hash: str
    n_judged: int = 0
    n_known: int = 0
    n_unscored: int = 0
    n_refused: int = 0


def vet(
    store: BaseStore,
    rubric: Rubric,
    endpoint: JudgeEndpoint,
    *,
    reader: str = BASE_READER,
    author: str | None = None,
    on_judged: OnJudged | None = None,
) -> Vetting:
    """
    Have a trait's scenarios scored that this judge has not scored under this rubric.

    The judge is not told which side a scenario is on. Judgements are committed as they come; an
    answer without a score is asked for once more and then kept as it is, with no score.

    Args:
        store: Where the scenarios have been read.
        rubric: The trait, and what the judge is told about it.
        endpoint: The judge.
        reader: Who read the scenarios.
        author: Who wrote the responses; see `find_scenarios`.
        on_judged: Follows the work; what it raises ends it, as Ctrl-C does.

    Raises:
        NotStoredError: The scenarios have not been read.
        ConfigError: The key's environment variable is not set.
        JudgeError: The endpoint refuses to judge, or `openai` is not installed.
        PartialRunError: The endpoint does not answer, or answered not every question. What it did
            answer is committed; the same call again does the rest.
        InterruptedRunError: Ctrl-C; the same holds.
    """
    store.refresh()
    texts = read_texts(store.snapshot, rubric.trait, reader, author)
    known = _find_judged(store.snapshot, rubric, endpoint)
    left = [text for text in texts if text.response_id not in known]
    run = _Run(rubric, endpoint, len(texts), store.writer, on_judged or _ignore)
    run.vetting = replace(run.vetting, n_known=len(texts) - len(left))
    if left:
        try:
            run.work(left)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped after {run.n_done} of {len(texts)} scenarios of {rubric.trait}; "
                "what was judged is committed",
                mend="run the same command again to go on from there",
            ) from None
    return run.vetting


class _Run:
    """Judging under way."""

    def __init__(
        self,
        rubric: Rubric,
        endpoint: JudgeEndpoint,
        total: int,
        open_writer: Callable[[], Writer],
        on_judged: OnJudged,
    ) -> None:
        self._rubric = rubric
        self._endpoint = endpoint
        self._total = total
        self._open_writer = open_writer
        self._on_judged = on_judged
        self._failures: list[NoAnswerError] = []
        self._refusals: list[RefusedTextError] = []
        self._in_a_row = 0
        self.vetting = Vetting(rubric.trait, endpoint.model, endpoint.host, rubric.rubric_hash)

    @property
    def n_done(self) -> int:
        """Responses that are judged, now or before."""
        return self.vetting.n_known + self.vetting.n_judged

    def work(self, texts: Sequence[ScenarioText]) -> None:
        """Judge all texts; whatever ends it, what has come is committed."""
        client = JudgeClient(self._endpoint)
        filing = _Filing(self._open_writer(), self._rubric)
        try:
            _wait_for(self._judge(client, filing, texts))
        finally:
            filing.commit()

    async def _judge(
        self, client: JudgeClient, filing: _Filing, texts: Sequence[ScenarioText]
    ) -> None:
        upcoming = iter(texts)
        tasks: set[asyncio.Task[_Outcome]] = set()
        async with client:
            try:
                while True:
                    # One alone until one is answered: that tells what the endpoint accepts.
                    wanted = self._endpoint.concurrency if client.is_settled else 1
                    for text in islice(upcoming, max(wanted - len(tasks), 0)):
                        tasks.add(asyncio.create_task(self._judge_one(client, text)))
                    if not tasks:
                        break
                    done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    self._take([task.result() for task in done], filing, client.is_settled)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._check_end(client.is_settled)

    async def _judge_one(self, client: JudgeClient, text: ScenarioText) -> _Outcome:
        rubric = self._rubric
        asked = rubric.ask(text.prompt, text.response)
        try:
            answer = await client.ask(asked)
            score, n_asked = score_answer(answer), 1
            if score.value is None:
                # A model that thinks first was cut short: the same question, without a limit.
                again = asked if answer.is_cut else rubric.ask_again(asked, answer.text)
                answer = await client.ask(again, at_length=answer.is_cut)
                score, n_asked = score_answer(answer), 2
        except JudgeError as error:
            return error
        return Judgement(
            response_id=text.response_id,
            trait=rubric.trait,
            side=text.side,
            judge=self._endpoint.model,
            endpoint=self._endpoint.host,
            rubric_hash=rubric.rubric_hash,
            score=score.value,
            weight=score.weight,
            source=score.source,
            raw=answer.text,
            n_words=len(rubric.cut(text.response).split()),
            n_asked=n_asked,
            judged_at=datetime.now(UTC),
        )

    def _take(self, outcomes: Sequence[_Outcome], filing: _Filing, is_settled: bool) -> None:
        """Keep what was answered, and end the run where the rest says that it cannot go on."""
        judged = [one for one in outcomes if isinstance(one, Judgement)]
        for judgement in judged:
            filing.add(judgement)
            self._in_a_row = 0
            self.vetting = replace(
                self.vetting,
                n_judged=self.vetting.n_judged + 1,
                n_unscored=self.vetting.n_unscored + (judgement.score is None),
            )
        for error in (one for one in outcomes if isinstance(one, JudgeError)):
            self._count(error, is_settled)
        self._on_judged(self.n_done + self.vetting.n_refused + len(self._failures), self._total)

    def _count(self, error: JudgeError, is_settled: bool) -> None:
        self._in_a_row += 1
        if isinstance(error, NoAnswerError):
            self._failures.append(error)
            if not is_settled or self._in_a_row >= MOST_FAILURES:
                raise self._describe_failures() from error
        elif isinstance(error, RefusedTextError):
            self._refusals.append(error)
            self.vetting = replace(self.vetting, n_refused=len(self._refusals))
            if self._in_a_row >= MOST_FAILURES:
                raise error
        else:
            raise error

    def _check_end(self, is_settled: bool) -> None:
        """Tell at the end what is missing; texts the judge will not have are no reason to stop."""
        if self._failures:
            raise self._describe_failures() from self._failures[-1]
        if self._refusals and not is_settled:
            raise self._refusals[-1]

    def _describe_failures(self) -> PartialRunError:
        unanswered = len(self._failures)
        questions = "a question" if unanswered == 1 else f"{unanswered} questions"
        return PartialRunError(
            f"{questions} about {self._rubric.trait} had no answer; {self.n_done} of "
            f"{self._total} scenarios are judged and committed. {self._failures[-1].message}",
            mend="check that the judge is there, and run the same command again: what is judged "
            "stays so",
        )


_Outcome = Judgement | JudgeError


class _Filing:
    """Commits judgements in batches."""

    def __init__(self, writer: Writer, rubric: Rubric) -> None:
        self._writer = writer
        self._n_waiting = 0
        self._committed_at = time.monotonic()
        writer.add_rows("rubrics", [rubric.to_row()])

    def add(self, judgement: Judgement) -> None:
        """Take a judgement; commit when there are many, or the last commit is long ago."""
        try:
            self._writer.add_rows("judgements", [judgement.to_row()])
        except KeyConflictError:
            return  # another process had it judged meanwhile, and the first judgement stands
        self._n_waiting += 1
        if self._n_waiting >= BATCH or time.monotonic() - self._committed_at > BATCH_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commit what waits; where there is no judgement, not the rubric either."""
        if self._n_waiting:
            with suppress(KeyConflictError):  # as in `add`; all the rest is committed
                self._writer.commit()
        self._n_waiting = 0
        self._committed_at = time.monotonic()


def _find_judged(snapshot: Snapshot, rubric: Rubric, endpoint: JudgeEndpoint) -> set[str]:
    rows = snapshot.table("judgements").select(["response_id", "trait", "judge", "rubric_hash"])
    wanted = (rubric.trait, endpoint.model, rubric.rubric_hash)
    return {
        row["response_id"]
        for row in rows.to_pylist()
        if (row["trait"], row["judge"], row["rubric_hash"]) == wanted
    }


def _wait_for(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, also where a notebook's event loop is running already."""
    if _is_in_a_loop():
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, work).result()
    else:
        asyncio.run(work)


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _ignore(done: int, total: int) -> None:
    """Follow nothing."""
