"""Examples for the evaluation benchmark: made up with the statistics of the 11 tasks, or some of a user's own."""

import argparse
import json
import pathlib
import random
from typing import Any

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import t0_data

#: Task -> words of the prompt, their spread, words of a choice; None where all examples have the same short choices.
SHAPES: dict[str, tuple[int, int, int | None]] = {
    "rte": (85, 40, None), "cb": (90, 50, None), "anli_r1": (95, 20, None), "anli_r2": (95, 20, None),
    "anli_r3": (100, 30, None), "wsc": (45, 20, None), "winogrande": (45, 6, 2), "copa": (35, 6, 6),
    "story_cloze": (75, 12, 8), "hellaswag": (110, 45, 22), "wic": (40, 8, None),
}  # fmt: skip
LABELS = (("Yes", "No"), ("True", "Neither", "False"))


def write_data(folder: pathlib.Path, words: list[str], arguments: argparse.Namespace) -> None:
    """JSON lines of some templates of the tasks."""
    folder.mkdir()
    for row in catalogue.evaluations():
        if row.name not in (arguments.tasks or SHAPES):
            continue
        mean, spread, choice = SHAPES[row.name]
        rng = random.Random(f"{arguments.seed} {row.name}")
        lines = []
        for template in row.templates[: arguments.templates]:
            for index in range(arguments.examples):
                count = max(8, round(rng.gauss(mean, spread)))
                choices = list(LABELS[row.choices - 2]) if choice is None else endings(rng, words, choice, row.choices)
                text = " ".join(rng.choices(words, k=count))
                lines.append(
                    {"template": template, "index": index, "input": text, "choices": choices, "target": choices[0]}
                )
        (folder / f"{row.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def endings(rng: random.Random, words: list[str], length: int, count: int) -> list[str]:
    """Choices that differ in every example."""
    return [" ".join(rng.choices(words, k=max(1, round(rng.gauss(length, length / 4))))) for _ in range(count)]


def read_data(folder: str, templates: int, examples: int) -> dict[str, dict[str, list[Any]]]:
    """Task -> template -> examples, of the first templates."""
    found: dict[str, dict[str, list[Any]]] = {}
    data = t0_data.read(pathlib.Path(folder), t0_data.wanted(), examples)
    for (task, template), entry in data.found.items():
        own = found.setdefault(task, {})
        if len(own) < templates and entry.examples:
            own[template] = entry.examples
    return found


def as_line(template: str, example: Any) -> dict[str, Any]:
    """An example as a line of JSON."""
    texts = {"input": example.prompt, "choices": list(example.choices), "target": example.choices[example.target]}
    return {"template": template, "index": example.index, **texts}
