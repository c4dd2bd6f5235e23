"""The tasks of T0, T0+ and T0++: datasets, templates, mixtures with caps, evaluation tasks (spec 6.2, 7, 8.1).

The facts are data files beside this module:

* datasets.csv: the 66 datasets of T0's table, what each is used for, and the size of its training split
  (github.com/bigscience-workshop/t-zero, t0/datasets.csv);
* templates.csv: the templates of promptsource 0.1.0 for the datasets that are trained on, with the metrics they name
  as far as metro_jax.evaluation.metrics has them;
* exclusions.json: names that are left out (blacklist) or not evaluated on (train_eval_*), from the same repository;
* evaluation.json: the templates of T0 Eval.

Mixtures, task names and caps are derived from them. Nothing heavy is imported.
"""

import collections
import csv
import dataclasses
import functools
import importlib.resources
import json
import re
from collections.abc import Iterable
from typing import Any

MAX_EXAMPLES = 500_000  # per dataset, shared by its tasks (spec 6.2)
#: What each training mixture is made of: values of the column `train` of datasets.csv (spec 7).
TRAINING = {
    "t0_train": ("BASE",),
    "t0p_train": ("BASE", "GPT_EVAL"),
    "t0pp_train": ("BASE", "GPT_EVAL", "SGLUE"),
}
TRAIN_EVAL = "t0_train_eval"
EVALUATION = "t0_eval"
SCORE_EVAL = "_score_eval"  # P3's suffix of tasks with one row per example and choice


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A row of datasets.csv; `train` and `evaluation` are empty where the dataset has no such use."""

    name: str
    subset: str | None
    kind: str
    train: str
    evaluation: str
    train_size: int | None


@dataclasses.dataclass(frozen=True)
class Task:
    """A template of a dataset."""

    dataset: str
    subset: str | None
    template: str
    original_task: bool
    answer_choices: bool
    metrics: tuple[str, ...]  # names of metro_jax.evaluation.metrics; promptsource names none for 16 of them

    @property
    def name(self) -> str:
        """The task's name here and in P3."""
        return task_name(self.dataset, self.subset, self.template)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One of the eleven tasks of T0 Eval: `templates` are scored one by one, the task's score is their mean."""

    name: str
    dataset: str
    subset: str | None
    split: str
    examples: int
    choices: int
    templates: tuple[str, ...]

    @property
    def anli_round(self) -> str | None:
        """r1, r2 or r3 for ANLI, whose rounds are splits of one dataset."""
        return self.split.removeprefix("dev_") if self.dataset == "anli" else None

    @property
    def tasks(self) -> dict[str, str]:
        """Template -> name of its ranked task in P3; ANLI's names end in the round (spec 7.2)."""
        subset = None if self.anli_round else self.subset
        suffix = f"_{self.anli_round}" if self.anli_round else ""
        return {
            template: task_name(self.dataset, subset, template) + suffix + SCORE_EVAL for template in self.templates
        }


def task_name(dataset: str, subset: str | None, template: str) -> str:
    """dataset[_subset]_template; each run of other characters than letters, digits, `_` and `.` becomes one `_`."""
    return re.sub(r"[^\w.]+", "_", "_".join(part for part in (dataset, subset, template) if part is not None))


@functools.cache
def datasets() -> tuple[Dataset, ...]:
    """The dataset table (66 rows)."""
    return tuple(
        Dataset(
            row["dataset"],
            row["subset"] or None,
            row["kind"],
            row["train"],
            row["evaluation"],
            int(row["train_size"]) if row["train_size"] else None,
        )
        for row in csv.DictReader(_text("datasets.csv").splitlines())
    )


@functools.cache
def tasks() -> tuple[Task, ...]:
    """Every task that is trained on in one of the mixtures (464)."""
    excluded = set(exclusions()["blacklist"])
    found = (
        Task(
            row["dataset"],
            row["subset"] or None,
            row["template"],
            row["original_task"] == "1",
            row["answer_choices"] == "1",
            tuple(row["metrics"].split()),
        )
        for row in csv.DictReader(_text("templates.csv").splitlines())
    )
    return tuple(task for task in found if task.name not in excluded)


@functools.cache
def metrics() -> dict[str, tuple[str, ...]]:
    """Task -> the metrics of its generated answers; accuracy where promptsource names none that there is here."""
    return {task.name: task.metrics or ("accuracy",) for task in tasks()}


@functools.cache
def exclusions() -> dict[str, list[str]]:
    """Names left out: `blacklist` of all mixtures, `train_eval_tasks` and `train_eval_datasets` of t0_train_eval."""
    return json.loads(_text("exclusions.json"))


@functools.cache
def evaluations() -> tuple[Evaluation, ...]:
    """The tasks of T0 Eval in the order of the published tables (11, with 112 templates)."""
    rows: list[dict[str, Any]] = json.loads(_text("evaluation.json"))
    return tuple(dataclasses.replace(Evaluation(**row), templates=tuple(row["templates"])) for row in rows)


def training_tasks(mixture: str) -> tuple[Task, ...]:
    """The tasks of a training mixture: T0 313, T0+ 392, T0++ 464.

    Raises:
      KeyError: no such mixture; `TRAINING` has them.
    """
    use = {(row.name, row.subset): row.train for row in datasets()}
    return tuple(task for task in tasks() if use[task.dataset, task.subset] in TRAINING[mixture])


def caps(mixture_tasks: Iterable[Task]) -> dict[str, int]:
    """Task -> cap: 500,000 shared by the tasks of the same dataset and subset in the mixture, rounded down (6.2).

    The cap holds for every dataset, whatever its size; T0 itself caps only datasets above 500,000 examples.
    """
    mixture_tasks = tuple(mixture_tasks)
    count = collections.Counter((task.dataset, task.subset) for task in mixture_tasks)
    return {task.name: MAX_EXAMPLES // count[task.dataset, task.subset] for task in mixture_tasks}


def train_eval_tasks() -> tuple[Task, ...]:
    """The tasks whose other splits validate a training run: original tasks of T0 without those excluded (142)."""
    named = set(exclusions()["train_eval_tasks"])
    prefixes = tuple(exclusions()["train_eval_datasets"])
    return tuple(
        task
        for task in training_tasks("t0_train")
        if task.original_task and task.name not in named and not task.name.startswith(prefixes)
    )


def evaluation_tasks() -> dict[str, Evaluation]:
    """Name of the ranked task in P3 -> the task of T0 Eval it belongs to (112)."""
    return {name: evaluation for evaluation in evaluations() for name in evaluation.tasks.values()}


@functools.cache
def prefixes() -> dict[str, str]:
    """Task, ranked or not, of any mixture -> `dataset[_subset]_`, with which the names of its dataset begin."""
    found = {task.name: task_name(task.dataset, task.subset, "") for task in tasks()}
    for name, row in evaluation_tasks().items():
        found[name] = task_name(row.dataset, None if row.anli_round else row.subset, "")
    return found


def mixtures() -> dict[str, dict[str, int | None]]:
    """Every mixture: name -> {task: cap}; the validation and evaluation tasks have no caps."""
    found: dict[str, dict[str, int | None]] = {name: dict(caps(training_tasks(name))) for name in TRAINING}
    found[TRAIN_EVAL] = dict.fromkeys(task.name for task in train_eval_tasks())
    found[EVALUATION] = dict.fromkeys(evaluation_tasks())
    return found


def _text(name: str) -> str:
    return importlib.resources.files("metro_jax.data.t0").joinpath(name).read_text(encoding="utf-8")
