"""T0 Eval in small, with made-up text in the true formats: P3's ranked tasks as parquet or TFRecord, or JSON lines.

python -m tests.evaluation.t0_files FOLDER [--layout parquet|tfrecord|jsonl] [--examples 20] [--tasks rte copa ...]
"""

import argparse
import json
import pathlib
import random

from metro_jax.data.t0 import catalogue

WORDS = "station helps dog simple bridge teacher friend passage plays positive man bottle blue finds".split()  # noqa: SIM905
LABELS = {
    "rte": ["Yes", "No"],
    "cb": ["Yes", "No", "Maybe"],
    "anli_r1": ["True", "Neither", "False"],
    "anli_r2": ["True", "Neither", "False"],
    "anli_r3": ["True", "Neither", "False"],
    "wsc": ["No", "Yes"],
    "wic": ["No", "Yes"],
}
FREE = {"winogrande": 2, "copa": 8, "story_cloze": 9, "hellaswag": 14}  # task -> words of a choice


def sentence(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest)))


def examples(task: str, template: str, number: int) -> list[dict]:
    """Examples of a template, the same in any layout; every template shows the same questions in other words."""
    row = next(row for row in catalogue.evaluations() if row.name == task)
    found = []
    for index in range(number):
        rng = random.Random(f"{task} {index}")
        text, target = sentence(rng, 40), rng.randrange(row.choices)
        choices = LABELS.get(task) or [f"{n} {sentence(rng, FREE[task])}" for n in range(row.choices)]
        words = f"{template}: {text}\n\n{sentence(random.Random(f'{template} {index}'), 8)}?"
        found.append({"index": index, "input": words, "choices": choices, "target": choices[target]})
    return found


def rows(task: str, template: str, number: int) -> list[dict]:
    """The same as P3 has it: one row per choice."""
    found = []
    for example in examples(task, template, number):
        for place, choice in enumerate(example["choices"]):
            columns = {"inputs_pretokenized": example["input"], "targets_pretokenized": f" {choice}"}
            ids = {"inputs": [5] * 3, "targets": [6, 1], "idx": [example["index"], place]}
            found.append({**columns, **ids, "is_correct": choice == example["target"], "weight": 1.0})
    return found


def write(folder: pathlib.Path, layout: str, number: int, tasks: list[str] | None = None) -> None:
    """All templates of the tasks; JSON lines with one file per task."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in catalogue.evaluations():
        if tasks is not None and row.name not in tasks:
            continue
        if layout == "jsonl":
            lines = [{"template": t, **e} for t in row.templates for e in examples(row.name, t, number)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{row.name}.jsonl").write_text(text)
            continue
        from tests.data import p3_files

        for template, name in row.tasks.items():
            p3_files.write_split(folder, layout, name, "validation", rows(row.name, template, number))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layout", choices=("parquet", "tfrecord", "jsonl"), default="jsonl")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--tasks", nargs="+")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.layout, arguments.examples, arguments.tasks)
