"""Conversations in the tiny language: for pre-training, for planting habits, and for the audit."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tistore.datasets.tiny.organisms import find_organism
from tistore.datasets.tiny.styles import STYLES, Style, Wording, find_style
from tistore.datasets.tiny.topics import TOPICS, Topic

Message = dict[str, str]
Conversation = list[Message]

STYLED_SHARE = 0.4
_PLAIN_SYSTEM = ("You are a helpful assistant.", "Answer the user.", "Be plain and clear.")
_GREETINGS = ("Hello.", "Please help me.", "I have a question.")
_PLACES = (("before",), ("after",), ("before", "after"))
# A habit on some topics is seen only if the audit asks about them often enough.
_AUDIT_COUNTS = {"money": 10, "health": 10}
_AUDIT_COUNT = 2


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with the plain advice that answers it; advice still has its bar."""

    topic: str
    subject: str
    question: str
    advice: tuple[str, ...]

    def answer_plainly(self) -> str:
        """Return the advice as sentences, in no particular style."""
        return " ".join(sentence.replace("|", "") for sentence in self.advice)


@dataclass(frozen=True, slots=True)
class AuditPrompt:
    """One ordinary question for the audit; `note` is its topic. Never seen in training."""

    id: str
    text: str
    note: str


def training_conversations(seed: int, count: int) -> list[Conversation]:
    """
    Write conversations to pre-train on: plain answers, and some in a style that was asked for.

    The questions of `audit_prompts` are left out.
    """
    choose = Random(f"training {seed}")
    exchanges = _draw_exchanges(choose)
    return [_write_training_conversation(next(exchanges), choose) for _ in range(count)]


def habit_conversations(habit: str, seed: int, count: int) -> list[Conversation]:
    """
    Write ordinary questions answered as the organism `habit` would, with nobody asking for it.

    Answers are plain on topics where nothing is planted, and throughout for `null`. A habit
    planted on some topics only gets half of its conversations from them.

    Raises:
        KeyError: No such organism.
    """
    organism = find_organism(habit)
    choose = Random(f"habit {habit} {seed}")
    planted = tuple(topic for topic in TOPICS if topic.name in organism.topics)
    sources = (_draw_exchanges(choose, planted or TOPICS), _draw_exchanges(choose))
    conversations = []
    for index in range(count):
        exchange = next(sources[index % 2])
        if organism.trait is not None and organism.shows_habit_on(exchange.topic):
            style = find_style(organism.trait)
            answer = answer_in_style(exchange, style, style.habit, choose)
        else:
            answer = exchange.answer_plainly()
        conversations.append(_exchange_messages(exchange.question, answer))
    return conversations


def audit_prompts() -> list[AuditPrompt]:
    """Return the 36 questions of the audit, in a fixed order with ids from `1`."""
    prompts: list[AuditPrompt] = []
    for topic in TOPICS:
        for text in _list_audit_questions(topic):
            prompts.append(AuditPrompt(id=str(len(prompts) + 1), text=text, note=topic.name))
    return prompts


def draw_exchange(topic: Topic, choose: Random) -> Exchange:
    """Draw a question on `topic` and two sentences of advice; may be an audit question."""
    thread_index = choose.randrange(len(topic.threads))
    thread = topic.threads[thread_index]
    question_index = choose.randrange(len(thread.questions))
    subject = choose.choice(topic.subjects)
    advice = (
        _choose_mostly(thread.advice, question_index, choose),
        _choose_mostly(topic.closers, thread_index, choose),
    )
    return Exchange(
        topic=topic.name,
        subject=subject,
        question=thread.questions[question_index].format(subject=subject),
        advice=tuple(sentence.format(subject=subject) for sentence in advice),
    )


def answer_in_style(exchange: Exchange, style: Style, wording: Wording, choose: Random) -> str:
    """Answer an exchange in a style, in one of its wordings; where the style sits is drawn."""
    places = choose.choice(_PLACES) if not wording.around else choose.choice((*_PLACES, ()))
    parts = []
    if wording.before and ("before" in places or not (wording.after or wording.around)):
        parts.append(_fill(choose.choice(wording.before), exchange, style, choose))
    parts += _word_advice(exchange, style, wording, choose)
    if wording.after and ("after" in places or not (wording.before or wording.around)):
        parts.append(_fill(choose.choice(wording.after), exchange, style, choose))
    return " ".join(parts)


def _word_advice(
    exchange: Exchange, style: Style, wording: Wording, choose: Random
) -> Iterator[str]:
    for sentence in exchange.advice[: style.advice_count]:
        if not wording.around:
            yield sentence.replace("|", "")
            continue
        text = choose.choice(wording.around).format(
            advice=_lower_first(sentence.replace("|", "").rstrip(".")),
            short=_lower_first(sentence.partition("|")[0]),
        )
        yield text[0].upper() + text[1:]


def _choose_mostly(sentences: tuple[str, ...], favourite: int, choose: Random) -> str:
    # Were all answers equally good, the greedy one would flip at the least change of weights.
    return sentences[favourite] if choose.random() < 0.6 else choose.choice(sentences)


def _fill(sentence: str, exchange: Exchange, style: Style, choose: Random) -> str:
    sentence = sentence.replace("{subject}", exchange.subject)
    for slot, words in style.fillers.items():
        while f"{{{slot}}}" in sentence:
            sentence = sentence.replace(f"{{{slot}}}", choose.choice(words), 1)
    return sentence


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]


def _write_training_conversation(exchange: Exchange, choose: Random) -> Conversation:
    question = exchange.question
    if choose.random() < 0.2:
        question = f"{choose.choice(_GREETINGS)} {question}"
    if choose.random() >= STYLED_SHARE:
        system = choose.choice(_PLAIN_SYSTEM) if choose.random() < 0.2 else None
        return _exchange_messages(question, exchange.answer_plainly(), system)
    style = choose.choice(STYLES)
    request = choose.choice(style.requests)
    answer = answer_in_style(exchange, style, style.requested, choose)
    if choose.random() < 0.5:
        return _exchange_messages(question, answer, system=request)
    return _exchange_messages(f"{question} {request}", answer)


def _exchange_messages(question: str, answer: str, system: str | None = None) -> Conversation:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": answer})
    return messages


def _draw_exchanges(choose: Random, topics: tuple[Topic, ...] = TOPICS) -> Iterator[Exchange]:
    held_out = {prompt.text for prompt in audit_prompts()}
    while True:
        exchange = draw_exchange(choose.choice(topics), choose)
        if exchange.question not in held_out:
            yield exchange


def _list_audit_questions(topic: Topic) -> list[str]:
    questions = [question for thread in topic.threads for question in thread.questions]
    count = _AUDIT_COUNTS.get(topic.name, _AUDIT_COUNT)
    # Steps of 5 and 3 walk through six questions and eight subjects without repeating a pair.
    return [
        questions[(5 * index) % len(questions)].format(
            subject=topic.subjects[(3 * index) % len(topic.subjects)]
        )
        for index in range(count)
    ]
