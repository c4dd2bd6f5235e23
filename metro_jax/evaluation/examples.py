"""What is scored: an example with its choices, and what becomes of records that are not quite one.

The policy, which every report repeats with its counts:

* left out: a broken record, a target that is not among the choices, fewer than two choices, an index that came
  before;
* kept and noted: an empty prompt and an empty choice, which the tokenizer turns into their end marks, and equal
  choices, of which the first counts, as prediction and as target (spec 8.1).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

BROKEN = "broken record"
NO_TARGET = "target not among the choices"
FEW_CHOICES = "fewer than two choices"
REPEATED = "repeated index"
LEFT_OUT = (BROKEN, NO_TARGET, FEW_CHOICES, REPEATED)
EMPTY_PROMPT, EMPTY_CHOICE, EQUAL_CHOICES = "empty prompt", "empty choice", "equal choices"
NOTED = (EMPTY_PROMPT, EMPTY_CHOICE, EQUAL_CHOICES)


class Record(NamedTuple):
    """One example as a source has it, not yet judged.

    Args:
        index: its number in the source; the same in every template of a task.
        target: the right choice as text or by number; None where the source marks no choice as right.
        where: file and place, for messages.
        trouble: why it cannot be read, in which case the rest is empty.
    """

    index: int
    prompt: str
    choices: tuple[str, ...]
    target: str | int | None
    where: str
    trouble: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its choices; `target` is the number of the right one."""

    task: str
    template: str
    index: int
    prompt: str
    choices: tuple[str, ...]
    target: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Where it stands."""
        return self.task, self.template, self.index

    def digest(self) -> str:
        """What it says: 16 hexadecimal digits of a SHA-256 over prompt, choices and target."""
        said = json.dumps([self.prompt, self.choices, self.target], ensure_ascii=False)
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclasses.dataclass
class Account:
    """What became of the records of one template: reason -> where."""

    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    noted: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Both, for results.json."""
        return {"left_out": self.left_out, "noted": self.noted}


def judge(task: str, template: str, records: Iterable[Record]) -> tuple[list[Example], Account]:
    """The examples among the records, by index, and what became of the others."""
    account = Account()
    found: dict[int, Example] = {}
    for record in records:
        reason, detail = _refused(record, found)
        if reason is not None:
            account.left_out.setdefault(reason, []).append(f"{record.where}{detail}")
            continue
        target = record.target if isinstance(record.target, int) else record.choices.index(str(record.target))
        target = record.choices.index(record.choices[target])  # the first of equal ones
        found[record.index] = Example(task, template, record.index, record.prompt, record.choices, target)
        for note in _notes(record):
            account.noted.setdefault(note, []).append(record.where)
    return [found[index] for index in sorted(found)], account


def _refused(record: Record, found: dict[int, Example]) -> tuple[str | None, str]:
    if record.trouble is not None:
        return BROKEN, f": {record.trouble}"
    if len(record.choices) < 2:
        return FEW_CHOICES, f": {list(record.choices)}"
    target = record.target
    if target is None or (target not in record.choices if isinstance(target, str) else not _within(target, record)):
        what = "none is marked" if target is None else repr(target)
        return NO_TARGET, f": {what}, choices {list(record.choices)}"
    if record.index in found:
        return REPEATED, f": {record.index}"
    return None, ""


def _within(target: int, record: Record) -> bool:
    return 0 <= target < len(record.choices)


def _notes(record: Record) -> Iterable[str]:
    if not record.prompt.strip():
        yield EMPTY_PROMPT
    if not all(choice.strip() for choice in record.choices):
        yield EMPTY_CHOICE
    if len(set(record.choices)) < len(record.choices):
        yield EQUAL_CHOICES
