"""Asking a judge over HTTP, so that every question ends: with an answer, or with an error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field, ValidationError

from tistore.errors import JudgeError
from tistore.vectors.vetting.endpoint import JudgeEndpoint
from tistore.vectors.vetting.rubric import Message
from tistore.vectors.vetting.score import TOP, Answer, Candidate

if TYPE_CHECKING:
    from openai import APIStatusError

_PLAIN: Mapping[str, Any] = {"temperature": 0, "max_tokens": 16}
_REQUESTS: tuple[Mapping[str, Any], ...] = (
    {**_PLAIN, "logprobs": True, "top_logprobs": TOP},
    _PLAIN,
    {},
)
"""Parameters of a request: what is wanted, then what endpoints accept that refuse it."""

_PASSING = {408, 409, 425, 429}
_ABOUT_THE_REQUEST = {400, 413, 422}
_SHOWN = 300
"""Characters of an endpoint's own words that an error message repeats."""


class NoAnswerError(JudgeError):
    """The endpoint did not answer a question, however often it was put; it may do so later."""


class RefusedTextError(JudgeError):
    """The endpoint refuses this one question, and would again."""


class _Choice(BaseModel):
    class Message(BaseModel):
        content: str | None = None

    class Logprobs(BaseModel):
        class Token(BaseModel):
            class Top(BaseModel):
                token: str
                # NaN is no such number either; a little above 0 is rounding.
                logprob: float = Field(le=0.01)

            token: str
            top_logprobs: list[Top] | None = None

        content: list[Token] | None = None

    message: Message
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class _Completion(BaseModel):
    """The part of a chat completion that is read; other keys are left alone."""

    choices: list[_Choice] = Field(min_length=1)


