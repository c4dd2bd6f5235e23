"""What a data folder holds of the T0 mixtures: tasks found, missing and why, empty, over their cap; as text and
JSON."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from metro_jax.data.folder import write_json, write_mixtures
from metro_jax.data.t0 import catalogue
from metro_jax.data.t0.encode import read_account

REPORT = "t0_report"  # .json and .txt in the data folder
FOUND, MISSING, EMPTY = "found", "missing", "empty"
RATE_SPLIT = {catalogue.TRAIN_EVAL: "validation", catalogue.EVALUATION: "validation"}


def report(
    folder: str | os.PathLike[str], mixtures: Iterable[str], problems: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The state of every task of `mixtures` in a data folder.

    Returns:
      Mixture -> {"tasks": {task: entry}, "counts": ..., "examples": sum of min(examples, cap)}. An entry has `status`
      (found, missing, empty), `examples`, `cap`, `over_cap`, `dropped` (reason -> rows), `longer` (rows of more than
      512 ids in inputs, targets) and, where it is missing, `reason`.
    """
    made = {}
    for name in mixtures:
        entries = {
            task: _entry(folder, task, cap, name, problems or {}) for task, cap in catalogue.mixtures()[name].items()
        }
        counts = {
            "tasks": len(entries),
            **{status: sum(e["status"] == status for e in entries.values()) for status in (FOUND, MISSING, EMPTY)},
            "over_cap": sum(e["over_cap"] for e in entries.values()),
        }
        used = sum(min(e["examples"], e["cap"] or e["examples"]) for e in entries.values())
        made[name] = {"counts": counts, "examples": used, "tasks": entries}
    return made


def _entry(
    folder: str | os.PathLike[str], task: str, cap: int | None, mixture: str, problems: Mapping[str, str]
) -> dict[str, Any]:
    accounts = _accounts(folder, task, training=mixture in catalogue.TRAINING)
    examples = sum(account["examples"] for account in accounts)
    entry: dict[str, Any] = {"cap": cap, "examples": examples, "over_cap": cap is not None and examples > cap}
    if not accounts or task in problems:
        reason = problems.get(task) or _why_not_prepared(folder, task, mixture)
        return entry | {"status": MISSING, "reason": reason}
    entry["status"] = FOUND if examples else EMPTY
    entry["dropped"] = _summed(account["dropped"] for account in accounts)
    entry["longer"] = _summed(
        {name: count for name, count in account["longer"].items() if name != "limit"} for account in accounts
    )
    return entry


def _why_not_prepared(folder: str | os.PathLike[str], task: str, mixture: str) -> str:
    training = mixture in catalogue.TRAINING
    if _accounts(folder, task, training=not training):
        return f"its source has no split {'to train on' if training else 'but those for training'}"
    return "not prepared; run `metro-jax data t0` for this mixture"


def _accounts(folder: str | os.PathLike[str], task: str, training: bool) -> list[dict[str, Any]]:
    names = (path.name for path in (epath.Path(folder) / task).glob("source.*.json"))
    splits = sorted(name.removeprefix("source.").removesuffix(".json") for name in names)
    found = (read_account(folder, task, split) for split in splits if (split == "train") == training)
    return [account for account in found if account is not None]


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total


def incomplete(made: Mapping[str, Any]) -> dict[str, int]:
    """Mixture -> number of its tasks that are missing or empty, for those where there are any."""
    short = {name: part["counts"][MISSING] + part["counts"][EMPTY] for name, part in made.items()}
    return {name: number for name, number in short.items() if number}


def save(folder: str | os.PathLike[str], made: Mapping[str, Any], allow_missing: bool) -> str:
    """Writes t0_report.json, t0_report.txt and the mixtures of a data folder; returns the text."""
    root = epath.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / f"{REPORT}.json", made)
    text = as_text(made)
    (root / f"{REPORT}.txt").write_text(text)
    write_mixtures(
        root,
        {
            name: {
                "tasks": catalogue.mixtures()[name],
                "allow_missing": allow_missing,
                "split": RATE_SPLIT.get(name, "train"),
            }
            for name in made
        },
    )
    return text


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The report of a data folder, or nothing."""
    path = epath.Path(folder) / f"{REPORT}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def as_text(made: Mapping[str, Any]) -> str:
    """A report for people: a line of counts for each mixture, then the tasks that need attention."""
    lines = []
    for name, part in made.items():
        counts = part["counts"]
        states = ", ".join(f"{counts[status]} {status}" for status in (FOUND, MISSING, EMPTY))
        lines.append(
            f"{name}: {counts['tasks']} tasks, {states}, {counts['over_cap']} over their cap; "
            f"{part['examples']:,} examples in an epoch"
        )
    lines += _by_reason(made)
    empty = sorted({task for part in made.values() for task, e in part["tasks"].items() if e["status"] == EMPTY})
    lines += ["", "Empty (every row was dropped):", *(f"  {task}" for task in empty)] if empty else []
    over = {
        task: (e["examples"], e["cap"]) for part in made.values() for task, e in part["tasks"].items() if e["over_cap"]
    }
    if over:
        lines += ["", "Over their cap (examples, cap):"]
        lines += [f"  {task}  {examples:,}  {cap:,}" for task, (examples, cap) in sorted(over.items())]
    return "\n".join(lines) + "\n"


def _by_reason(made: Mapping[str, Any]) -> list[str]:
    reasons: dict[str, set[str]] = {}
    for part in made.values():
        for task, entry in part["tasks"].items():
            if entry["status"] == MISSING:
                reasons.setdefault(entry["reason"], set()).add(task)
    lines = ["", "Missing:"] if reasons else []
    for reason, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        lines += [f"  {reason}", *(f"    {task}" for task in sorted(names))]
    return lines
