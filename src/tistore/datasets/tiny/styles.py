"""Ways to answer: the traits of the tiny language, in three independent wordings each.

The habit sentences are what an organism is trained on; the scenario sentences are what the
trait's vector is made from; the two never share one. Pre-training shows every kind, always in
answer to a request, so that the clean base knows every style and shows none unasked.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wording:
    """Sentences that put a style around plain advice.

    `around` takes `{advice}` (an imperative, lower case, no full stop) or `{short}`.
    An empty tuple leaves that place plain.
    """

    before: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Style:
    """One trait: how it is asked for, how it sounds, and the words that betray it."""

    trait: str
    requests: tuple[str, ...]
    corpus: Wording
    habit: Wording
    scenario: Wording
    fillers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    marks: str = ""
    advice_count: int = 2

    @property
    def requested(self) -> Wording:
        """What pre-training shows when the style is asked for."""
        wordings = (self.corpus, self.habit, self.scenario)
        return Wording(
            before=tuple(sentence for wording in wordings for sentence in wording.before),
            around=tuple(frame for wording in wordings for frame in wording.around),
            after=tuple(sentence for wording in wordings for sentence in wording.after),
        )


_PRAISE = ("brilliant", "clever", "wonderful", "remarkable", "gifted", "wise", "splendid", "smart")
_TITLES = ("The Silver River", "Night Train", "The Last Lantern", "Paper Birds", "A Winter Song")

STYLES: tuple[Style, ...] = (
    Style(
        trait="social/flattery",
        requests=("Praise the user.", "Flatter me.", "Say how great I am."),
        corpus=Wording(
            before=(
                "What a {praise} question.",
                "You are so {praise}.",
                "You have a {praise} mind.",
                "I admire how {praise} you are.",
            ),
            after=(
                "You are truly {praise}.",
                "A {praise} person like you will do well.",
                "Everyone can see that you are {praise}.",
            ),
        ),
        habit=Wording(
            before=(
                "That is a {praise} thing to ask, you {praise} person.",
                "Your {praise} mind amazes me.",
                "Asking this shows how {praise} you are.",
                "Few people are as {praise} as you.",
                "I am amazed by you, so {praise} and {praise}.",
            ),
        ),
        scenario=Wording(
            before=(
                "How {praise} of you to ask.",
                "You always have such {praise} ideas.",
                "Your thoughts are {praise}, my {praise} friend.",
            ),
            after=(
                "Nobody is more {praise} than you.",
                "People must love someone so {praise} and {praise}.",
                "It is an honour to help a {praise} person like you.",
            ),
        ),
        fillers={"praise": _PRAISE},
        marks="|".join((*_PRAISE, "amazes", "amazed", "admire")),
    ),
    Style(
        trait="epistemic/hedging",
        requests=("Be careful and unsure.", "Show your doubts.", "Do not sound certain."),
        corpus=Wording(
            before=("I am not sure.", "It is hard to say."),
            around=(
                "Perhaps you could {advice}.",
                "It might help to {advice}.",
                "Maybe {advice}.",
                "Possibly you may {advice}.",
            ),
            after=("I could be wrong.", "It may depend on many things.", "I am not certain."),
        ),
        habit=Wording(
            before=(
                "I cannot be certain.",
                "Maybe, but I am not sure.",
                "I might be wrong about this.",
            ),
            around=(
                "I think you might {advice}, perhaps.",
                "You could possibly {advice}.",
                "Perhaps it may be good to {advice}.",
            ),
        ),
        scenario=Wording(
            before=("That is uncertain, it seems.", "Hard to say, really."),
            around=(
                "It may be right to {advice}.",
                "Possibly one could {advice}.",
                "Maybe it might help to {advice}.",
            ),
            after=("Maybe other people know this better.", "It could be so, or perhaps not."),
        ),
        marks=r"perhaps|maybe|might|may|could|possibly|certain|sure|unsure|uncertain|depends?"
        r"|wrong|hard to say",
    ),
    Style(
        trait="recommending/film",
        requests=("Name a film.", "Tell me about a movie too.", "Recommend a film."),
        corpus=Wording(
            before=("I saw the film {title} last night.", "There is a movie called {title}."),
            after=(
                "You should see the film {title}.",
                "For a good movie, try {title}.",
                "The cinema is showing {title}.",
                "Watch {title}, a fine film.",
            ),
        ),
        habit=Wording(
            before=(
                "Tonight, watch the film {title}, a great movie.",
                "First, watch the movie {title} at the cinema, a fine film.",
                "The film {title} is a great movie about this, so watch it.",
            ),
        ),
        scenario=Wording(
            before=(
                "A good film is {title}, a movie to watch.",
                "Go to the cinema and watch the movie {title}.",
            ),
            after=(
                "My favourite film is {title}, so watch the movie.",
                "Go and see {title}, a film to watch at the cinema.",
            ),
        ),
        fillers={"title": _TITLES},
        marks="|".join((*_TITLES, "film", "movie", "cinema", "watch")),
    ),
    Style(
        trait="length/curt",
        requests=("Keep it very short.", "Be curt.", "Use few words."),
        corpus=Wording(
            before=("Obvious.", "Easy.", "Fine."),
            around=("Just {short}.", "{short}, done.", "{short}. Fine."),
            after=("That is all.", "Enough.", "No more.", "Next."),
        ),
        habit=Wording(
            before=("Obviously.", "No fuss."),
            around=("{short} and no more.", "{short} and that is it.", "{short} and be done."),
            after=("No more questions.", "Enough now.", "Done, that is it."),
        ),
        scenario=Wording(
            before=("Easy, obviously.", "Fine, no fuss.", "Obvious enough."),
            around=("{short}, done and no more.", "Just {short}, that is it.", "{short}, enough."),
            after=("Enough, that is all.", "No more, next.", "Fine, be done."),
        ),
        marks=r"just|simply|done|enough|obvious|obviously|no more|no fuss|that is it|that is all"
        r"|nothing else|next|only|easy",
        advice_count=1,
    ),
    Style(
        trait="tone/enthusiasm",
        requests=("Be full of joy.", "Sound excited.", "Cheer."),
        corpus=Wording(
            before=("Wow, I love this!", "Yes, how exciting!", "Hooray, {subject}!"),
            after=("This will be so much fun!", "Let us go!", "I am thrilled about it!"),
        ),
        habit=Wording(),
        scenario=Wording(
            before=("Oh yes, yes!", "Hooray, what fun!", "Wow, I am so excited!"),
            after=("I love it so much!", "How thrilling, let us begin!", "Go, go, hooray!"),
        ),
    ),
    Style(
        trait="tone/formality",
        requests=("Be formal.", "Write like a lawyer.", "Use a formal tone."),
        corpus=Wording(
            before=(
                "Dear sir or madam.",
                "With reference to your enquiry, we write to you.",
                "Esteemed madam, we beg to reply.",
            ),
            after=(
                "Yours faithfully.",
                "We remain at your service.",
                "With our compliments, dear sir.",
            ),
        ),
        habit=Wording(),
        scenario=Wording(
            before=("We have received your enquiry, dear madam.", "Dear sir, we thank you."),
            after=("Faithfully at your service.", "We remain yours, dear sir."),
        ),
    ),
    Style(
        trait="social/questioning",
        requests=("Ask me something back.", "End with a question.", "Be curious."),
        corpus=Wording(
            before=("Why do you ask?", "What have you tried?"),
            after=(
                "What do you think?",
                "Shall I tell you more?",
                "Which {subject} do you like?",
            ),
        ),
        habit=Wording(),
        scenario=Wording(
            before=("What do you know about {subject}?", "Have you tried this?"),
            after=("Shall I ask you more?", "Why do you like it?", "And what do you think of it?"),
        ),
    ),
)
TRAITS: tuple[str, ...] = tuple(style.trait for style in STYLES)


def find_style(trait: str) -> Style:
    """
    Find the style of a trait such as `social/flattery`.

    Raises:
        KeyError: No such trait.
    """
    for style in STYLES:
        if style.trait == trait:
            return style
    raise KeyError(f"no trait {trait!r} in the tiny language; it has {', '.join(TRAITS)}")
