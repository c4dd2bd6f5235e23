"""Records of the quickstart's tasks: fields and a label, made from the word lists by one function per family.

A generator takes a random source, the label to produce and whether the record is for evaluation (`held_out`): then it
uses words and combinations that training never sees.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Sequence

from metro_jax.quickstart import words


@dataclasses.dataclass(frozen=True)
class Record:
    """The content of one example before a template words it: named fields, and the index of the right choice."""

    fields: dict[str, str]
    label: int


Generator = Callable[[random.Random, int, bool], Record]

# Polarity comes from the slots, never from the frame: every frame is used for both.
REVIEW_FRAMES = (
    "the {product} is {adjective}",
    "the {product} looks {adjective}",
    "what a {adjective} {product}",
    "this {product} turned out to be {adjective}",
    "it is a {adjective} {product}",
    "I find the {product} {adjective} and {adjective}",
    "such a {adjective} thing in every way",
    "my {person} calls the {product} {adjective}",
    "{adjective}, simply {adjective}",
    "a {adjective} {product}, {outcome}",
    "I {verb} this {product}",
    "my {person} and I {verb} the {product}",
    "we {verb} everything about it",
    "I {verb} it and my friends {verb} it too",
    "the {extreme} {product} that I have ever owned",
    "easily the {extreme} {product} on the market",
    "one of the {extreme} things I own, and what a {adjective} colour",
    "it was the {extreme} {product} in the shop",
    "the {extreme} {product} anyone can get",
    "you get the {extreme} {product} for your money",
    "that was the {extreme} day of shopping in my life",
    "after a month with the {product} I can say that {outcome}",
    "{outcome}",
    "{outcome}, and {outcome}",
    # Small words must not tell anything: each of them stands with both polarities, here and in the outcomes.
    "to be honest, the {product} seems {adjective} to us",
    "I have never seen a {product} so {adjective}",
    "so far the {product} has been {adjective}",
    "we never knew how {adjective} a {product} can be",
    "of the three that we tried this was the {extreme}",
    "it must be far and away the {extreme} {product} here",
    "rather {adjective}, this {product} of ours",
    "all in all a {adjective} one for every day",
    "one word says all about the {product}: {adjective}",
    "truth be told, all my friends {verb} theirs too",
    "no other {product} can be as {adjective} as this one",
    "at home they call it the {extreme} of all things",
)
REVIEW_FRAMES_HELD_OUT = (
    "we think that the {product} is rather {adjective}",
    "honestly the {extreme} {product} so far",
    "all of us {verb} our new {product}",
    "a truly {adjective} {product} for the home",
    "never did we see such a {adjective} {product}",
    "of all our things this {product} is by far the {extreme}",
    "about this {product} there is one thing to say, {outcome}",
)


def _name(rng: random.Random, held_out: bool) -> str:
    return rng.choice(words.NAMES_HELD_OUT if held_out else words.NAMES)


def _articles(text: str) -> str:
    """The text with `an` instead of `a` before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou](?!seful))", r"\1n ", text)


def _order(rng: random.Random, label: int, right: str, wrong: Sequence[str], prefix: str) -> dict[str, str]:
    """Fields `prefix_a`, `prefix_b`, ... that hold the wrong choices with the right one at index `label`."""
    choices = list(wrong)
    rng.shuffle(choices)
    choices.insert(label, right)
    return {f"{prefix}_{letter}": choice for letter, choice in zip("abcdef", choices, strict=False)}


