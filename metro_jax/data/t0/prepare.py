"""From a folder of P3 to prepared records of every wanted task, in several processes, and on from where a run
stopped."""

import concurrent.futures
import dataclasses
import difflib
import errno
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from metro_jax.data.folder import VOCABULARY
from metro_jax.data.t0 import catalogue, p3
from metro_jax.data.t0.encode import Unit, encode, is_done
from metro_jax.data.vocabulary import copy_vocabulary
from metro_jax.text.tokenizer import MetroTokenizer

TRAIN, VALIDATION = "train", "validation"
Problems = dict[str, str]  # task -> why it is not there


@dataclasses.dataclass
class Plan:
    """What there is to do, and which tasks cannot be done, with the reason."""

    units: list[Unit] = dataclasses.field(default_factory=list)
    missing: Problems = dataclasses.field(default_factory=dict)


def plan(folder: pathlib.Path, mixtures: Iterable[str], absent: Mapping[str, str] | None = None) -> Plan:
    """The work that `mixtures` need from a folder of P3.

    Args:
      absent: reasons known from elsewhere for tasks that are not in the folder, such as the listing of the Hub.
    """
    made = Plan()
    known = p3.task_names(folder)
    mixed = set().union(*catalogue.mixtures().values())
    strangers = [name for name in known if name not in mixed and name.removesuffix(catalogue.SCORE_EVAL) not in mixed]
    for task, purposes in _purposes(mixtures).items():
        try:
            units = _units(folder, task, purposes)
        except p3.BrokenSplitError as error:
            made.missing[task] = str(error)
            continue
        made.units += units
        if not units:
            made.missing[task] = (absent or {}).get(task) or why_missing(folder, task, known, strangers)
    return made


def _purposes(mixtures: Iterable[str]) -> dict[str, set[str]]:
    """Task -> what it is wanted for: "train", "validate" or "rank"."""
    wanted: dict[str, set[str]] = {}
    for name in mixtures:
        purpose = {catalogue.TRAIN_EVAL: "validate", catalogue.EVALUATION: "rank"}.get(name, "train")
        for task in catalogue.mixtures()[name]:
            wanted.setdefault(task, set()).add(purpose)
    return wanted


def _units(folder: pathlib.Path, task: str, purposes: set[str]) -> list[Unit]:
    if "rank" in purposes:
        return _ranked_units(folder, task)
    found = p3.splits(folder, task)
    training = [split for name, split in found.items() if name.startswith(TRAIN)]
    units = []
    if "train" in purposes:  # "training splits only (names starting with train)"; P3 has one of them in each task
        units += [Unit(task, TRAIN, "prompted", split) for split in training[:1]]
    if "validate" in purposes:
        units += [Unit(task, name, "prompted", split) for name, split in found.items() if split not in training]
    return units


def _ranked_units(folder: pathlib.Path, task: str) -> list[Unit]:
    """From the `_score_eval` task of P3, or else from the answer choices of the task itself."""
    for name, from_choices in ((task, False), (task.removesuffix(catalogue.SCORE_EVAL), True)):
        for split_name, split in p3.splits(folder, name).items():
            if split_name == VALIDATION or split_name.startswith("dev"):
                return [Unit(task, VALIDATION, "ranked", split, from_choices)]
    return []


def why_missing(folder: pathlib.Path, task: str, known: Iterable[str], strangers: Iterable[str]) -> str:
    """What can be said about a task that gave no work; `strangers` are folders that no mixture has."""
    if p3.task_folder(folder, task) is not None:
        present = ", ".join(p3.splits(folder, task)) or "no files"
        return f"in {folder}, but without the split that is wanted (it has {present})"
    if task.startswith("story_cloze"):
        return "not part of P3: Story Cloze's licence asks for a form; render it from your copy (--render)"
    if near := difflib.get_close_matches(task, list(strangers), n=1, cutoff=0.8):
        return f"not in {folder}; {near[0]}, which no mixture has, may be the same template under another name"
    prefix = catalogue.prefixes()[task]
    if any(name.startswith(prefix) for name in known):
        return f"not in {folder}, though other tasks of {prefix.removesuffix('_')} are"
    return f"not in {folder}, nor any other task of {prefix.removesuffix('_')}"


