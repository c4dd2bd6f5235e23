"""MMLU: prompts of the three protocols, and the averages."""

import json
import pathlib

import numpy as np
import pytest

from metro_jax.evaluation import mmlu, report_mmlu
from metro_jax.evaluation.examples import Example, judge
from metro_jax.evaluation.mmlu_data import LETTERS, Question
from metro_jax.evaluation.results import Folder, Shard


def question(subject: str = "high_school_physics", index: int = 0, **changes) -> Question:
    passages = tuple(f"Passage {n}." for n in range(10))
    made = Question(
        subject, index, "What falls?", ("A stone", "A bird", "Rain", "Night"), LETTERS, "C", "here", passages
    )
    return made._replace(**changes)


def ask(name: str, questions: list[Question], shots: list[Question] = [], passages: bool = False, most: int = 10**6):  # noqa: B006
    return mmlu.ask(mmlu.find(name), questions, shots, passages, lambda text: len(text) <= most)


def test_the_originals_prompt() -> None:
    (record,) = ask("metro", [question()]).records
    assert record.prompt == (
        "Here's a problem to solve: What falls?\n\nAmong the 4 following options, which is the correct answer?\n"
        "\n- A: A stone\n \n- B: A bird\n \n- C: Rain\n \n- D: Night"
    )
    assert (record.choices, record.target) == (LETTERS, "C")
    (with_passages,) = ask("metro", [question()], passages=True).records
    assert with_passages.prompt.startswith(record.prompt + "\n \nReference passage 1: Passage 0.Reference passage 2:")
    assert "Reference passage 10: Passage 9." in with_passages.prompt
    (short,) = ask("metro", [question(passages=("one",))], passages=True).records
    assert short.trouble == "1 passages instead of 10"


def test_fields_are_cut_as_promptsource_cuts_them() -> None:
    words = "word " * 500
    cut = mmlu.truncated(words)
    assert cut.endswith("word...")
    assert len(cut) <= mmlu.FIELD
    assert mmlu.truncated("x" * 2053) == "x" * 2053
    assert mmlu.truncated("x" * 2054) == "x" * 2045 + "..."
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 is no dependency; with it this test compares with its filter")
    template = jinja2.Environment().from_string("{{ x | string | truncate(2048) }}")
    for text in (words, "x" * 2053, "x" * 2054, "a b " * 513):
        assert mmlu.truncated(text) == template.render(x=text)


def test_the_originals_prompt_is_promptsources() -> None:
    promptsource = pytest.importorskip(
        "promptsource.templates", reason="promptsource is no dependency; with it this test compares with its template"
    )
    template = promptsource.DatasetTemplates("ai2_arc", "ARC-Challenge")["heres_a_problem"]
    row = {"question": "What falls? " * 300, "choices": {"text": ["a", "b", "c", "d"], "label": list(LETTERS)}}
    prompt, target = template.apply(row | {"answerKey": "B"})
    ours = question(question=row["question"], options=tuple(row["choices"]["text"]), answer="B")
    assert mmlu.metro_prompt(ours, passages=False) == prompt
    assert target == "B"
    assert template.get_answer_choices_list(row) == list(LETTERS)


def test_the_usual_prompt_and_its_shots() -> None:
    (plain,) = ask("test", [question()]).records
    block = "What falls?\nA. A stone\nB. A bird\nC. Rain\nD. Night\nAnswer:"
    header = "The following are multiple choice questions (with answers) about high school physics.\n\n"
    assert plain.prompt == header + block
    shots = [question(index=n, question=f"Shot {n}?", answer="D") for n in range(7)]
    asked = ask("five-shot", [question()], shots)
    assert asked.shots == {5: 1}
    text = asked.records[0].prompt
    assert [text.count(f"Shot {n}?") for n in range(7)] == [1, 1, 1, 1, 1, 0, 0]
    assert text.startswith(header + "Shot 0?\n")
    assert text.count("Answer: D\n\n") == 5
    assert text.endswith(block)
    fewer = ask("five-shot", [question(), question(question="long " * 60)], shots, most=len(header + block) + 160)
    assert fewer.shots == {2: 1, 0: 1}
    assert [fewer.records[0].prompt.count(f"Shot {n}?") for n in range(5)] == [0, 0, 0, 1, 1]  # the last ones stay
    with pytest.raises(ValueError, match=r"fiveshot: did you mean 'five-shot'"):
        mmlu.find("fiveshot")


def test_bad_questions_are_left_out() -> None:
    bad = [question(trouble="no text"), question(options=("a", "b")), question(index=3, answer="E"), question(index=4)]
    found, account = judge("s", "metro", ask("metro", bad).records)
    assert [example.index for example in found] == [4]
    assert sorted(account.left_out) == ["broken record", "target not among the choices"]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two subjects, 30 of 32 and 3 of 11 right; one wrong row."""
    protocol = {"kind": "mmlu", "name": "metro", "split": "validation", "shots": 0, "prompt": "p", "passages": False}
    made = Folder(tmp_path, {"protocol": {**protocol, "max_source": 512}, "model": {"fingerprint": "x"}})
    entries, found = {}, []
    for subject, right, total in (("high_school_biology", 30, 32), ("jurisprudence", 3, 11)):
        entries[subject] = {"examples": total, "shots": {"0": total}, "left_out": {}, "noted": {}}
        for n in range(total):
            example = Example(subject, "metro", n, f"{n}", LETTERS, 1)
            found.append((example, [0.0] * 4, 1 if n < right else 2))
    entries["jurisprudence"]["left_out"] = {"broken record": ["here"]}
    made.open({"model": {"name": "a/b", "dtype": "float16", "quantize": None}, "subjects": entries}, [])
    with made.writer(Shard()) as writer:
        writer.write(found)
    return tmp_path


def test_averages(folder: pathlib.Path) -> None:
    summary = mmlu.summarize(folder)
    assert summary["micro_accuracy"] == pytest.approx(100 * 33 / 43)
    assert summary["mean_over_subjects"] == pytest.approx(np.mean([100 * 30 / 32, 100 * 3 / 11]))
    biology, law = summary["subjects"]
    assert (biology["above_chance"], law["above_chance"], law["below_chance"]) == (True, False, False)
    for row in (biology, law):
        assert row["interval"][0] < row["accuracy"] < row["interval"][1]
    assert summary["mean_interval"][0] < summary["mean_over_subjects"] < summary["mean_interval"][1]


def test_the_report_names_the_protocol(folder: pathlib.Path) -> None:
    summary = mmlu.summarize(folder)
    report_mmlu.write(folder, summary)
    text = (folder / "report.md").read_text()
    for words in (
        "# MMLU of a/b, protocol metro",
        "validation split, 43 questions, 0 shots (43 prompts with 0), prompt p, without passages",
        "float16",
        "| high school biology | 93.75 |",
        "25.00+ |",
        "2 of 57 subjects",
        "43 of 1531",
        "jurisprudence: 1 left out, broken record (first: here).",
        "Not all of MMLU",
    ):
        assert words in text
    assert len((folder / "subjects.csv").read_text().splitlines()) == 3
    assert json.loads((folder / "results.json").read_text())["micro_accuracy"] == summary["micro_accuracy"]
