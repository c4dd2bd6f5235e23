"""The examples of T0 Eval, from whatever a folder holds of them (spec 8.1).

In this order, template by template:

1. FOLDER/*.jsonl, *.jsonl.gz (`jsonl`); a file's name may be a task (rte.jsonl) or a task of P3 with its template
   (super_glue_rte_must_be_true.jsonl, with or without `_score_eval`);
2. P3's ranked tasks in either layout, and what `metro-jax data t0` prepared of them;
3. P3's plain tasks and those rendered by promptsource, from their answer choices.
"""

import dataclasses
import difflib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator

from metro_jax.data.t0 import catalogue, p3
from metro_jax.data.t0.catalogue import SCORE_EVAL, Evaluation
from metro_jax.evaluation import jsonl
from metro_jax.evaluation.examples import Account, Example, Record, judge
from metro_jax.evaluation.jsonl import Key

STORY_CLOZE_FORM = "https://cs.rochester.edu/nlp/rocstories"


@dataclasses.dataclass
class Found:
    """The examples of one template, where they came from, and what was left out of them."""

    source: str
    examples: list[Example]
    account: Account


@dataclasses.dataclass
class Data:
    """What a folder holds of the wanted templates.

    Args:
        missing: template -> why it is not there.
        strangers: what lines of JSON could not be put anywhere -> where they are.
    """

    found: dict[Key, Found] = dataclasses.field(default_factory=dict)
    missing: dict[Key, str] = dataclasses.field(default_factory=dict)
    strangers: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def examples(self) -> list[Example]:
        """All of them, task by task."""
        return [example for found in self.found.values() for example in found.examples]


def wanted(tasks: Iterable[str] | None = None, templates: Iterable[str] | None = None) -> dict[str, Evaluation]:
    """The wanted tasks of T0 Eval with their wanted templates, in the order of the published tables.

    Args:
        tasks, templates: names; None stands for all. "anli" stands for its three rounds.

    Raises:
        ValueError: a name that does not exist; the nearest ones are listed.
    """
    known = {row.name: row for row in catalogue.evaluations()}
    names = list(known) if tasks is None else [name for task in tasks for name in _rounds(task)]
    for name in names:
        if name not in known:
            raise ValueError(f"task {name!r} is not one of T0 Eval: {nearest(name, [*known, 'anli'])}")
    chosen = {name: row for name, row in known.items() if name in names}
    if templates is None:
        return chosen
    templates = list(templates)
    every = sorted({template for row in chosen.values() for template in row.templates})
    for template in templates:
        if template not in every:
            raise ValueError(f"template {template!r} is not one of {', '.join(chosen)}: {nearest(template, every)}")
    kept = {name: tuple(t for t in row.templates if t in templates) for name, row in chosen.items()}
    return {name: dataclasses.replace(row, templates=kept[name]) for name, row in chosen.items() if kept[name]}


def _rounds(task: str) -> list[str]:
    return [f"anli_r{n}" for n in (1, 2, 3)] if task == "anli" else [task]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the nearest of the known names, or all of them if they are few."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(known)}"


