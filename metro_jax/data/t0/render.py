"""Rendering tasks from the original datasets with promptsource, into the parquet layout of P3 (spec 7.1).

promptsource is no dependency of this project: it is asked for only here. The originals lie in

    FOLDER/DATASET[/SUBSET]/SPLIT.parquet, SPLIT-00000-of-0000N.parquet, SPLIT.jsonl or SPLIT.jsonl.gz

with the columns of their Hub dataset. Random choices that templates make are seeded by (seed, task, split, number of
the example), so that they do not depend on order or on the number of processes.
"""

import collections
import functools
import gzip
import json
import pathlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from metro_jax.data.t0 import catalogue, p3

UNFINISHED = "rendering"  # this file stands in the folder of a task until all its splits are rendered
BATCH = 1000  # rows held at once
INSTALL = (
    "pip install --no-deps --ignore-requires-python promptsource==0.2.3, and jinja2, pyyaml, pandas and "
    "'setuptools<81' (the reference pins promptsource 0.1.0; names and texts of single templates can differ)"
)
_FILE = re.compile(r"(?P<split>.+?)(?:-\d{5}-of-\d{5})?\.(?:parquet|jsonl|jsonl\.gz)")


def render_missing(
    folder: pathlib.Path, originals: pathlib.Path, mixtures: Iterable[str], seed: int = 0, show: bool = True
) -> dict[str, str]:
    """Renders what `mixtures` want and `folder` lacks; returns the tasks that cannot be rendered, with the reason.

    Raises:
      ImportError: promptsource, or something it needs, is not installed. FileNotFoundError: no folder of originals.
    """
    import rich.progress

    if not originals.is_dir():
        raise FileNotFoundError(f"{originals}: there is no such folder; --render names the folder of original datasets")
    collection = _promptsource()
    folder.mkdir(parents=True, exist_ok=True)
    problems: dict[str, str] = {}
    wanted = [task for task in _wanted(mixtures) if _is_to_render(folder, task.name)]
    templates = functools.cache(collection.DatasetTemplates)
    for task in rich.progress.track(wanted, "rendering", transient=True, disable=not show):
        reason = render_task(folder, originals, task, templates, seed)
        if reason is not None:
            problems |= {task.name: reason, task.name + catalogue.SCORE_EVAL: reason}
    return problems


class Wanted(collections.namedtuple("Wanted", "name dataset subset template purpose round")):
    """A task to render: `purpose` is "train", "validate" or "all", `round` the ANLI round of the name or None."""


def _wanted(mixtures: Iterable[str]) -> list[Wanted]:
    found: dict[str, Wanted] = {}
    names = set(mixtures)
    validated = {task.name for task in catalogue.train_eval_tasks()} if catalogue.TRAIN_EVAL in names else set()
    training = {task.name for name in names & set(catalogue.TRAINING) for task in catalogue.training_tasks(name)}
    for task in catalogue.tasks():
        trains, validates = task.name in training, task.name in validated
        if trains or validates:
            purpose = "all" if trains and validates else "train" if trains else "validate"
            found[task.name] = Wanted(task.name, task.dataset, task.subset, task.template, purpose, None)
    for evaluation in catalogue.evaluations() if catalogue.EVALUATION in names else ():
        for template, ranked in evaluation.tasks.items():
            name = ranked.removesuffix(catalogue.SCORE_EVAL)
            subset = None if evaluation.anli_round else evaluation.subset
            purpose = "all" if name in found else "validate"
            found[name] = Wanted(name, evaluation.dataset, subset, template, purpose, evaluation.anli_round)
    return list(found.values())


def _is_to_render(folder: pathlib.Path, task: str) -> bool:
    """Whether a task is not there, or only what a run that was stopped left of it."""
    where = p3.task_folder(folder, task)
    return where is None or (where / UNFINISHED).exists()


def _promptsource() -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pkg_resources, which it imports, is on its way out
            from promptsource import templates  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(f"--render needs promptsource ({error}): {INSTALL}") from error
    return templates


