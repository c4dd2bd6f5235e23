"""MMLU: three protocols, each a set of questions and a way to ask them, and what comes of it (spec 8.2)."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from metro_jax.evaluation import statistics
from metro_jax.evaluation.examples import Record
from metro_jax.evaluation.mmlu_data import DEV, TEST, TOTALS, VALIDATION, VALIDATION_COUNTS, Question
from metro_jax.evaluation.results import FORMAT, RUN, read_json, read_scores
from metro_jax.evaluation.t0_data import nearest

KIND = "mmlu"
MAX_CHOICE = 256  # tokens (spec 8.1)
CHANCE = 25.0  # percent, of four options
FIELD = 2048  # characters of a field that promptsource's templates print (spec 7.1)
LEEWAY = 5  # characters more that Jinja's truncate lets pass
PASSAGES = 10  # retrieved passages of a question (spec 8.2)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How MMLU is asked.

    Args:
        prompt: its name in the report.
        max_source: tokens that are kept of a prompt.
    """

    name: str
    split: str
    shots: int
    prompt: str
    max_source: int


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("metro", VALIDATION, 0, "ai2_arc/ARC-Challenge heres_a_problem (promptsource)", 512),
        Protocol("test", TEST, 0, "The following are multiple choice questions (Hendrycks et al.)", 512),
        # The whole position table: shots that do not fit are left out, the first ones first.
        Protocol("five-shot", TEST, 5, "The following are multiple choice questions (Hendrycks et al.)", 1024),
    )
}