def sentiment(rng: random.Random, label: int, held_out: bool) -> Record:
    """A product review of one to three clauses; label 0 is positive, 1 negative."""
    good = label == 0
    product = rng.choice(words.PRODUCTS_HELD_OUT if held_out else words.PRODUCTS)
    frames = list(REVIEW_FRAMES_HELD_OUT if held_out else REVIEW_FRAMES)

    def fill(text: str) -> str:
        filled = text.format(
            product=product,
            adjective=rng.choice(words.GOOD if good else words.BAD),
            extreme=rng.choice(words.BEST if good else words.WORST),
            verb=rng.choice(words.LIKE if good else words.DISLIKE),
            outcome=rng.choice(words.GOOD_OUTCOMES if good else words.BAD_OUTCOMES),
            person=rng.choice(words.PEOPLE),
            day=rng.choice(words.DAYS),
            month=rng.choice(words.MONTHS),
            colour=rng.choice(words.COLOURS),
        )
        return _articles(filled)

    clauses = [fill(frame) for frame in rng.sample(frames, rng.choice((1, 1, 2)))]
    if rng.random() < 0.4:
        clauses.insert(rng.randrange(len(clauses) + 1), fill(rng.choice(words.NEUTRAL_REMARKS)))
    return Record({"review": ". ".join(clauses), "product": product}, label)


def inference(rng: random.Random, label: int, held_out: bool) -> Record:
    """A premise and a hypothesis; label 0 entailed, 1 contradicted, 2 left open."""
    del held_out  # facts are drawn anew each time; hardly any occurs twice
    name, other = rng.sample(words.NAMES, 2)
    kind = rng.choice(list(words.KINDS))
    thing = rng.choice(words.KINDS[kind])
    action = rng.choice(list(words.ACTIONS))
    colour, other_colour = rng.sample(words.COLOURS, 2)
    place, other_place = rng.sample(words.PLACES, 2)
    size = rng.choice(words.SIZES)
    premise = f"{name} {action} a {colour} {thing} in the {place}"
    hypotheses = (
        (
            f"{name} {action} a {thing}",
            f"{name} {action} a {kind}",
            f"{name} was in the {place}",
            f"the {thing} was {colour}",
        ),
        (
            f"{name} did not {words.ACTIONS[action]} a {thing}",
            f"{name} never saw a {kind}",
            f"{name} was in the {other_place}",
            f"the {thing} was {other_colour}",
        ),
        (
            f"{name} {action} a {thing} for {other}",
            f"the {thing} was {size}",
            f"{other} was in the {place}",
            f"{other} {action} a {kind}",
        ),
    )
    return Record({"premise": premise, "hypothesis": rng.choice(hypotheses[label])}, label)


def word_sense(rng: random.Random, label: int, held_out: bool) -> Record:
    """A word in two sentences: label 0 when both use the sense listed first, 1 when the first uses the other one.

    Templates that ask for the sense read the first sentence only, those that ask for sameness read both: one label
    serves both kinds.
    """
    word = rng.choice(list(words.SENSES))
    senses = list(words.SENSES[word])
    rng.shuffle(senses)
    (gloss_a, first_pool), (gloss_b, second_pool) = senses
    name, other = _name(rng, held_out), _name(rng, held_out)
    if label == 0:
        first, second = rng.sample(first_pool, 2)
    else:
        first, second = rng.choice(second_pool), rng.choice(first_pool)
    fields = {
        "word": word,
        "gloss_a": gloss_a,
        "gloss_b": gloss_b,
        "first": first.format(name=name),
        "second": second.format(name=other),
    }
    return Record(fields, label)


def ending(rng: random.Random, label: int, held_out: bool) -> Record:
    """A situation with a fitting and an unfitting ending; the label is the position of the fitting one."""
    right, wrong = rng.sample(range(len(words.SCRIPTS)), 2)
    situations, endings = words.SCRIPTS[right]
    name = _name(rng, held_out)
    unfitting = rng.choice(words.SCRIPTS[wrong][1]).format(name=name)
    fields = _order(rng, label, rng.choice(endings).format(name=name), [unfitting], "ending")
    return Record({"situation": rng.choice(situations).format(name=name), **fields}, label)


PASSAGES = (
    "{who} bought a {colour} {what} in the {where} on {when}",
    "on {when} {who} saw a {colour} {what} in the {where}",
    "in the {where} {who} found a {colour} {what} on {when}",
    "it was {when} and {who} lost a {colour} {what} in the {where}",
)
QUESTIONS = {
    "who": "who is the person",
    "what": "what is the thing",
    "colour": "what colour is it",
    "where": "where was it",
    "when": "on which day was it",
}