class JudgeClient:
    """
    A judge, ready to be asked. Use it as a context manager.

    What the endpoint refuses of a request, such as log-probabilities, is found out with the first
    question and left out of the others; so let that one be answered before putting the next.

    Args:
        endpoint: Where it is.

    Raises:
        JudgeError: The package `openai` is not there.
        ConfigError: The key's environment variable is not set.
    """

    def __init__(self, endpoint: JudgeEndpoint) -> None:
        try:
            import openai
        except ImportError as error:
            raise JudgeError(
                "asking a judge needs the package openai, which is not installed",
                mend="pip install 'tistore[judge]'",
            ) from error
        self._endpoint = endpoint
        self._key = endpoint.read_key()
        self._openai = openai
        self._accepted: Mapping[str, Any] | None = None

    async def __aenter__(self) -> Self:
        """Open the connections."""
        self._client = self._openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            # Servers without keys take any.
            api_key=self._key or "none",
            timeout=self._endpoint.timeout_seconds,
            max_retries=0,
            http_client=self._openai.DefaultAsyncHttpxClient(
                # A key is for the address it was given for, not for where that one leads.
                follow_redirects=False,
                trust_env=not self._endpoint.is_local,
            ),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close them."""
        await self._client.close()

    @property
    def is_settled(self) -> bool:
        """Whether a question has been answered."""
        return self._accepted is not None

    async def ask(self, messages: Sequence[Message], *, at_length: bool = False) -> Answer:
        """
        Put a question, again after a while where there is no answer.

        Args:
            messages: The question.
            at_length: Whether the answer may be as long as it likes.

        Raises:
            NoAnswerError: There was none at any attempt.
            RefusedTextError: The endpoint will not have this question.
            JudgeError: It will not have any: the key, the model or the address is wrong.
        """
        if self._accepted is not None:
            left_out = {"max_tokens"} if at_length else set()
            accepted = self._accepted.items()
            parameters = {name: value for name, value in accepted if name not in left_out}
            return await self._ask_patiently(messages, parameters)
        refusals = []
        for wanted in _REQUESTS:
            try:
                answer = await self._ask_patiently(messages, wanted)
            except RefusedTextError as error:
                refusals.append(error)
            else:
                self._accepted = wanted
                return answer
        raise refusals[-1]

    async def _ask_patiently(
        self, messages: Sequence[Message], parameters: Mapping[str, Any]
    ) -> Answer:
        endpoint = self._endpoint
        for attempt in range(1, endpoint.attempts + 1):
            try:
                return await self._ask_once(messages, parameters)
            except _PassingError as error:
                if attempt == endpoint.attempts:
                    times = "once" if attempt == 1 else f"{attempt} times"
                    raise NoAnswerError(
                        f"{endpoint} was asked {times} without an answer: {error}"
                    ) from error
                pause = endpoint.backoff_seconds * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                if error.pause_seconds is not None:
                    pause = error.pause_seconds
                await asyncio.sleep(min(pause, endpoint.longest_pause_seconds))
        raise AssertionError("an endpoint is asked at least once")

    async def _ask_once(self, messages: Sequence[Message], parameters: Mapping[str, Any]) -> Answer:
        openai = self._openai
        try:
            async with asyncio.timeout(self._endpoint.timeout_seconds):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self._endpoint.model,
                    messages=list(messages),  # type: ignore[arg-type]  # dicts, as it takes them
                    **parameters,
                )
                body = response.content
        except (TimeoutError, openai.APITimeoutError) as error:
            took = f"{self._endpoint.timeout_seconds:g} s"
            raise _PassingError(f"no whole answer within {took}") from error
        except openai.APIStatusError as error:
            raise self._explain(error) from error
        except openai.APIConnectionError as error:
            raise _PassingError(f"no connection ({self._show(error.__cause__)})") from error
        except openai.OpenAIError as error:
            raise _PassingError(f"no answer to make sense of ({self._show(error)})") from error
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError as error:
            shown = self._show(body.decode("utf-8", "replace"))
            raise _PassingError(f"no chat completion, but {shown!r}") from error
        return self._read(completion.choices[0])

    def _read(self, choice: _Choice) -> Answer:
        text = self._hide(choice.message.content or "")
        tokens = (choice.logprobs and choice.logprobs.content) or []
        first = (tokens and tokens[0].top_logprobs) or []
        return Answer(
            text,
            tuple(one.token for one in tokens),
            tuple(Candidate(one.token, one.logprob) for one in first),
            is_cut=choice.finish_reason == "length",
        )

    def _explain(self, error: APIStatusError) -> Exception:
        """Cut refusals by what helps: waiting, another question, or mending the command."""
        status = error.status_code
        said = f"HTTP {status} ({self._show(error.message)})"
        if status in _PASSING or status >= 500:
            return _PassingError(said, _read_retry_after(error.response.headers))
        if status in _ABOUT_THE_REQUEST:
            return RefusedTextError(f"{self._endpoint} refuses the question: {said}")
        mends = {
            401: f"export its key in {self._endpoint.key_variable}",
            403: f"check the key in {self._endpoint.key_variable}",
            404: "check the address, which mostly ends in /v1, and the model's name",
        }
        mend = mends.get(status, "check the address: it must answer by itself")
        return JudgeError(f"{self._endpoint} refuses to judge: {said}", mend=mend)

    def _hide(self, words: str) -> str:
        """Take the key out of an endpoint's words."""
        return words.replace(self._key, "***") if self._key else words

    def _show(self, words: object) -> str:
        """Shorten an endpoint's words to what a message can repeat, on one line."""
        # The key goes first: what is cut might leave half of it.
        seen = "".join(one if one.isprintable() else " " for one in self._hide(str(words)))
        return seen if len(seen) <= _SHOWN else f"{seen[:_SHOWN]}…"


class _PassingError(Exception):
    """One attempt had no answer; the next may have."""

    def __init__(self, message: str, pause_seconds: float | None = None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read in how many seconds to come again (RFC 9110, 10.2.3); None where it does not say."""
    given = headers.get("retry-after", "").strip()
    try:
        seconds = float(given)
    except ValueError:
        try:
            date = parsedate_to_datetime(given)
        except ValueError:
            return None
        # A date without a zone is in UTC.
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if seconds == seconds else None
