"""Rendering from original datasets; with promptsource where it is installed."""

import collections
import gzip
import importlib.util
import json
import random
import re

import pyarrow
import pyarrow.parquet
import pytest

from metro_jax.cli import main
from metro_jax.data.t0 import p3, prepare, render

# promptsource leaves the files of its templates open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
needs_promptsource = pytest.mark.skipif(
    importlib.util.find_spec("promptsource") is None,
    reason=f"promptsource is no dependency of this project; to run this test: {render.INSTALL}",
)


class StandIn:
    """What rendering needs of a template of promptsource."""

    def apply(self, example):
        if example["fails"]:
            raise IndexError
        chosen = random.choice(["first", "second", "third", "fourth"])
        return [f"{example['a_field']} {chosen}", *example["targets"]]

    def get_answer_choices_list(self, example):
        return ["yes", "no"]


def rows_of(examples, key="0 task train"):
    dropped = collections.Counter()
    return list(render.rendered_rows(examples, StandIn(), key, dropped)), dropped


def example(targets=("yes",), fails=False):
    return {"a-field": "text", "targets": list(targets), "fails": fails}


def test_what_cannot_be_used_is_dropped_and_counted():
    rows, dropped = rows_of([example(), example(fails=True), example(["a", "b"]), example([]), example([""])])
    assert len(rows) == 1
    assert rows[0]["inputs_pretokenized"].startswith("text ")
    assert rows[0]["answer_choices"] == ["yes", "no"]
    assert dropped == {"rendering failed": 1, "no prompt and target": 2, "empty target": 1}


def test_random_choices_are_seeded_by_example():
    whole, _ = rows_of([example()] * 30)
    assert rows_of([example()] * 30)[0] == whole
    assert rows_of([example()] * 5)[0] == whole[:5]
    assert rows_of([example()] * 30, "1 task train")[0] != whole
    assert len({row["inputs_pretokenized"] for row in whole}) == 4


def test_the_random_state_of_others_is_left_alone():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    rows_of([example()] * 3)
    assert random.random() == expected


def rte(number):
    return {"premise": f"A {number} dog runs.", "hypothesis": "A dog runs.", "idx": number, "label": number % 2}


@pytest.fixture
def originals(tmp_path):
    """RTE in parquet with two shards, ANLI in JSON lines, as their Hub datasets have them."""
    folder = tmp_path / "originals"
    (folder / "super_glue" / "rte").mkdir(parents=True)
    for index in range(2):
        table = pyarrow.Table.from_pylist([rte(2 * index + i) for i in range(2)])
        pyarrow.parquet.write_table(table, folder / "super_glue" / "rte" / f"validation-{index:05d}-of-00002.parquet")
    (folder / "anli").mkdir()
    lines = "".join(json.dumps({**rte(i), "uid": str(i), "reason": "", "label": i % 3}) + "\n" for i in range(3))
    (folder / "anli" / "dev_r1.jsonl").write_text(lines)
    (folder / "anli" / "dev_r2.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


@needs_promptsource
def test_rendered_tasks_have_the_layout_of_p3(originals, tmp_path):
    folder = tmp_path / "p3"
    problems = render.render_missing(folder, originals, ["t0_eval"], show=False)
    assert "its original is not at" in problems["hellaswag_complete_first_then_score_eval"]
    rows = [row for row, _ in p3.rows(p3.splits(folder, "super_glue_rte_does_this_imply")["validation"])]
    assert len(rows) == 4
    assert rows[3].answer_choices == ("Yes", "No")
    assert [row.targets for row in rows] == ["Yes", "No"] * 2
    assert "A 3 dog runs." in rows[3].inputs
    for task, number in (("anli_can_we_infer_r1", 3), ("anli_can_we_infer_r2", 3)):
        assert len(list(p3.rows(p3.splits(folder, task)["validation"]))) == number
    assert "has only dev_r1, dev_r2" in problems["anli_can_we_infer_r3_score_eval"]
    kinds = {(unit.target, unit.kind, unit.from_choices) for unit in prepare.plan(folder, ["t0_eval"]).units}
    assert kinds == {("validation", "ranked", True)}
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*.parquet"))
    render.render_missing(folder, originals, ["t0_eval"], show=False)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*.parquet")) == before
    (folder / "anli_can_we_infer_r1" / render.UNFINISHED).touch()  # as a run that was killed would leave it
    (folder / "anli_can_we_infer_r1" / "validation-00000-of-00001.parquet").unlink()
    render.render_missing(folder, originals, ["t0_eval"], show=False)
    assert sorted(folder.rglob("*.parquet")) == [path for path, _ in before]


@needs_promptsource
def test_the_command_renders_and_encodes(originals, tmp_path, vocabulary_folder, capsys):
    command = ["data", "t0", "--p3", str(tmp_path / "p3"), "--render", str(originals), "--mixtures", "t0_eval"]
    out = ["--vocab", str(vocabulary_folder), "--output", str(tmp_path / "out"), "--processes", "1", "--allow_missing"]
    assert main([*command, *out]) == 0
    match = re.search(r"t0_eval: 112 tasks, (\d+) found", capsys.readouterr().out)
    assert match
    assert int(match[1]) >= 35  # rte 10, anli 15 and 15, but for templates that came or went since 0.1.0


def test_without_promptsource_the_error_says_what_to_install(originals, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "promptsource", None)
    assert main(["data", "t0", "--p3", str(tmp_path), "--render", str(originals)]) == 2
    assert "pip install --no-deps --ignore-requires-python promptsource" in capsys.readouterr().err


def test_lines_that_are_not_json_are_located(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(ValueError, match="line 2"):
        list(render._examples([tmp_path / "train.jsonl"]))
    assert list(render.original_files(tmp_path)) == ["train"]
    assert render.original_files(tmp_path / "nowhere") == {}
