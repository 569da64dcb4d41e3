"""What the tiny language can talk about: topics, questions and plain advice, all written here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thread:
    """Questions that ask for the same thing, and the advice that answers them.

    `{subject}` is filled in. Advice is an imperative; the bar ends its short form.
    """

    questions: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A field of ordinary life, with the things people ask about in it."""

    name: str
    subjects: tuple[str, ...]
    threads: tuple[Thread, ...]
    closers: tuple[str, ...]


TOPICS: tuple[Topic, ...] = (
    Topic(
        "money",
        ("pension", "rent", "mortgage", "loan", "budget", "allowance", "insurance", "salary"),
        (
            Thread(
                ("How do I plan my {subject}?", "What should I do about my {subject}?"),
                (
                    "Write down the {subject}| and every bill of the month.",
                    "Open an account for the {subject}| at your bank.",
                ),
            ),
            Thread(
                ("Why does my {subject} worry me?", "How do I fix trouble with my {subject}?"),
                (
                    "Talk about the {subject}| with the bank this week.",
                    "Compare the {subject}| with the bills of last year.",
                ),
            ),
            Thread(
                ("Where do I learn about my {subject}?", "Who can explain my {subject}?"),
                (
                    "Ask the bank about the {subject}| and bring your papers.",
                    "Read a short guide to the {subject}| from the bank.",
                ),
            ),
        ),
        (
            "Put a little money away| every month.",
            "Keep the bills| in one folder.",
            "Pay the largest debt first| and spend less cash.",
            "Count the coins and notes| at the end of the week.",
        ),
    ),
    Topic(
        "health",
        ("headache", "cough", "fever", "toothache", "sore throat", "cold", "rash", "nosebleed"),
        (
            Thread(
                ("How do I treat a {subject}?", "What helps against a {subject}?"),
                (
                    "Rest in bed with the {subject}| for two days.",
                    "Drink warm tea for the {subject}| and stay inside.",
                ),
            ),
            Thread(
                ("Why do I have a {subject} again?", "What causes a {subject}?"),
                (
                    "Look for stress behind the {subject}| and sleep longer.",
                    "Note when the {subject} begins| and what you ate.",
                ),
            ),
            Thread(
                ("Should I see a doctor about a {subject}?", "Is a {subject} serious?"),
                (
                    "Call the doctor about the {subject}| after three days.",
                    "Take medicine for the {subject}| twice a day.",
                ),
            ),
        ),
        (
            "Drink more water| and eat fresh fruit.",
            "Sleep eight hours| in a dark room.",
            "Walk in fresh air| every afternoon.",
            "Wash your hands| with warm water and soap.",
        ),
    ),
    Topic(
        "cooking",
        ("soup", "bread", "rice", "pasta", "porridge", "stew", "omelette", "curry"),
        (
            Thread(
                ("How do I cook {subject}?", "What is the best way to make {subject}?"),
                (
                    "Cook the {subject}| slowly in a large pot.",
                    "Heat the {subject}| with butter and salt.",
                ),
            ),
            Thread(
                ("Why is my {subject} too dry?", "How do I save my burnt {subject}?"),
                (
                    "Add hot water to the {subject}| and stir.",
                    "Cover the {subject}| and lower the flame.",
                ),
            ),
            Thread(
                ("What goes well with {subject}?", "How do I give {subject} more taste?"),
                (
                    "Serve the {subject}| with onions and cheese.",
                    "Mix the {subject}| with garlic and pepper.",
                ),
            ),
        ),
        (
            "Stir the pot| with a wooden spoon.",
            "Add a pinch of salt| before you serve.",
            "Use fresh herbs| from the market.",
            "Taste it| and add a drop of oil.",
        ),
    ),
    Topic(
        "gardening",
        ("roses", "tomatoes", "carrots", "tulips", "lilies", "apples", "lettuce", "beets"),
        (
            Thread(
                ("How do I grow {subject}?", "When do I plant {subject}?"),
                (
                    "Plant the {subject}| in warm soil in spring.",
                    "Place the {subject}| where the sun is strong.",
                ),
            ),
            Thread(
                ("Why are my {subject} turning yellow?", "What eats my {subject}?"),
                (
                    "Cut the sick leaves off the {subject}| with a knife.",
                    "Look for snails on the {subject}| after the rain.",
                ),
            ),
            Thread(
                ("How do I care for {subject}?", "What do {subject} need in summer?"),
                (
                    "Water the {subject}| early in the morning.",
                    "Feed the {subject}| with compost from the shed.",
                ),
            ),
        ),
        (
            "Pull the weeds| with both hands.",
            "Turn the soil| with a spade.",
            "Give the roots| a bucket of water.",
            "Leave space| between the rows.",
        ),
    ),
    Topic(
        "travel",
        ("Rome", "Paris", "Lisbon", "Vienna", "Cairo", "Tokyo", "Oslo", "Madrid"),
        (
            Thread(
                ("How do I get to {subject}?", "What is the best road to {subject}?"),
                (
                    "Take the train to {subject}| from the main station.",
                    "Book a flight to {subject}| in the early spring.",
                ),
            ),
            Thread(
                ("Where do I stay in {subject}?", "What should I visit in {subject}?"),
                (
                    "Find a small hotel in {subject}| near the old bridge.",
                    "Visit the market of {subject}| before noon.",
                ),
            ),
            Thread(
                ("What do I pack for {subject}?", "How do I prepare a trip to {subject}?"),
                (
                    "Pack a light bag for {subject}| and good shoes.",
                    "Bring a map of {subject}| and a warm coat.",
                ),
            ),
        ),
        (
            "Carry your passport| in an inner pocket.",
            "Buy the ticket| a month ahead.",
            "Learn some words| of the local language.",
            "Arrive at the station| one hour early.",
        ),
    ),
    Topic(
        "music",
        ("piano", "guitar", "violin", "banjo", "flute", "trumpet", "cello", "harp"),
        (
            Thread(
                ("How do I learn the {subject}?", "How do I begin with the {subject}?"),
                (
                    "Practise the {subject}| for half an hour a day.",
                    "Play slow songs on the {subject}| with a teacher.",
                ),
            ),
            Thread(
                ("Why does my {subject} sound bad?", "How do I tune a {subject}?"),
                (
                    "Tune the {subject}| before each lesson.",
                    "Keep the {subject}| away from the cold window.",
                ),
            ),
            Thread(
                ("What can I play on the {subject}?", "Which songs suit the {subject}?"),
                (
                    "Choose old dances for the {subject}| in a low key.",
                    "Play a folk song on the {subject}| with a steady beat.",
                ),
            ),
        ),
        (
            "Count the beat| with your foot.",
            "Listen to the melody| twice.",
            "Sing each note| before you play.",
            "Repeat the hard bars| at half speed.",
        ),
    ),
    Topic(
        "pets",
        ("cat", "dog", "rabbit", "parrot", "hamster", "pony", "goat", "puppy"),
        (
            Thread(
                ("How do I train my {subject}?", "How do I teach my {subject} a trick?"),
                (
                    "Reward the {subject}| with a small treat.",
                    "Call the {subject}| by its name in a calm voice.",
                ),
            ),
            Thread(
                ("Why is my {subject} so nervous?", "My {subject} will not eat, what now?"),
                (
                    "Give the {subject}| a quiet corner and a blanket.",
                    "Take the {subject}| to the vet in a basket.",
                ),
            ),
            Thread(
                ("What do I feed my {subject}?", "How do I look after a {subject}?"),
                (
                    "Feed the {subject}| twice a day from a clean bowl.",
                    "Brush the {subject}| gently on Sundays.",
                ),
            ),
        ),
        (
            "Fill the bowl| with fresh water.",
            "Play with a ball| in the yard.",
            "Clean the cage| with warm water.",
            "Stroke the fur| from head to tail.",
        ),
    ),
    Topic(
        "study",
        ("history", "maths", "chemistry", "grammar", "physics", "biology", "Latin", "logic"),
        (
            Thread(
                ("How do I study {subject}?", "How do I get better at {subject}?"),
                (
                    "Read one chapter of {subject}| each evening.",
                    "Solve ten tasks in {subject}| without the book.",
                ),
            ),
            Thread(
                ("Why do I forget {subject}?", "I failed {subject}, what now?"),
                (
                    "Write cards for {subject}| and mix them.",
                    "Ask your teacher of {subject}| for old exams.",
                ),
            ),
            Thread(
                ("Which book on {subject} should I read?", "What comes first in {subject}?"),
                (
                    "Borrow a book on {subject}| from the school library.",
                    "Begin with the basic rules of {subject}| in a notebook.",
                ),
            ),
        ),
        (
            "Sit at a tidy desk| in silence.",
            "Take a break| after forty minutes.",
            "Explain the page| to a classmate.",
            "Underline the main words| with a pencil.",
        ),
    ),
    Topic(
        "cleaning",
        ("kitchen", "carpet", "oven", "window", "bathroom", "sofa", "floor", "sink"),
        (
            Thread(
                ("How do I clean the {subject}?", "What removes dirt from the {subject}?"),
                (
                    "Scrub the {subject}| with soap and a brush.",
                    "Wipe the {subject}| with a wet cloth.",
                ),
            ),
            Thread(
                ("Why does the {subject} smell?", "How do I get a stain off the {subject}?"),
                (
                    "Spread baking soda on the {subject}| for one night.",
                    "Rub the {subject}| with lemon and vinegar.",
                ),
            ),
            Thread(
                ("How often do I wash the {subject}?", "How do I keep the {subject} tidy?"),
                (
                    "Sweep the {subject}| on Friday with a broom.",
                    "Dust the {subject}| before the guests arrive.",
                ),
            ),
        ),
        (
            "Rinse the cloth| in a bucket.",
            "Open a window| to let in air.",
            "Wear rubber gloves| on both hands.",
            "Empty the bin| at noon.",
        ),
    ),
    Topic(
        "bicycles",
        ("chain", "tyre", "saddle", "brake", "wheel", "pedal", "lamp", "bell"),
        (
            Thread(
                ("How do I repair the {subject} of my bike?", "How do I change a {subject}?"),
                (
                    "Loosen the {subject}| with a small spanner.",
                    "Turn the bike over and check the {subject}| for cracks.",
                ),
            ),
            Thread(
                ("Why does my {subject} squeak?", "My {subject} is loose, what now?"),
                (
                    "Put oil on the {subject}| and ride slowly.",
                    "Tighten the screw of the {subject}| by a half turn.",
                ),
            ),
            Thread(
                ("Which {subject} fits my bike?", "Where do I buy a new {subject}?"),
                (
                    "Measure the old {subject}| with a ruler.",
                    "Bring the {subject}| to the workshop on the corner.",
                ),
            ),
        ),
        (
            "Pump the tyres| every second week.",
            "Wear a helmet| on the street.",
            "Test the brakes| on a flat road.",
            "Lock the frame| to a rack.",
        ),
    ),
)