def prepare(
    work: Plan,
    vocabulary: str | os.PathLike[str],
    output: str | os.PathLike[str],
    processes: int = 1,
    show: bool = True,
) -> Problems:
    """Does the work of a plan; returns the tasks whose source could not be read, with the reason.

    What an earlier run finished, from the same files with the same vocabulary, is not done again.

    Raises:
      ValueError: `output` holds another vocabulary. OSError: the disk is full; finished tasks are kept.
    """
    tokenizer = MetroTokenizer.from_pretrained(vocabulary)
    place_vocabulary(vocabulary, output, tokenizer)
    todo = sorted(
        (unit for unit in work.units if not is_done(output, unit, tokenizer)),
        key=lambda unit: (-unit.source.size, unit.task),  # the largest first, so that no process is left with it
    )
    failed: Problems = {}
    with _Progress(len(work.units), todo, show) as progress:
        for unit, error in _run(todo, vocabulary, output, processes, progress.advance):
            if error is None:
                progress.finished(unit)
            elif isinstance(error, p3.BrokenSplitError):
                failed[unit.task] = str(error)
            else:
                raise _explained(error, unit, output) from error
    return failed


def place_vocabulary(
    vocabulary: str | os.PathLike[str], output: str | os.PathLike[str], tokenizer: MetroTokenizer
) -> None:
    """Copies the vocabulary into the data folder. Raises ValueError where another one is there."""
    target = epath.Path(output) / VOCABULARY
    if (target / "sp.model").exists():
        present = MetroTokenizer.from_pretrained(os.fspath(target)).fingerprint()
        if present != tokenizer.fingerprint():
            raise ValueError(
                f"{target} holds vocabulary {present}, but {os.fspath(vocabulary)} is {tokenizer.fingerprint()}: a "
                "data folder has one vocabulary; prepare into another folder, or with the one that is there"
            )
    else:
        copy_vocabulary(epath.Path(vocabulary), target)


def _run(
    units: list[Unit],
    vocabulary: str | os.PathLike[str],
    output: str | os.PathLike[str],
    processes: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[Unit, Exception | None]]:
    """Every unit with the error that ended it, in the order in which they end."""
    if processes <= 1 or len(units) <= 1:
        tokenizer = MetroTokenizer.from_pretrained(vocabulary)
        for unit in units:
            try:
                encode(output, unit, tokenizer, advance)
                yield unit, None
            except Exception as error:
                yield unit, error
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    done_bytes = context.Value("q", 0)
    initial = (done_bytes, os.fspath(vocabulary), os.fspath(output))
    workers = min(processes, len(units))
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, initial) as pool:
        running = {pool.submit(_encode_in_worker, unit): unit for unit in units}
        seen = 0
        try:
            while running:
                ended, _ = concurrent.futures.wait(running, 0.2, concurrent.futures.FIRST_COMPLETED)
                now = done_bytes.value
                advance(now - seen)
                seen = now
                for future in ended:
                    error: Any = future.exception()
                    yield running.pop(future), error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_WORKER: dict[str, Any] = {}


def _start_worker(done_bytes: Any, vocabulary: str, output: str) -> None:
    _WORKER.update(bytes=done_bytes, tokenizer=MetroTokenizer.from_pretrained(vocabulary), output=output)


def _encode_in_worker(unit: Unit) -> None:
    waiting = 0

    def advance(size: int) -> None:
        nonlocal waiting
        waiting += size
        if waiting > 1 << 20:
            flush()

    def flush() -> None:
        nonlocal waiting
        with _WORKER["bytes"].get_lock():
            _WORKER["bytes"].value += waiting
        waiting = 0

    encode(_WORKER["output"], unit, _WORKER["tokenizer"], advance)
    flush()


def _explained(error: Exception, unit: Unit, output: str | os.PathLike[str]) -> Exception:
    """The error of a whole run; a full disk says how to go on."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or type(error).__name__ == "ResourceExhaustedError" or "No space left" in str(error):
        return OSError(
            errno.ENOSPC,
            f"the disk is full while {unit.task} was written; what is finished is kept: free space and run the same "
            "command again, it goes on from there",
            os.fspath(output),
        )
    return error


class _Progress:
    """A bar over the bytes of the source files: done, speed, time left; one line when all is done already."""

    def __init__(self, units: int, todo: list[Unit], show: bool):
        import rich.progress

        self._show, self._skipped = show, units - len(todo)
        self._count, self._ended, self._start = len(todo), 0, time.monotonic()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.DownloadColumn(),
            rich.progress.TransferSpeedColumn(),
            rich.progress.TimeRemainingColumn(),
            disable=not show or not todo,
        )
        self._task = self._bar.add_task(self._label(), total=sum(unit.source.size for unit in todo))

    def _label(self) -> str:
        return f"encoding, {self._ended} of {self._count} splits"

    def __enter__(self) -> "_Progress":
        if self._show and self._skipped:
            self._bar.console.print(f"{self._skipped} splits are done already")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, size: int) -> None:
        self._bar.advance(self._task, size)

    def finished(self, unit: Unit) -> None:
        del unit
        self._ended += 1
        self._bar.update(self._task, description=self._label())
