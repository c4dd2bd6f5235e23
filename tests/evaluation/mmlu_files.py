"""MMLU in small, with made-up questions in the true formats.

python -m tests.evaluation.mmlu_files FOLDER [--layout csv|parquet|jsonl] [--questions 4] [--subjects 57]

With --questions 0 every subject has as many questions as the true validation split.
"""

import argparse
import csv
import json
import pathlib
import random

from metro_jax.evaluation.mmlu_data import LETTERS, VALIDATION_COUNTS
from tests.evaluation.t0_files import sentence

SPLITS = ("dev", "validation", "test")


def questions(subject: str, split: str, number: int) -> list[dict]:
    """Questions with four options and the letter of the right one."""
    found = []
    for index in range(number):
        rng = random.Random(f"{subject} {split} {index}")
        options = [sentence(rng, 6) for _ in LETTERS]
        found.append({"question": f"{sentence(rng, 25)}?", "options": options, "answer": rng.choice(LETTERS)})
    return found


def arc(row: dict) -> dict:
    """As ai2_arc has it, with ten passages."""
    passages = [f"{row['question']} {n}" for n in range(10)]
    choices = {"text": row["options"], "label": list(LETTERS)}
    return {"question": row["question"], "choices": choices, "answerKey": row["answer"], "passages": passages}


def write(folder: pathlib.Path, layout: str, number: int = 4, subjects: int = 57, named: bool = True) -> None:
    """All splits; `named` puts the subject into the rows of JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = []
        for subject, count in list(VALIDATION_COUNTS.items())[:subjects]:
            rows = questions(subject, split, 5 if split == "dev" else number or count)
            if layout == "jsonl":
                lines += [arc(row) | ({"subject": subject} if named else {}) for row in rows]
            elif layout == "csv":
                short = "val" if split == "validation" else split
                path = folder / short / f"{subject}_{short}.csv"
                path.parent.mkdir(exist_ok=True)
                with path.open("w", encoding="utf-8", newline="") as stream:
                    csv.writer(stream).writerows([row["question"], *row["options"], row["answer"]] for row in rows)
            else:
                _parquet(folder / subject / f"{split}-00000-of-00001.parquet", subject, rows)
        if lines:
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _parquet(path: pathlib.Path, subject: str, rows: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(exist_ok=True)
    columns = [
        {"question": r["question"], "subject": subject, "choices": r["options"], "answer": LETTERS.index(r["answer"])}
        for r in rows
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layout", choices=("csv", "parquet", "jsonl"), default="csv")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--subjects", type=int, default=57)
    arguments = parser.parse_args()
    write(arguments.folder, arguments.layout, arguments.questions, arguments.subjects)