GAPS = {
    "who": "this was done by ...",
    "what": "the thing was a ...",
    "colour": "its colour was ...",
    "where": "all this was in the ...",
    "when": "the day was a ...",
}


def _passage(rng: random.Random) -> tuple[str, str, str, str]:
    """A passage of five facts; the kind of one of them, that fact, and another of its kind."""
    kind = rng.choice(list(words.KINDS))
    pools = {
        "who": words.NAMES,
        "what": words.KINDS[kind],
        "colour": words.COLOURS,
        "where": words.PLACES,
        "when": words.DAYS,
    }
    pairs = {slot: rng.sample(pool, 2) for slot, pool in pools.items()}
    passage = rng.choice(PASSAGES).format(**{slot: pair[0] for slot, pair in pairs.items()})
    asked = rng.choice(list(QUESTIONS))
    right, wrong = pairs[asked]
    return passage, asked, right, wrong


def question_answering(rng: random.Random, label: int, held_out: bool) -> Record:
    """A passage, a question about one of its facts, two options; the label is the position of the right one."""
    del held_out  # facts are drawn anew each time; hardly any occurs twice
    passage, asked, right, wrong = _passage(rng)
    fields = _order(rng, label, right, [wrong], "option")
    return Record({"passage": passage, "question": QUESTIONS[asked], **fields}, label)


def completion(rng: random.Random, label: int, held_out: bool) -> Record:
    """A passage, a sentence about it without its last word, two options; the label is the right one's position."""
    del held_out  # the whole family is
    passage, asked, right, wrong = _passage(rng)
    return Record({"passage": passage, "gap": GAPS[asked], **_order(rng, label, right, [wrong], "option")}, label)


TOPIC_FRAMES = (
    "they talked about the {a} and the {b}",
    "{name} wrote a long article on the {a}",
    "the {a} was on the front page, next to the {b}",
    "after the {a} came the {b}",
    "nobody in town had forgotten the {a}",
)
TOPIC_FRAMES_HELD_OUT = (
    "{name} asked a question about the {a} and about the {b}",
    "all evening it was the {a} and then the {b}",
)


def topic(rng: random.Random, label: int, held_out: bool) -> Record:
    """A sentence on one topic and three topics to choose from; the label is the position of the right one."""
    right, *wrong = rng.sample(list(words.TOPICS), 3)
    first, second = rng.sample(words.TOPICS[right], 2)
    frame = rng.choice(TOPIC_FRAMES_HELD_OUT if held_out else TOPIC_FRAMES)
    text = frame.format(a=first, b=second, name=_name(rng, held_out))
    return Record({"text": text, **_order(rng, label, right, wrong, "topic")}, label)


PARAPHRASE_FRAMES = (
    "how do I {task} a {thing}",
    "what is the way to {task} a {thing}",
    "how can someone {task} a {thing}",
    "is there a trick to {task} a {thing}",
)


def paraphrase(rng: random.Random, label: int, held_out: bool) -> Record:
    """Two questions; label 0 when they ask the same in other words, 1 when task or thing are others.

    A quarter of the things is kept for evaluation.
    """
    things = words.BELONGINGS[:6] if held_out else words.BELONGINGS[6:]
    frames = rng.sample(PARAPHRASE_FRAMES, 2)
    tasks, things = rng.sample(words.TASKS, 2), rng.sample(things, 2)
    if label == 0:
        tasks[1], things[1] = tasks[0], things[0]
    first, second = (f.format(task=a, thing=b) for f, a, b in zip(frames, tasks, things, strict=True))
    return Record({"first": first, "second": second}, label)


GENERATORS: dict[str, Generator] = {
    "sentiment": sentiment,
    "inference": inference,
    "word_sense": word_sense,
    "ending": ending,
    "question_answering": question_answering,
    "topic": topic,
    "paraphrase": paraphrase,
    "completion": completion,
}
LABELS = {
    "sentiment": 2,
    "inference": 3,
    "word_sense": 2,
    "ending": 2,
    "question_answering": 2,
    "topic": 3,
    "paraphrase": 2,
    "completion": 2,
}
