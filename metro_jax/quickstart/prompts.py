"""Prompted examples of the quickstart: every family's records worded by its templates, split, balanced, repeatable."""

import dataclasses
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metro_jax.quickstart.corpus import trigrams
from metro_jax.quickstart.families import GENERATORS, LABELS, Record
from metro_jax.quickstart.templates import HELD_OUT_FAMILY, QUESTION_REVIEW, TEMPLATES, Template

TRAIN, HELD_OUT_TEMPLATE, HELD_OUT_TASK = "train", "held_out_template", "held_out_family"

_SENTENCE_START = re.compile(r"^[a-z]|(?<=[.?!] )[a-z]")


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt with its choices and the right one, and where it comes from."""

    family: str
    template: str
    inputs: str
    choices: tuple[str, ...]
    target: str
    split: str

    @property
    def answer(self) -> int:
        """Index of the target among the choices."""
        return self.choices.index(self.target)


def render(family: str, template: Template, record: Record, split: str) -> Example:
    """The example that a template makes of a record; sentences begin with capitals."""
    inputs = _SENTENCE_START.sub(lambda match: match.group().upper(), template.text.format(**record.fields))
    choices = tuple(choice.format(**record.fields) for choice in template.choices)
    return Example(family, template.name, inputs, choices, choices[record.label], split)


def _examples(
    family: str, templates: Sequence[Template], count: int, split: str, seed: int, attempts: int | None = None
) -> list[Example]:
    """`count` distinct examples, labels and templates in equal shares.

    Raises:
      ValueError: the word lists cannot give so many.
    """
    rng = random.Random(f"{seed}/{family}/{split}")
    generate, n_labels = GENERATORS[family], LABELS[family]
    examples: list[Example] = []
    seen = set()
    for _ in range(50 * count if attempts is None else attempts):
        if len(examples) == count:
            return examples
        turn, place = divmod(len(examples), len(templates))
        label, template = turn % n_labels, templates[place]
        record = generate(rng, label, split != TRAIN)
        example = render(family, template, record, split)
        if example.inputs not in seen:
            seen.add(example.inputs)
            examples.append(example)
    if len(examples) == count:
        return examples
    raise ValueError(
        f"{count} examples of the family {family!r} were asked for, its words gave only {len(examples)} distinct ones. "
        "Ask for fewer, or add words to metro_jax/quickstart/words.py"
    )


def training_examples(per_template: int, seed: int) -> list[Example]:
    """Examples of every template that is not held out, in a fixed random order."""
    examples = []
    for family, templates in TEMPLATES.items():
        if family != HELD_OUT_FAMILY:
            trained = [template for template in templates if not template.held_out]
            examples += _examples(family, trained, per_template * len(trained), TRAIN, seed)
    random.Random(f"{seed}/order").shuffle(examples)
    return examples


def evaluation_examples(per_template: int, seed: int) -> list[Example]:
    """Examples of every held-out template, and of all templates of the held-out family."""
    examples = []
    for family, templates in TEMPLATES.items():
        held_out = [template for template in templates if template.held_out]
        split = HELD_OUT_TASK if family == HELD_OUT_FAMILY else HELD_OUT_TEMPLATE
        examples += _examples(family, held_out, per_template * len(held_out), split, seed)
    return examples


def leaks(texts: Iterable[str], held_out: str = QUESTION_REVIEW) -> set[tuple[str, ...]]:
    """The word trigrams of a held-out text that occur in the given texts; empty when nothing leaks."""
    forbidden = trigrams(held_out)
    return set().union(*(trigrams(text) & forbidden for text in texts))


def accuracies(examples: Sequence[Example], hits: Sequence[bool]) -> list[dict[str, Any]]:
    """One row per family and template, in order: number of examples, share of hits, and chance."""
    groups: dict[tuple[str, str], list[tuple[Example, bool]]] = {}
    for example, hit in zip(examples, hits, strict=True):
        groups.setdefault((example.family, example.template), []).append((example, hit))
    return [
        {
            "family": family,
            "template": template,
            "examples": len(group),
            "accuracy": sum(hit for _, hit in group) / len(group),
            "chance": sum(1 / len(example.choices) for example, _ in group) / len(group),
        }
        for (family, template), group in groups.items()
    ]


def mean_accuracy(rows: Iterable[Mapping[str, Any]], family: str) -> float:
    """The mean over the templates of a family (spec 8.1)."""
    own = [row["accuracy"] for row in rows if row["family"] == family]
    return sum(own) / len(own)
