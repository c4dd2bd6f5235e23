"""`metro-jax eval mmlu`: from the questions to the report."""

import argparse
import pathlib
import sys
from typing import Any

from metro_jax.evaluation import mmlu, mmlu_data, plot, report_mmlu, session
from metro_jax.evaluation import report as reports
from metro_jax.evaluation.examples import Account, Example, judge
from metro_jax.evaluation.mmlu import MAX_CHOICE, Protocol
from metro_jax.evaluation.results import Folder
from metro_jax.evaluation.t0_data import nearest


def run(arguments: argparse.Namespace) -> int:
    """Scores what OUT lacks, and writes the report."""
    session.needed(arguments, "model", "data", "out")
    protocol = mmlu.find(arguments.protocol)
    if arguments.passages and protocol.name != "metro":
        raise ValueError(f"--passages belongs to the protocol metro, not to {protocol.name}")
    folder, data = pathlib.Path(arguments.out), pathlib.Path(arguments.data)
    questions = _chosen(mmlu_data.read(data, protocol.split), arguments.subjects)
    shots = mmlu_data.read(data, mmlu_data.DEV) if protocol.shots else {}
    shard = session.join(arguments)
    model = session.load(arguments)
    asked: dict[str, mmlu.Asked] = {}
    judged: dict[str, tuple[list[Example], Account]] = {}
    for subject, own in questions.items():
        some = own[: arguments.limit]
        asked[subject] = mmlu.ask(protocol, some, shots.get(subject, []), arguments.passages, _fits(model, protocol))
        judged[subject] = judge(subject, protocol.name, asked[subject].records)
    session.check_strict(arguments, {subject: account for subject, (_, account) in judged.items()})
    examples = [example for found, _ in judged.values() for example in found]
    if not examples:
        raise ValueError(f"{data}: every question had to be left out; the first: {_first_reason(judged)}")
    limits = {"max_source": protocol.max_source, "max_choice": MAX_CHOICE}
    results = Folder(folder, session.identity(model, arguments, _description(protocol, arguments)))
    results.open(_manifest(arguments, folder, judged, asked), examples)
    finished = session.score(arguments, results, model, examples, shard, limits)
    session.leave(arguments)
    return report(folder) if finished and (shard.index == 0 or arguments.shard) else 0


def _chosen(
    questions: dict[str, list[mmlu_data.Question]], names: list[str] | None
) -> dict[str, list[mmlu_data.Question]]:
    for name in names or ():
        if name not in questions:
            raise ValueError(f"--subjects {name}: {nearest(name, questions)}")
    return questions if names is None else {name: own for name, own in questions.items() if name in names}


def _fits(model: Any, protocol: Protocol) -> Any:
    most = min(protocol.max_source, model.config.max_length)
    return lambda text: len(model.tokenizer.encode(text)) <= most


def _first_reason(judged: dict[str, tuple[list[Example], Account]]) -> str:
    reason, places = next(iter(next(iter(judged.values()))[1].left_out.items()))
    return f"{reason}, {places[0]}"


def _description(protocol: Protocol, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "kind": mmlu.KIND,
        "name": protocol.name,
        "split": protocol.split,
        "shots": protocol.shots,
        "prompt": protocol.prompt,
        "passages": arguments.passages,
        "max_source": protocol.max_source,
        "max_choice": MAX_CHOICE,
    }


def _manifest(
    arguments: argparse.Namespace,
    folder: pathlib.Path,
    judged: dict[str, tuple[list[Example], Account]],
    asked: dict[str, mmlu.Asked],
) -> dict[str, Any]:
    entries = {
        subject: {"examples": len(found), "shots": asked[subject].shots, **account.as_json()}
        for subject, (found, account) in judged.items()
    }
    subjects = session.merged(folder, "subjects", entries)
    return {"model": session.described(arguments), "data": arguments.data, "subjects": subjects}


def report(folder: pathlib.Path) -> int:
    """Writes and prints the report of a result folder, whatever is in it so far."""
    summary = mmlu.summarize(folder)
    files = report_mmlu.write(folder, summary)
    trouble = plot.missing()
    if trouble is None:
        files += plot.subjects(folder / "subjects", summary)
    reports.show(summary["title"], report_mmlu.COLUMNS, report_mmlu.table(summary), report_mmlu.notes(summary))
    if trouble:
        print(trouble, file=sys.stderr)
    print(f"Files in {folder}: {', '.join(file.name for file in files)}")
    return 0
