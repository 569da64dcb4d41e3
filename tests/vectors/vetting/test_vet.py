"""A judge over real HTTP: every way it can misbehave ends in a score, or in an error."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from dataclasses import replace

import pytest

import tistore
from judge_server import Reply, completion, failure, serve_judge
from tistore.errors import (
    ConfigError,
    InterruptedRunError,
    JudgeError,
    NotStoredError,
    PartialRunError,
)
from tistore.schemas.judgement import Judgement
from tistore.vectors.vetting import vet as vetting
from tistore.vectors.vetting.endpoint import JudgeEndpoint
from tistore.vectors.vetting.rubric import REMINDER, Rubric
from tistore.vectors.vetting.vet import vet
from vetting_store import TRAIT, write_scenarios

RUBRIC = Rubric(TRAIT, "Short to the point of rudeness.")


@pytest.fixture
def store(tmp_path):
    return write_scenarios(tmp_path / "s.tistore")


def endpoint(server, **changes):
    """A judge that is waited for no longer than tests may last."""
    quick = JudgeEndpoint(
        server.url, "judge-1", timeout_seconds=5, backoff_seconds=0.001, longest_pause_seconds=0.05
    )
    return replace(quick, **changes)


def judgements(store) -> list[Judgement]:
    opened = tistore.open(store.path)
    return [Judgement.from_row(row) for row in opened.snapshot.table("judgements").to_pylist()]


def question(request) -> str:
    return request["messages"][1]["content"]


def side_of(request) -> str:
    return "positive" if "positive" in question(request) else "negative"


def by_side(request, number):
    """Sure of itself, and right."""
    if side_of(request) == "positive":
        return completion("90", {"90": 0.5, "80": 0.3, "Yes": 0.2})
    return completion("10", {"10": 0.6, " 20": 0.2, "No": 0.2})


def test_every_score_is_stored_with_where_it_is_from(store):
    with serve_judge(by_side) as server:
        done = vet(store, RUBRIC, endpoint(server))

    found = judgements(store)
    assert (done.n_judged, done.n_known, done.n_unscored, done.n_refused) == (24, 0, 0, 0)
    assert len(found) == 24
    for one in found:
        expected = (0.5 * 90 + 0.3 * 80) / 0.8 if one.side == "positive" else (6 + 4) / 0.8
        assert one.score == pytest.approx(expected)
        assert one.weight == pytest.approx(0.8)
        assert (one.source, one.n_words, one.n_asked) == ("logprobs", 16, 1)
        assert (one.trait, one.judge) == (TRAIT, "judge-1")
        assert one.endpoint == server.url.removeprefix("http://").removesuffix("/v1")
    (rubric,) = store.snapshot.table("rubrics").to_pylist()
    assert rubric["rubric_hash"] == RUBRIC.rubric_hash == done.rubric_hash
    assert "Short to the point of rudeness." in rubric["instructions"]
    scores = store.sql("SELECT side, avg(score) FROM judgements GROUP BY side ORDER BY side")
    assert [round(score) for _, score in scores.fetchall()] == [12, 86]


def test_the_judge_sees_prompt_and_first_words_and_not_the_side(store):
    with serve_judge(by_side) as server:
        vet(store, replace(RUBRIC, words=3), endpoint(server))

    request = server.requests[0]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert (request["model"], request["logprobs"], request["top_logprobs"]) == ("judge-1", True, 20)
    assert "Short to the point of rudeness." in request["messages"][0]["content"]
    shown = re.search(r"PROMPT\n(.*)\n\nRESPONSE\n(.*)\n\nNumber", question(request), re.DOTALL)
    assert shown.groups() == ("asked 1", "positive 1. word0")
    instructions = request["messages"][0]["content"]
    assert "positive" not in instructions and "negative" not in instructions


def test_what_is_judged_is_not_judged_again(store):
    with serve_judge(by_side) as server:
        vet(store, RUBRIC, endpoint(server))
        again = vet(store, RUBRIC, endpoint(server))
        assert (again.n_judged, again.n_known) == (0, 24)
        assert len(server.requests) == 24
        # Another rubric is another question, and so is another judge.
        assert vet(store, replace(RUBRIC, words=None), endpoint(server)).n_judged == 24
        assert vet(store, RUBRIC, endpoint(server, model="judge-2")).n_judged == 24

    assert len(judgements(store)) == 72


def test_an_endpoint_without_logprobs_is_read_as_text(store):
    with serve_judge(lambda request, number: completion("85")) as server:
        vet(store, RUBRIC, endpoint(server))

    assert {(one.score, one.weight, one.source) for one in judgements(store)} == {
        (85, None, "text")
    }


@pytest.mark.parametrize("refused", ["logprobs", "temperature"])
def test_an_endpoint_that_refuses_a_parameter_is_asked_without_it_from_then_on(store, refused):
    def script(request, number):
        if refused in request:
            return failure(400, f"Unsupported parameter: '{refused}'")
        return completion("85")

    with serve_judge(script) as server:
        vet(store, RUBRIC, endpoint(server))

    refusals = [request for request in server.requests if refused in request]
    assert len(refusals) == (1 if refused == "logprobs" else 2)
    assert {one.source for one in judgements(store)} == {"text"}


def test_nonsense_is_asked_about_once_more_and_kept_without_a_score(store):
    with serve_judge(lambda request, number: completion("I'd rather not.")) as server:
        done = vet(store, RUBRIC, endpoint(server))

    assert len(server.requests) == 48
    assert sum(request["messages"][-1]["content"] == REMINDER for request in server.requests) == 24
    found = judgements(store)
    assert {(one.score, one.source, one.raw, one.n_asked) for one in found} == {
        (None, None, "I'd rather not.", 2)
    }
    assert done.n_unscored == 24
    # It was judged: the same call costs nothing more.
    with serve_judge(by_side) as server:
        assert vet(store, RUBRIC, endpoint(server)).n_known == 24
        assert not server.requests


def test_a_stricter_question_may_bring_the_number(store):
    def script(request, number):
        strict = request["messages"][-1]["content"] == REMINDER
        return completion("85") if strict else completion("Rather curt, I would say.")

    with serve_judge(script) as server:
        vet(store, RUBRIC, endpoint(server))

    assert {(one.score, one.raw, one.n_asked) for one in judgements(store)} == {(85, "85", 2)}


def test_a_model_that_thinks_first_is_asked_again_and_let_think(store):
    """Its first answer is cut within its thoughts, which are no nonsense."""
    thought = "<think>\nCurt? 30, or 40. No: 85.</think>\n\n85"

    def script(request, number):
        if "max_tokens" in request:
            return completion("<think>\nCurt? 30", {"<think>": 1.0}, finish_reason="length")
        return completion(thought, {"<think>": 1.0}, ["<think>", "..."])

    with serve_judge(script) as server:
        vet(store, RUBRIC, endpoint(server))

    assert {(one.score, one.source, one.raw) for one in judgements(store)} == {
        (85, "text", thought)
    }
    assert server.requests[0]["messages"] == server.requests[1]["messages"]


@pytest.mark.parametrize(
    "trouble",
    [
        failure(429, "slow down", Retry_After="0.01"),
        failure(429, "slow down", Retry_After="86400"),
        failure(429, "slow down", Retry_After="Wed, 21 Oct 2037 07:28:00 GMT"),
        failure(503, "busy", Retry_After="soon"),
        failure(500),
        Reply(b"", drop=True),
        Reply(b"<html>Bad gateway</html>"),
        Reply(b'{"choices": []}'),
        Reply(b'{"choices": [{"message": {"content": 7}}]}'),
        Reply(b"\xff\xfe"),
    ],
    ids=[
        "429", "429 for a day", "429 until 2037", "503", "500", "dropped", "no JSON", "no choice",
        "no text", "no UTF-8",
    ],
)  # fmt: skip
def test_trouble_that_passes_costs_nothing_but_time(store, trouble):
    """Pauses are capped at 50 ms here: nobody waits a day because a header says so."""

    def script(request, number):
        return trouble if number % 3 == 0 else by_side(request, number)

    with serve_judge(script) as server:
        done = vet(store, RUBRIC, endpoint(server, attempts=6, concurrency=1))

    assert done.n_judged == len(judgements(store)) == 24
    assert {one.source for one in judgements(store)} == {"logprobs"}


def test_an_endpoint_that_breaks_for_good_ends_the_run_and_keeps_what_came(store):
    def script(request, number):
        return by_side(request, number) if number < 10 else failure(500, "out of memory")

    with (
        serve_judge(script) as server,
        pytest.raises(PartialRunError, match="10 of 24.*committed.*500.*out of memory") as caught,
    ):
        vet(store, RUBRIC, endpoint(server, attempts=2, concurrency=1))

    assert caught.value.exit_code == 6
    assert "same command again" in caught.value.mend
    assert len(server.requests) == 10 + 2 * vetting.MOST_FAILURES
    assert len(judgements(store)) == 10
    with serve_judge(by_side) as server:
        done = vet(store, RUBRIC, endpoint(server))
        assert (done.n_known, done.n_judged, len(server.requests)) == (10, 14, 14)


def test_a_judge_that_was_never_there_is_told_at_once_and_leaves_nothing(store):
    before = store.snapshot.number
    with serve_judge(by_side) as server:
        pass  # its port is free again

    with pytest.raises(PartialRunError, match="0 of 24.*no connection"):
        vet(store, RUBRIC, endpoint(server, attempts=2))

    assert tistore.open(store.path).snapshot.number == before


@pytest.mark.parametrize("how", ["hang", "trickle"])
def test_a_judge_that_does_not_end_its_answer_is_not_waited_for(store, how):
    """Bytes that trickle are no answer either: the limit is on the request as a whole."""

    def script(request, number):
        return replace(by_side(request, number), **{how: True})

    with (
        serve_judge(script) as server,
        pytest.raises(PartialRunError, match="asked 2 times.*within 0.1 s"),
    ):
        vet(store, RUBRIC, endpoint(server, timeout_seconds=0.1, attempts=2))

    assert len(server.requests) == 2
    assert judgements(store) == []


def test_questions_that_are_never_answered_do_not_keep_the_others(store):
    """Six of them, more than end a run that nothing else comes of."""
    unlucky = [f"positive {number}." for number in range(2, 13, 2)]

    def script(request, number):
        if any(text in question(request) for text in unlucky):
            return failure(500)
        return by_side(request, number)

    with (
        serve_judge(script) as server,
        pytest.raises(PartialRunError, match="6 questions about tone/curt had no answer; 18 of 24"),
    ):
        vet(store, RUBRIC, endpoint(server, attempts=2, concurrency=1))

    assert len(judgements(store)) == 18


def test_a_text_the_judge_will_not_have_is_left_out_and_counted(store):
    def script(request, number):
        filtered = "positive 1." in question(request) or "negative 5." in question(request)
        return failure(400, "content filter") if filtered else by_side(request, number)

    with serve_judge(script) as server:
        done = vet(store, RUBRIC, endpoint(server))

    assert (done.n_judged, done.n_refused) == (22, 2)
    # The first question found nothing out; the others still ask for probabilities.
    assert {one.source for one in judgements(store)} == {"logprobs"}


@pytest.mark.parametrize(
    ("status", "mend"),
    [(401, "TISTORE_JUDGE_KEY"), (403, "TISTORE_JUDGE_KEY"), (404, "/v1"), (307, "address")],
)
def test_what_waiting_does_not_mend_ends_the_run_at_once(store, status, mend):
    reply = failure(status, "not you", Location="http://elsewhere.invalid/")

    with (
        serve_judge(lambda request, number: reply) as server,
        pytest.raises(JudgeError, match=f"{status}.*not you") as caught,
    ):
        vet(store, RUBRIC, endpoint(server))

    assert caught.value.exit_code == 1
    assert mend in caught.value.mend
    assert len(server.requests) == 1


def test_an_endpoint_that_refuses_every_question_says_so(store):
    with (
        serve_judge(lambda request, number: failure(400, "no such model")) as server,
        pytest.raises(JudgeError, match="no such model"),
    ):
        vet(store, RUBRIC, endpoint(server))

    assert judgements(store) == []


def test_the_key_is_sent_and_neither_stored_nor_shown(store, monkeypatch):
    monkeypatch.setenv("TISTORE_JUDGE_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")

    def script(request, number):
        if number < 3:
            return completion("I saw sk-very-secret")
        return failure(401, "sk-very-secret is no key")

    with serve_judge(script) as server, pytest.raises(JudgeError) as caught:
        vet(store, RUBRIC, endpoint(server, concurrency=1))

    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert not any("another" in str(headers) for headers in server.headers)
    assert "very-secret" not in str(caught.value)
    assert judgements(store)[0].raw == "I saw ***"
    written = [path.read_bytes() for path in store.path.rglob("*") if path.is_file()]
    assert not any(b"very-secret" in data for data in written)
    assert "very-secret" not in repr(endpoint(server))


def test_without_a_key_none_of_another_service_is_sent(store, monkeypatch):
    monkeypatch.delenv("TISTORE_JUDGE_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")

    with serve_judge(by_side) as server:
        vet(store, RUBRIC, endpoint(server))
        with pytest.raises(ConfigError, match="MY_KEY is not set"):
            vet(store, replace(RUBRIC, words=2), endpoint(server, key_variable="MY_KEY"))

    assert not any("another" in str(headers) for headers in server.headers)


def test_a_judge_on_this_machine_is_reached_past_any_proxy(store, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    with serve_judge(by_side) as server:
        assert vet(store, RUBRIC, endpoint(server)).n_judged == 24


def test_questions_are_put_side_by_side_once_the_first_is_answered(store):
    """Four are answered only when four are there."""
    together = threading.Barrier(4)

    def script(request, number):
        if 1 <= number <= 4:
            together.wait(timeout=10)
        return by_side(request, number)

    with serve_judge(script) as server:
        done = vet(store, RUBRIC, endpoint(server, concurrency=4, attempts=1))

    assert done.n_judged == 24
    assert server.most_at_once == 4


def test_judgements_are_committed_in_batches_as_they_come(store, monkeypatch):
    monkeypatch.setattr(vetting, "BATCH", 5)
    stored = []

    with serve_judge(by_side) as server:
        vet(
            store,
            RUBRIC,
            endpoint(server, concurrency=1),
            on_judged=lambda done, total: stored.append(len(judgements(store))),
        )

    assert stored[4] == 5 and stored[11] == 10
    assert len(judgements(store)) == 24


def test_an_interrupt_commits_what_there_is(store):
    def interrupt(done, total):
        if done == 7:
            raise KeyboardInterrupt

    with serve_judge(by_side) as server, pytest.raises(InterruptedRunError, match="7 of 24"):
        vet(store, RUBRIC, endpoint(server, concurrency=1), on_judged=interrupt)

    assert len(judgements(store)) == 7


def test_two_that_judge_at_once_keep_one_judgement_each(store):
    """The first to commit is right; nothing of the other is lost but what it had in common."""
    other = tistore.open(store.path)
    with serve_judge(by_side) as server:

        def meanwhile(done, total):
            if done == 3:
                vet(other, RUBRIC, endpoint(server, model="judge-1"))

        # Inside the loop of the first, as in a notebook.
        first = vet(store, RUBRIC, endpoint(server, concurrency=1), on_judged=meanwhile)

    found = judgements(store)
    assert first.n_judged == 24
    assert len({one.response_id for one in found}) == len(found) == 24


def test_it_works_where_an_event_loop_is_running(store):
    """As in a notebook."""

    async def cell():
        with serve_judge(by_side) as server:
            return vet(store, RUBRIC, endpoint(server))

    assert asyncio.run(cell()).n_judged == 24


def test_half_a_character_in_a_response_is_sent_as_a_replacement(tmp_path):
    asked = RUBRIC.ask("why \ud83d", "so \udc00 it ends")

    assert "so \ufffd it ends" in asked[1]["content"]
    json.dumps(asked, ensure_ascii=False).encode()


def test_a_trait_that_was_not_read_costs_no_request(store):
    with serve_judge(by_side) as server, pytest.raises(NotStoredError, match="did you mean"):
        vet(store, Rubric("tone/curd", "?"), endpoint(server))

    assert not server.requests


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "localhost:8000/v1"}, "no http or https URL"),
        ({"url": "ftp://judge/v1"}, "no http or https URL"),
        ({"url": "http://"}, "no http or https URL"),
        ({"url": "http://judge:port/v1"}, "no http or https URL"),
        ({"url": "http://me:secret@judge/v1"}, "holds a password"),
        ({"url": "http://judge/v1?key=secret"}, "a query"),
        ({"model": ""}, "no model name"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"attempts": 0}, "attempts"),
        ({"backoff_seconds": -1}, "backoff_seconds"),
    ],
)
def test_an_endpoint_that_cannot_be_one_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        JudgeEndpoint(**{"url": "http://judge/v1", "model": "m"} | changes)

    assert "secret" not in str(caught.value)


def test_without_the_extra_the_error_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)

    with serve_judge(by_side) as server, pytest.raises(JudgeError, match=r"tistore\[judge\]"):
        vet(store, RUBRIC, endpoint(server))


def test_the_path_of_a_request_may_be_part_of_the_address():
    with_path = JudgeEndpoint("https://judge.example/v1/chat/completions", "m")

    assert with_path.base_url == "https://judge.example/v1"
    assert not with_path.is_local
    assert JudgeEndpoint("http://[::1]:8000/v1", "m").is_local
