"""The questions of MMLU, in any of the forms they come in.

    FOLDER/{dev,val,test}/SUBJECT_{dev,val,test}.csv       the archive of the authors (github.com/hendrycks/test)
    FOLDER/{all,SUBJECT}/{dev,validation,test}-*.parquet   cais/mmlu of the Hub
    FOLDER/{dev,validation,test}.jsonl[.gz]                rows as ai2_arc's: question, choices.text, choices.label,
                                                           answerKey, and optionally subject, passages

The last is the original's (spec 8.2), whose rows have no subject: then the whole validation split is expected, cut into
subjects by the fixed order and counts below.
"""

import csv
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from metro_jax.evaluation import jsonl

DEV, VALIDATION, TEST = "dev", "validation", "test"
LETTERS = ("A", "B", "C", "D")
#: Subject -> questions of the validation split, in the order of the original's file (its script for MMLU).
VALIDATION_COUNTS = {
    "high_school_biology": 32, "jurisprudence": 11, "prehistory": 35, "high_school_microeconomics": 26,
    "nutrition": 33, "high_school_geography": 22, "human_sexuality": 12, "astronomy": 16, "moral_scenarios": 100,
    "clinical_knowledge": 29, "electrical_engineering": 16, "econometrics": 12, "high_school_computer_science": 9,
    "college_biology": 16, "miscellaneous": 86, "high_school_mathematics": 29, "college_medicine": 22,
    "high_school_macroeconomics": 43, "us_foreign_policy": 11, "professional_law": 170,
    "high_school_government_and_politics": 21, "security_studies": 27, "public_relations": 12, "global_facts": 10,
    "marketing": 25, "high_school_chemistry": 22, "machine_learning": 11, "sociology": 22, "moral_disputes": 38,
    "college_physics": 11, "high_school_statistics": 23, "management": 11, "virology": 18, "high_school_physics": 17,
    "high_school_world_history": 26, "international_law": 13, "logical_fallacies": 18, "world_religions": 19,
    "professional_accounting": 31, "elementary_mathematics": 41, "conceptual_physics": 26,
    "college_computer_science": 11, "human_aging": 23, "high_school_psychology": 60, "college_mathematics": 11,
    "medical_genetics": 11, "abstract_algebra": 11, "professional_medicine": 31, "computer_security": 11,
    "philosophy": 34, "business_ethics": 11, "professional_psychology": 69, "high_school_us_history": 22,
    "high_school_european_history": 18, "college_chemistry": 8, "formal_logic": 14, "anatomy": 14,
}  # fmt: skip
TOTALS = {VALIDATION: 1531, TEST: 14042, DEV: 285}  # questions; five of the development split per subject


class Question(NamedTuple):
    """A row of MMLU.

    Args:
        index: its number within the subject and split.
        answer: the letter of the right option.
        trouble: why it cannot be used; the rest is then empty.
    """

    subject: str
    index: int
    question: str
    options: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str
    where: str
    passages: tuple[str, ...] = ()
    trouble: str | None = None


def read(folder: pathlib.Path, split: str) -> dict[str, list[Question]]:
    """Subject -> its questions of a split, in the order of the table above.

    Raises:
        FileNotFoundError: the split is in none of the forms.
        ValueError: rows without a subject that are not the whole validation split.
    """
    for reader in (_json_lines, _parquet, _csv_files):
        found: dict[str, list[Question]] = {}
        for question in reader(folder, split):
            found.setdefault(question.subject, []).append(question)
        if found:
            known = {name: found.pop(name) for name in VALIDATION_COUNTS if name in found}
            return known | found
    short = "val" if split == VALIDATION else split
    raise FileNotFoundError(
        f"{folder} has no {split} split of MMLU: neither {split}.jsonl, nor SUBJECT/{split}-*.parquet (cais/mmlu of "
        f"the Hub), nor {short}/SUBJECT_{short}.csv (the archive of github.com/hendrycks/test)"
    )