def find(name: str) -> Protocol:
    """A protocol by its name. Raises ValueError for others."""
    if name not in PROTOCOLS:
        raise ValueError(f"--protocol {name}: {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def truncated(text: str) -> str:
    """A field as a template of promptsource prints it: Jinja's `truncate`, at a blank, with dots."""
    if len(text) <= FIELD + LEEWAY:
        return text
    return text[: FIELD - 3].rsplit(" ", 1)[0] + "..."


def metro_prompt(question: Question, passages: bool) -> str:
    """The original's: T0's prompt for ARC, then, where they are wanted, numbered passages (spec 8.2)."""
    options = "".join(
        f"\n- {truncated(label)}: {truncated(text)}\n "
        for label, text in zip(question.labels, question.options, strict=False)
    )
    text = (
        f"Here's a problem to solve: {truncated(question.question)}\n\n"
        f"Among the 4 following options, which is the correct answer?\n{options}"
    ).strip()
    if not passages:
        return text
    numbered = (f"Reference passage {n}: {passage}" for n, passage in enumerate(question.passages[:PASSAGES], 1))
    return f"{text}\n \n{''.join(numbered)}"


def usual_block(question: Question, answered: bool) -> str:
    """A question as the authors of MMLU ask it, with its answer or without."""
    options = "".join(f"\n{label}. {text}" for label, text in zip(question.labels, question.options, strict=False))
    return f"{question.question}{options}\nAnswer:{f' {question.answer}' if answered else ''}"


def usual_prompt(question: Question, shots: Sequence[Question], fits: Callable[[str], bool]) -> tuple[str, int]:
    """The authors' prompt, and how many of the shots were left in so that it fits."""
    about = question.subject.replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    asked = usual_block(question, answered=False)
    for first in range(len(shots) + 1):
        kept = shots[first:]
        text = header + "".join(f"{usual_block(shot, answered=True)}\n\n" for shot in kept) + asked
        if not kept or fits(text):
            return text, len(kept)
    raise AssertionError("the loop ends with no shots at all")


@dataclasses.dataclass
class Asked:
    """Records of a subject, and how many of its prompts have how many shots."""

    records: list[Record] = dataclasses.field(default_factory=list)
    shots: dict[int, int] = dataclasses.field(default_factory=dict)


def ask(
    protocol: Protocol,
    questions: Sequence[Question],
    shots: Sequence[Question],
    passages: bool,
    fits: Callable[[str], bool],
) -> Asked:
    """The questions of a subject as records to be judged.

    Args:
        shots: development questions of the subject; the first five are shown.
        fits: whether a prompt is short enough for the model.
    """
    asked = Asked()
    usable = [shot for shot in shots if shot.trouble is None][: protocol.shots]
    for question in questions:
        trouble = question.trouble
        if trouble is None and passages and len(question.passages) < PASSAGES:
            trouble = f"{len(question.passages)} passages instead of {PASSAGES}"
        if trouble is None and len(question.options) != len(question.labels):
            trouble = f"{len(question.options)} options with {len(question.labels)} labels"
        if trouble is not None:
            asked.records.append(Record(-1, "", (), None, question.where, trouble))
            continue
        if protocol.name == "metro":
            text, kept = metro_prompt(question, passages), 0
        else:
            text, kept = usual_prompt(question, usable, fits)
        asked.shots[kept] = asked.shots.get(kept, 0) + 1
        asked.records.append(Record(question.index, text, question.labels, question.answer, question.where))
    return asked


def expected(subject: str, split: str) -> int | None:
    """How many questions a subject has, where that is known."""
    return VALIDATION_COUNTS.get(subject) if split == VALIDATION else 5 if split == DEV else None


def summarize(folder: pathlib.Path) -> dict[str, Any]:
    """Everything there is to report of a result folder; results.json is this."""
    run = read_json(folder / RUN)
    protocol = run["identity"]["protocol"]
    own: dict[str, list[bool]] = {}
    for (subject, _, _), score in read_scores(folder).items():
        own.setdefault(subject, []).append(score.best == score.target)
    if not own:
        raise ValueError(f"{folder} holds no result yet: run metro-jax eval mmlu with --out {folder} first")
    order = [*VALIDATION_COUNTS, *sorted(set(own) - set(VALIDATION_COUNTS))]
    subjects = [
        _subject(name, own[name], run["subjects"].get(name, {}), protocol["split"]) for name in order if name in own
    ]
    correct, total = sum(row["correct"] for row in subjects), sum(row["examples"] for row in subjects)
    means = np.asarray([row["accuracy"] for row in subjects])
    return {
        "format": FORMAT,
        "kind": KIND,
        **{name: run[name] for name in ("identity", "model")},
        "protocol": protocol,
        "title": f"MMLU of {run['model']['name']}, protocol {protocol['name']}",
        "examples": {"scored": total, "of": sum(row["examples"] for row in run["subjects"].values())},
        "examples_of": TOTALS[protocol["split"]],
        "subjects_of": len(VALIDATION_COUNTS),
        "shots": _shots(run["subjects"].values()),
        "chance": CHANCE,
        "micro_accuracy": 100.0 * correct / total,
        "micro_interval": list(statistics.wilson(correct, total)),
        "mean_over_subjects": float(means.mean()),
        "mean_interval": list(_mean_interval(subjects)),
        "subjects": subjects,
    }


def _subject(name: str, right: Sequence[bool], manifest: Mapping[str, Any], split: str) -> dict[str, Any]:
    hits = sum(right)
    low, high = statistics.wilson(hits, len(right))
    return {
        "subject": name,
        "examples": len(right),
        "examples_of": expected(name, split) or manifest.get("examples", len(right)),
        "correct": hits,
        "accuracy": 100.0 * hits / len(right),
        "interval": [low, high],
        "above_chance": low > CHANCE,
        "below_chance": high < CHANCE,
        **{name: manifest.get(name, {}) for name in ("left_out", "noted", "shots")},
    }


def _mean_interval(subjects: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Bootstrap within every subject: its number right is drawn from a binomial with its accuracy."""
    rng = np.random.default_rng(statistics.SEED)
    counts = np.asarray([row["examples"] for row in subjects])
    shares = np.asarray([row["accuracy"] / 100 for row in subjects])
    drawn = rng.binomial(counts, shares, (statistics.RESAMPLES, len(counts))) / counts
    return statistics.interval(100.0 * drawn.mean(1))


def _shots(subjects: Any) -> dict[str, int]:
    """Shots -> how many prompts have as many."""
    total: dict[str, int] = {}
    for row in subjects:
        for shots, count in row["shots"].items():
            total[str(shots)] = total.get(str(shots), 0) + count
    return dict(sorted(total.items(), key=lambda item: -int(item[0])))
