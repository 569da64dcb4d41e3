"""Batches change how fast answers come, not what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tistore.capture.config import GenerationConfig
from tistore.capture.reading.generate import Draft, generate
from tistore.capture.reading.sampling import draw_tokens, seed_response
from tistore.capture.texts.endings import Endings, measure_answer
from tistore.errors import ConfigError, NoRoomError
from tistore.schemas.response import ResponseSlot

DRAFTS = [
    Draft((1, 5, 9, 33, 44, 77, 100, 120), seed=11),
    Draft((1, 200), seed=12),
    Draft((1, 60, 61, 62), seed=13),
]
GREEDY = GenerationConfig(max_new_tokens=8)
SAMPLED = GenerationConfig(max_new_tokens=8, temperature=1.0, top_p=0.95, top_k=100)


def test_padding_on_the_left_does_not_change_greedy_answers(family, build_model, tokenizer):
    """The oracle decodes one prompt by itself, without padding, cache or generate()."""
    model = build_model(family)

    batched = generate(model, tokenizer, DRAFTS, GREEDY)

    for draft, answer in zip(DRAFTS, batched, strict=True):
        ids = list(draft.token_ids)
        with torch.no_grad():
            for _ in answer.token_ids:
                logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
                ids.append(int(logits.argmax()))
        assert list(answer.token_ids) == ids[len(draft.token_ids) :]


def test_a_sampled_answer_does_not_depend_on_its_batch_mates(tiny_llama, tokenizer):
    together = generate(tiny_llama, tokenizer, DRAFTS, SAMPLED)
    reversed_ = generate(tiny_llama, tokenizer, DRAFTS[::-1], SAMPLED)[::-1]
    alone = [generate(tiny_llama, tokenizer, [draft], SAMPLED)[0] for draft in DRAFTS]

    assert together == reversed_ == alone
    assert together != generate(tiny_llama, tokenizer, DRAFTS, GREEDY)


def test_a_sampled_answer_depends_on_its_seed(tiny_llama, tokenizer):
    first, second = generate(
        tiny_llama, tokenizer, [DRAFTS[0], replace(DRAFTS[0], seed=99)], SAMPLED
    )

    assert first != second


def test_every_response_has_a_seed_of_its_own():
    slots = [
        ResponseSlot(organism, "set", prompt_id, sample)
        for organism in ("a", "b")
        for prompt_id in ("1", "2")
        for sample in (0, 1)
    ]

    seeds = {seed_response(seed, slot) for slot in slots for seed in (0, 1)}

    assert len(seeds) == 2 * len(slots)


def test_an_answer_ends_right_after_its_first_end_token(tiny_llama, tokenizer):
    free = generate(tiny_llama, tokenizer, DRAFTS[:1], GREEDY)[0]
    stop = free.token_ids[3]
    tiny_llama.generation_config.eos_token_id = [stop, 2]

    cut, other = generate(tiny_llama, tokenizer, DRAFTS[:2], GREEDY)

    end = free.token_ids.index(stop) + 1
    assert cut.token_ids == free.token_ids[:end]
    assert (free.finish_reason, cut.finish_reason) == ("length", "stop")
    assert other.token_ids.count(stop) <= 1


def find_first_end(tokenizer, token_ids, stops) -> int | None:
    """How many tokens a model has written when a stop text is there; by decoding all of them."""
    for count in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:count], clean_up_tokenization_spaces=False)
        if any(stop in text for stop in stops):
            return count
    return None


@pytest.mark.parametrize("recipe", [GREEDY, SAMPLED])
@pytest.mark.parametrize("kind", ["byte_level", "metaspace", "word_piece"])
def test_an_answer_ends_with_the_token_that_completes_a_stop_text(
    tiny_llama, build_tokenizer, kind, recipe
):
    """Each row of the batch at its own place, and with its own reason."""
    tokenizer = build_tokenizer(kind)
    recipe = recipe.model_copy(update={"max_new_tokens": 16})
    # Only stop texts are to end these rows.
    tiny_llama.generation_config.eos_token_id = None
    free = generate(tiny_llama, tokenizer, DRAFTS, recipe)
    texts = [tokenizer.decode(a.token_ids, clean_up_tokenization_spaces=False) for a in free]
    middle = len(texts[0]) // 2
    stops = (texts[0][-2:], texts[0][middle - 2 : middle + 2], texts[1][-3:], "never written")

    ended = generate(tiny_llama, tokenizer, DRAFTS, recipe.model_copy(update={"stop": stops}))

    counts = [find_first_end(tokenizer, answer.token_ids, stops) for answer in free]
    assert counts[0] is not None and counts[0] < 16
    for answer, whole, count in zip(ended, free, counts, strict=True):
        reached = whole.token_ids[:count]
        stopped = tokenizer.eos_token_id in reached or count is not None
        if tokenizer.eos_token_id in reached:
            reached = reached[: reached.index(tokenizer.eos_token_id) + 1]
        assert answer.token_ids == reached
        assert answer.finish_reason == ("stop" if stopped else "length")


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from(["The", " river", " rose", "🙂", ", ", "1", "é"]), max_size=12),
    stops=st.lists(st.sampled_from(["river", "e", "r r", "🙂,", "11", "se"]), min_size=1),
)
def test_the_first_stop_text_counts_wherever_it_ends(tokenizer, words, stops):
    ids = tokenizer("".join(words), add_special_tokens=False)["input_ids"]

    length = measure_answer(tokenizer, ids, Endings(frozenset({2}), tuple(stops)))

    assert length == find_first_end(tokenizer, ids, stops)
    # What follows an end token is no part of the answer.
    ended = measure_answer(tokenizer, [2, *ids], Endings(frozenset({2}), tuple(stops)))
    assert ended == 1


def test_a_row_that_has_ended_is_not_written_on_for_long(tiny_llama, tokenizer):
    """Generation stops when all rows have ended: the model is asked no more."""
    free = generate(tiny_llama, tokenizer, DRAFTS[:1], GREEDY)[0]
    calls = []
    stop = tokenizer.decode(free.token_ids[:2])

    generate(
        tiny_llama,
        tokenizer,
        DRAFTS[:1],
        GREEDY.model_copy(update={"stop": (stop,)}),
        check=lambda: calls.append(None),
    )

    assert len(calls) == 2


def test_stop_tokens_end_an_answer_besides_the_models_own(tiny_llama, tokenizer):
    free = generate(tiny_llama, tokenizer, DRAFTS[:1], GREEDY)[0]
    stops = (free.token_ids[3], 399)

    ended = generate(
        tiny_llama, tokenizer, DRAFTS[:1], GREEDY.model_copy(update={"stop_token_ids": stops})
    )[0]

    end = min(free.token_ids.index(stop) for stop in stops if stop in free.token_ids)
    assert ended.token_ids == free.token_ids[: end + 1]
    assert ended.finish_reason == "stop"


def test_a_stop_token_of_no_vocabulary_is_refused_before_anything_runs(
    tiny_llama, tokenizer, monkeypatch
):
    monkeypatch.setattr(tiny_llama, "generate", lambda **_: pytest.fail("the model ran"))
    settings = GREEDY.model_copy(update={"stop_token_ids": (400,)})

    with pytest.raises(ConfigError, match="stop token 400 .* vocabulary of 400"):
        generate(tiny_llama, tokenizer, DRAFTS, settings)


def test_the_models_own_taste_for_sampling_does_not_reach_greedy_answers(tiny_llama, tokenizer):
    plain = generate(tiny_llama, tokenizer, DRAFTS, GREEDY)
    tiny_llama.generation_config.repetition_penalty = 5.0
    tiny_llama.generation_config.do_sample = True
    tiny_llama.generation_config.temperature = 2.0

    assert generate(tiny_llama, tokenizer, DRAFTS, GREEDY) == plain


def draw_many(logits: list[float], settings: GenerationConfig, count: int = 20000) -> np.ndarray:
    uniforms = torch.from_numpy(np.random.default_rng(0).random(count))
    scores = torch.tensor([logits]).expand(count, -1)
    drawn = draw_tokens(scores, uniforms, settings).numpy()
    return np.bincount(drawn, minlength=len(logits)) / count


def test_draws_follow_the_softmax_at_the_temperature():
    logits, temperature = [1.0, 0.0, -1.0, 2.0], 0.7
    weights = np.exp(np.array(logits) / temperature)

    shares = draw_many(logits, GenerationConfig(temperature=temperature))

    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)


def test_top_k_and_top_p_leave_the_others_out():
    logits = [0.0, 3.0, 1.0, 2.0]  # probabilities 0.03, 0.64, 0.09, 0.24

    assert list(np.nonzero(draw_many(logits, GenerationConfig(temperature=1, top_k=2)))[0]) == [
        1,
        3,
    ]
    assert list(np.nonzero(draw_many(logits, GenerationConfig(temperature=1, top_p=0.7)))[0]) == [
        1,
        3,
    ]
    assert list(np.nonzero(draw_many(logits, GenerationConfig(temperature=1, top_p=0.1)))[0]) == [1]


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_uniform_range_draw_a_possible_token(uniform: float):
    scores = torch.tensor([[-torch.inf, 1.0, 1.0, -torch.inf]])

    drawn = draw_tokens(scores, torch.tensor([uniform], dtype=torch.float64), SAMPLED)

    assert int(drawn) in (1, 2)


def test_running_out_of_memory_halves_the_batch(tiny_llama, tokenizer, monkeypatch):
    sizes = []
    whole = tiny_llama.generate

    def limited(**options):
        sizes.append(len(options["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("fake")
        return whole(**options)

    expected = generate(tiny_llama, tokenizer, DRAFTS, GREEDY)
    monkeypatch.setattr(tiny_llama, "generate", limited)

    assert generate(tiny_llama, tokenizer, DRAFTS, GREEDY) == expected
    assert sizes == [3, 2, 1, 1, 1]


def test_one_sequence_that_is_too_large_is_a_typed_error(tiny_llama, tokenizer, monkeypatch):
    def exhausted(**_):
        raise torch.OutOfMemoryError("fake")

    monkeypatch.setattr(tiny_llama, "generate", exhausted)

    with pytest.raises(NoRoomError, match="one sequence"):
        generate(tiny_llama, tokenizer, DRAFTS, GREEDY)


def test_a_check_can_give_up_between_tokens(tiny_llama, tokenizer):
    calls = []

    def give_up():
        calls.append(None)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        generate(tiny_llama, tokenizer, DRAFTS, GREEDY, check=give_up)

    assert len(calls) == 3