def _broken(subject: str, index: int, where: str, trouble: str) -> Question:
    return Question(subject, index, "", (), (), "", where, trouble=trouble)


def _json_lines(folder: pathlib.Path, split: str) -> Iterator[Question]:
    path = next((folder / f"{split}{end}" for end in jsonl.SUFFIXES if (folder / f"{split}{end}").exists()), None)
    if path is None:
        return
    rows = list(jsonl.lines(path))
    if any(isinstance(row, dict) and "subject" in row for _, row in rows):
        subjects = [str(row.get("subject", "unknown")) if isinstance(row, dict) else "unknown" for _, row in rows]
    elif split == VALIDATION and len(rows) == TOTALS[VALIDATION]:
        subjects = [name for name, count in VALIDATION_COUNTS.items() for _ in range(count)]
    else:
        raise ValueError(
            f"{path}: {len(rows)} rows without 'subject'. Only the whole validation split, {TOTALS[VALIDATION]} rows "
            "in the original's order, can do without; add 'subject' to every row"
        )
    counts: dict[str, int] = {}
    for (line, row), subject in zip(rows, subjects, strict=True):
        index = counts.get(subject, 0)
        counts[subject] = index + 1
        where = f"{path.name}, line {line}"
        yield _broken(subject, index, where, row) if isinstance(row, str) else _arc(row, subject, index, where)


def _arc(row: dict[str, Any], subject: str, index: int, where: str) -> Question:
    choices = row.get("choices")
    try:
        if not isinstance(choices, dict) or not isinstance(row["question"], str):
            return _broken(
                subject, index, where, "'question' must be a text, 'choices' an object of 'text' and 'label'"
            )
        options, labels = tuple(map(str, choices["text"])), tuple(map(str, choices["label"]))
        passages = tuple(map(str, row.get("passages") or ()))
        return Question(subject, index, row["question"], options, labels, str(row["answerKey"]), where, passages)
    except (KeyError, TypeError) as error:
        return _broken(subject, index, where, f"no {error}; it has {', '.join(sorted(row))}")


def _parquet(folder: pathlib.Path, split: str) -> Iterator[Question]:
    files = sorted((folder / "all").glob(f"{split}-*.parquet")) or sorted(folder.glob(f"*/{split}-*.parquet"))
    counts: dict[str, int] = {}
    for path in files:
        for number, row in enumerate(_rows(path)):
            subject = str(row.get("subject") or path.parent.name)
            index = counts.get(subject, 0)
            counts[subject] = index + 1
            yield _from_hub(row, subject, index, f"{path.parent.name}/{path.name}, row {number}")


def _rows(path: pathlib.Path) -> Iterable[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs the package pyarrow (pip install pyarrow)") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); fetch it again") from error


def _from_hub(row: dict[str, Any], subject: str, index: int, where: str) -> Question:
    options, answer = row.get("choices"), row.get("answer")
    if not isinstance(row.get("question"), str) or not isinstance(options, list) or not isinstance(answer, int):
        return _broken(subject, index, where, "question, choices or answer is missing")
    letter = LETTERS[answer] if 0 <= answer < len(LETTERS) else str(answer)
    return Question(subject, index, row["question"], tuple(map(str, options)), LETTERS[: len(options)], letter, where)


def _csv_files(folder: pathlib.Path, split: str) -> Iterator[Question]:
    short = "val" if split == VALIDATION else split
    for path in sorted((folder / short).glob(f"*_{short}.csv")):
        subject = path.stem.removesuffix(f"_{short}")
        with path.open(encoding="utf-8", newline="") as stream:
            for index, row in enumerate(csv.reader(stream)):
                where = f"{short}/{path.name}, row {index + 1}"
                if len(row) != 6:
                    yield _broken(
                        subject, index, where, f"{len(row)} columns instead of question, four options, answer"
                    )
                else:
                    yield Question(subject, index, row[0], tuple(row[1:5]), LETTERS, row[5].strip(), where)
