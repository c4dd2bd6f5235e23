"""T0 Eval's examples, from every form they come in, are the same."""

import json
import pathlib

import pyarrow.parquet
import pytest

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import examples, t0_data
from tests.data import p3_files
from tests.evaluation import t0_files

RTE = "super_glue_rte_must_be_true_score_eval"


def rte(templates: list[str] | None = None) -> dict[str, catalogue.Evaluation]:
    return t0_data.wanted(["rte"], templates or ["must be true"])


@pytest.mark.parametrize("layout", ["parquet", "tfrecord"])
def test_p3_and_json_lines_give_the_same_examples(tmp_path: pathlib.Path, layout: str) -> None:
    tasks = t0_data.wanted(["rte", "copa"])
    t0_files.write(tmp_path / "p3", layout, 4, ["rte", "copa"])
    t0_files.write(tmp_path / "lines", "jsonl", 4, ["rte", "copa"])
    from_p3, from_lines = (t0_data.read(tmp_path / name, tasks) for name in ("p3", "lines"))
    assert len(from_p3.examples) == 4 * (10 + 8)
    assert from_p3.examples == from_lines.examples
    assert not from_p3.missing
    assert layout in from_p3.found["rte", "must be true"].source
    assert from_lines.found["rte", "must be true"].source == "rte.jsonl"


def test_plain_tasks_of_p3_have_their_answer_choices(tmp_path: pathlib.Path) -> None:
    rows = [
        {"inputs_pretokenized": "a?", "targets_pretokenized": "\nNo", "answer_choices": ["Yes", "No"]},
        {"inputs_pretokenized": "b?", "targets_pretokenized": "Yes", "answer_choices": ["Yes", "No"]},
    ]
    p3_files.write_split(tmp_path, "parquet", RTE.removesuffix("_score_eval"), "validation", rows)
    found = t0_data.read(tmp_path, rte()).found["rte", "must be true"]
    assert [(e.index, e.prompt, e.choices, e.target) for e in found.examples] == [
        (0, "a?", ("Yes", "No"), 1),
        (1, "b?", ("Yes", "No"), 0),
    ]


def test_what_metro_jax_data_prepared_is_read_too(tmp_path: pathlib.Path, golden_dir: pathlib.Path) -> None:
    from metro_jax.data.t0 import prepare

    t0_files.write(tmp_path / "p3", "parquet", 5, ["rte"])
    work = prepare.plan(tmp_path / "p3", ["t0_eval"])
    prepare.prepare(work, golden_dir / "hub_tiny", tmp_path / "out", show=False)
    tasks = t0_data.wanted(["rte"])
    found = t0_data.read(tmp_path / "out", tasks)
    assert found.examples == t0_data.read(tmp_path / "p3", tasks).examples
    assert len(found.examples) == 50


def test_rows_of_choices_that_do_not_fit(tmp_path: pathlib.Path) -> None:
    rows = t0_files.rows("rte", "must be true", 5)
    rows[2]["is_correct"] = rows[3]["is_correct"] = False  # example 1
    del rows[5]  # a choice of example 2
    rows[6] = rows[6] | {"idx": [3, 0]}  # which was [3, 1]
    p3_files.write_split(tmp_path, "parquet", RTE, "validation", rows)
    found = t0_data.read(tmp_path, rte()).found["rte", "must be true"]
    assert [example.index for example in found.examples] == [0, 4]
    assert len(found.account.left_out[examples.NO_TARGET]) == 1
    assert "example 1" in found.account.left_out[examples.NO_TARGET][0]
    broken = found.account.left_out[examples.BROKEN]
    assert ["example 2: choices [0] instead of 0 to 1" in broken[0], "choices [0, 0]" in broken[1]] == [True, True]


def test_damaged_and_missing_files_are_reasons(tmp_path: pathlib.Path) -> None:
    t0_files.write(tmp_path, "parquet", 3, ["rte"])
    damaged = next((tmp_path / RTE).glob("*.parquet"))
    damaged.write_bytes(b"PAR1 no more")
    tasks = t0_data.wanted(["rte", "cb"], ["must be true", "can we infer"])
    data = t0_data.read(tmp_path, tasks)
    assert "not a readable parquet file" in data.missing["rte", "must be true"]
    assert "super_glue_cb_can_we_infer_score_eval" in data.missing["cb", "can we infer"]
    assert list(data.found) == [("rte", "can we infer")]
    with pytest.raises(FileNotFoundError, match="--download"):
        t0_data.read(tmp_path / "nowhere", tasks)


def test_ranked_tasks_without_their_columns(tmp_path: pathlib.Path) -> None:
    (tmp_path / RTE).mkdir()
    table = pyarrow.Table.from_pylist([{"inputs_pretokenized": "a", "targets_pretokenized": "b"}])
    pyarrow.parquet.write_table(table, tmp_path / RTE / "validation-00000-of-00001.parquet")
    assert "idx and is_correct" in t0_data.read(tmp_path, rte()).missing["rte", "must be true"]


def test_a_limit_and_lines_that_belong_nowhere(tmp_path: pathlib.Path) -> None:
    t0_files.write(tmp_path, "jsonl", 6, ["rte"])
    lines = [{"task": "rte", "template": "nothing of the kind"}, {"task": "boolq", "template": "x"}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    data = t0_data.read(tmp_path, rte(), limit=2)
    assert [example.index for example in data.examples] == [0, 1]
    assert sum(map(len, data.strangers.values())) == 3
    assert any("boolq" in words for words in data.strangers)


def test_wanted_names_tasks_and_templates() -> None:
    everything = t0_data.wanted()
    assert len(everything) == 11
    assert sum(len(row.templates) for row in everything.values()) == 112
    assert list(t0_data.wanted(["copa", "anli"])) == ["anli_r1", "anli_r2", "anli_r3", "copa"]
    assert list(t0_data.wanted(None, ["GPT-3 style", "choose"])) == [
        "rte",
        "cb",
        "anli_r1",
        "anli_r2",
        "anli_r3",
        "copa",
    ]
    with pytest.raises(ValueError, match=r"'hellaswg'.*did you mean 'hellaswag'"):
        t0_data.wanted(["hellaswg"])
    with pytest.raises(ValueError, match=r"'must be ture'.*did you mean 'must be true'"):
        t0_data.wanted(["rte"], ["must be ture"])


def test_where_to_get_what_is_missing() -> None:
    assert "form: https://" in t0_data.where_to_get("story_cloze")
    assert "--download" in t0_data.where_to_get("rte")