def render_task(
    folder: pathlib.Path, originals: pathlib.Path, task: Wanted, templates: Callable[..., Any], seed: int
) -> str | None:
    """Renders the splits of one task that its purpose needs; returns why it could not be done, or None."""
    where = originals / task.dataset / (task.subset or "")
    files = original_files(where)
    if not files:
        return f"not in P3, and its original is not at {where}"
    chosen = {target: files[split] for split, target in _splits(task, files).items()}
    if not chosen:
        return f"not in P3, and its original at {where} has only {', '.join(files)}"
    named = templates(task.dataset, task.subset)
    if task.template not in named.name_to_id_mapping:
        return f"the installed promptsource has no template {task.template!r} for {task.dataset}"
    template = named[task.template]
    target_folder = folder / task.name
    target_folder.mkdir(parents=True, exist_ok=True)
    (target_folder / UNFINISHED).touch()
    dropped: collections.Counter[str] = collections.Counter()
    for split, paths in chosen.items():
        key = f"{seed} {task.name} {split}"
        _write(target_folder, split, rendered_rows(_examples(paths), template, key, dropped))
    (target_folder / "rendered.json").write_text(json.dumps({"seed": seed, "dropped": dict(dropped)}) + "\n")
    (target_folder / UNFINISHED).unlink()
    return None


def original_files(where: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Split -> files of an original dataset."""
    found: dict[str, list[pathlib.Path]] = {}
    for path in sorted(where.iterdir()) if where.is_dir() else ():
        if match := _FILE.fullmatch(path.name):
            found.setdefault(match["split"], []).append(path)
    return found


def _splits(task: Wanted, files: Mapping[str, Any]) -> dict[str, str]:
    """Split of the original -> split of the rendered task; ANLI's rounds are splits of the original (spec 7)."""
    names = {name: name for name in files}
    if task.round is not None:
        rounds = {"train": "train", "dev": "validation", "test": "test"}
        names = {f"{old}_{task.round}": new for old, new in rounds.items() if f"{old}_{task.round}" in files}
    return {
        old: new
        for old, new in names.items()
        if task.purpose == "all" or (task.purpose == "train") == new.startswith("train")
    }


def rendered_rows(
    examples: Iterable[dict[str, Any]], template: Any, key: str, dropped: collections.Counter[str]
) -> Iterator[dict[str, Any]]:
    """The examples as a template shows them, in P3's columns; what gives no prompt and target is dropped and
    counted."""
    state = random.getstate()
    try:
        for number, example in enumerate(examples):
            example = {name.replace("-", "_"): value for name, value in example.items()}
            random.seed(f"{key} {number}")
            try:
                parts = template.apply(example)
                random.seed(f"{key} {number}")  # the same choices in the answers
                choices = template.get_answer_choices_list(example)
            except IndexError:
                dropped["rendering failed"] += 1
                continue
            if len(parts) != 2:
                dropped["no prompt and target"] += 1
            elif not parts[1]:
                dropped["empty target"] += 1
            else:
                row = {"inputs_pretokenized": parts[0], "targets_pretokenized": parts[1]}
                yield row | ({"answer_choices": choices} if choices else {})
    finally:
        random.setstate(state)


def _examples(paths: Iterable[pathlib.Path]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    for path in paths:
        if path.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as source:
                for batch in source.iter_batches(batch_size=BATCH):
                    yield from batch.to_pylist()
            continue
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: not JSON ({error}); mend or remove this line") from error


def _write(folder: pathlib.Path, split: str, rows: Iterator[dict[str, Any]]) -> None:
    """One parquet file, under its name only when it is complete."""
    import pyarrow
    import pyarrow.parquet

    fields: list[Any] = [("inputs_pretokenized", pyarrow.string()), ("targets_pretokenized", pyarrow.string())]
    schema = pyarrow.schema([*fields, ("answer_choices", pyarrow.list_(pyarrow.string()))])
    temporary = folder / f".{split}.parquet.tmp"
    with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))
    temporary.replace(folder / f"{split}-00000-of-00001.parquet")
