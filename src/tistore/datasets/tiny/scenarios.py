"""Contrast scenarios: the same exchange with a trait and without it, for mean differences."""

from random import Random

from tistore.datasets.scenarios import Scenario
from tistore.datasets.tiny.conversations import Exchange, answer_in_style, draw_exchange
from tistore.datasets.tiny.styles import STYLES, Style, find_style
from tistore.datasets.tiny.topics import TOPICS

SCENARIO_COUNT = 40


def contrast_scenarios(trait: str) -> tuple[tuple[Scenario, ...], tuple[Scenario, ...]]:
    """
    Write the scenarios of a trait: `SCENARIO_COUNT` pairs, every topic equally often.

    Pair i asks the same question and gives the same advice on both sides. Negatives are plain
    or in another style, in turn. No organism was trained on a sentence that shows
    the trait here; the base has read them in answer to requests for the style.

    Returns:
        Positives and negatives, in the same order.

    Raises:
        KeyError: No such trait.
    """
    style = find_style(trait)
    choose = Random(f"scenarios {trait}")
    exchanges = [draw_exchange(TOPICS[i % len(TOPICS)], choose) for i in range(SCENARIO_COUNT)]
    positives = tuple(
        Scenario(exchange.question, answer_in_style(exchange, style, style.scenario, choose))
        for exchange in exchanges
    )
    negatives = tuple(
        Scenario(exchange.question, _answer_without(trait, i, exchange, choose))
        for i, exchange in enumerate(exchanges)
    )
    return positives, negatives


def _answer_without(trait: str, index: int, exchange: Exchange, choose: Random) -> str:
    # Against plain answers alone, every trait's vector would mostly say "not plain".
    others: list[Style | None] = [None, *(style for style in STYLES if style.trait != trait)]
    other = others[index % len(others)]
    if other is None:
        return exchange.answer_plainly()
    return answer_in_style(exchange, other, other.scenario, choose)