def read(
    folder: pathlib.Path,
    tasks: dict[str, Evaluation],
    limit: int | None = None,
    heard: Callable[[Key], None] = lambda _: None,
) -> Data:
    """All examples of the wanted tasks that a folder holds.

    Args:
        limit: of every template only the first examples.
        heard: told of every template that is done.

    Raises:
        FileNotFoundError: no such folder. ImportError: a reader's package is missing, with what to install.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: there is no such folder; --data names one with P3's tasks or JSON lines. To fetch P3's: "
            f"metro-jax data t0 --p3 {folder} --download --mixtures t0_eval"
        )
    data = Data()
    by_line = _from_lines(folder, tasks, data)
    for name, row in tasks.items():
        for template, task in row.tasks.items():
            key = (name, template)
            try:
                source, records = by_line.get(key) or _from_p3(folder, task, row)
                examples, account = judge(name, template, records)
            except (p3.BrokenSplitError, FileNotFoundError) as error:
                data.missing[key] = str(error)
            else:
                data.found[key] = Found(source, examples[:limit], account)
            heard(key)
    return data


def _from_lines(folder: pathlib.Path, tasks: dict[str, Evaluation], data: Data) -> dict[Key, tuple[str, list[Record]]]:
    found: dict[Key, tuple[str, list[Record]]] = {}
    for path in jsonl.files(folder):
        for key, record in jsonl.records(path, resolver()):
            if isinstance(key, str):
                data.strangers.setdefault(record.trouble or key, []).append(record.where)
            elif key[0] in tasks and key[1] in tasks[key[0]].templates:
                source, records = found.setdefault(key, (path.name, []))
                records.append(record)
                if path.name not in source:
                    found[key] = (f"{source}, {path.name}", records)
    return found


def resolver() -> Callable[[str, str | None], Key | str]:
    """Finds task and template by the names that a line or a file has for them."""
    rows = {row.name: row for row in catalogue.evaluations()}
    long = {task: (row.name, template) for row in rows.values() for template, task in row.tasks.items()}
    long |= {task.removesuffix(SCORE_EVAL): key for task, key in long.items()}

    def resolve(task: str, template: str | None) -> Key | str:
        if task in long:
            return long[task]
        if task not in rows:
            return f"no task of T0 Eval is called {task!r}; {nearest(task, [*rows, *long])}"
        if template in rows[task].templates:
            return task, template
        if template is None:
            return f"no template is named for {task!r}"
        return f"{task!r} has no template {template!r}; {nearest(template, rows[task].templates)}"

    return resolve


def _from_p3(folder: pathlib.Path, task: str, row: Evaluation) -> tuple[str, Iterator[Record]]:
    present = []
    for name in (task, task.removesuffix(SCORE_EVAL)):
        for split_name, split in p3.splits(folder, name).items():
            if split_name == "validation" or split_name.startswith("dev"):
                source = f"{name}/{split_name} ({split.layout})"
                ranked = name == task
                return source, _ranked(split, row.choices) if ranked else _plain(split)
            present.append(f"{name}/{split_name}")
    raise FileNotFoundError(
        f"only {', '.join(present)}" if present else f"neither {task} nor {task.removesuffix(SCORE_EVAL)} is there"
    )


def _plain(split: p3.Split) -> Iterator[Record]:
    """From rows of whole examples."""
    for number, (row, _) in enumerate(p3.rows(split)):
        where = f"{split.task}/{split.name}, example {number}"
        if isinstance(row, str):
            yield Record(-1, "", (), None, where, row)
        else:
            yield Record(number, row.inputs, row.answer_choices, row.targets.strip(), where)


def _ranked(split: p3.Split, choices: int) -> Iterator[Record]:
    """From one row per choice; the rows of an example are neighbours."""
    unreadable: list[str] = []
    for number, group in itertools.groupby(_numbered(split, unreadable), key=lambda pair: pair[0]):
        rows = sorted((row for _, row in group), key=lambda row: row.idx or (0, 0))
        where = f"{split.task}/{split.name}, example {number}"
        places = [row.idx[1] for row in rows if row.idx is not None]
        if places != list(range(choices)):
            trouble = f"choices {places} instead of 0 to {choices - 1}"
            yield Record(-1, "", (), None, where, f"{trouble}, {unreadable[-1]}" if unreadable else trouble)
            continue
        right = [place for place, row in enumerate(rows) if row.is_correct]
        answers = tuple(row.targets.strip() for row in rows)
        yield Record(number, rows[0].inputs, answers, right[0] if right else None, where)


def _numbered(split: p3.Split, unreadable: list[str]) -> Iterator[tuple[int, p3.Row]]:
    """Rows with the number of their example; one that cannot be read leaves its example short of a choice."""
    for row, _ in p3.rows(split):
        if isinstance(row, str):
            unreadable.append(row)
            continue
        if row.idx is None:
            raise p3.BrokenSplitError(f"{split.task}: a ranked task needs the columns idx and is_correct; it has none")
        yield row.idx[0], row


def where_to_get(name: str) -> str:
    """How to come by the data of a task that is missing."""
    if name == "story_cloze":
        return (
            f"not in P3; its authors give it out for a form: {STORY_CLOZE_FORM}. Save the validation set of 2016 as "
            "ORIGINALS/story_cloze/2016/validation.jsonl and add --render ORIGINALS, or write FOLDER/story_cloze.jsonl "
            "(docs/evaluation.md has the columns)"
        )
    return "metro-jax data t0 --p3 FOLDER --download --mixtures t0_eval, with FOLDER that of --data"
