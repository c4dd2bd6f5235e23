"""JSON lines: every line is an example, or is named with what is wrong with it."""

import gzip
import pathlib

import pytest

from metro_jax.evaluation import jsonl
from metro_jax.evaluation.t0_data import resolver

GOOD = '{"template": "must be true", "input": "Is it?", "choices": ["Yes", "No"], "target": "No"}'


def read(path: pathlib.Path) -> list:
    return list(jsonl.records(path, resolver()))


def test_names_of_files_and_lines(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rte.jsonl").write_text(f"{GOOD}\n\n{GOOD}\n")
    (tmp_path / "super_glue_rte_must_be_true.jsonl.gz").write_bytes(gzip.compress(GOOD.encode()))
    (tmp_path / "mine.jsonl").write_text(
        GOOD.replace("{", '{"task": "super_glue_cb_can_we_infer_score_eval", "index": 8, ')
    )
    (tmp_path / "other.txt").write_text(GOOD)
    files = jsonl.files(tmp_path)
    assert [path.name for path in files] == ["mine.jsonl", "rte.jsonl", "super_glue_rte_must_be_true.jsonl.gz"]
    ((key, record),) = read(files[0])
    assert (key, record.index) == (("cb", "can we infer"), 8)
    rows = read(files[1])
    assert [(key, record.index, record.where) for key, record in rows] == [
        (("rte", "must be true"), 0, "rte.jsonl, line 1"),
        (("rte", "must be true"), 1, "rte.jsonl, line 3"),
    ]
    assert rows[0][1].choices == ("Yes", "No")
    assert read(files[2])[0][0] == ("rte", "must be true")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        (GOOD.replace('"target": "No"', '"x": 1'), "no 'target'; it has choices, input, template, x"),
        (GOOD.replace('"Is it?"', "5"), "must be texts"),
        (GOOD.replace('["Yes", "No"]', '"Yes"'), "'choices' must be a list of texts"),
        (GOOD.replace('["Yes", "No"]', "[1, 2]"), "'choices' must be a list of texts"),
        (GOOD.replace("{", '{"index": -1, '), "'index' -1"),
        (GOOD.replace("{", '{"index": true, '), "'index' True"),
    ],
)
def test_broken_lines_are_named_and_counted(tmp_path: pathlib.Path, line: str, words: str) -> None:
    path = tmp_path / "super_glue_rte_must_be_true.jsonl"
    path.write_text(f"{line}\n{GOOD}\n")
    (_, bad), (key, good) = read(path)
    assert words in (bad.trouble or "")
    assert bad.where.endswith("line 1")
    assert (key, good.index, good.trouble) == (("rte", "must be true"), 1, None)


def test_bytes_that_are_no_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "super_glue_rte_must_be_true.jsonl"
    path.write_bytes(b'{"input": "\xff"}\n')
    assert read(path)[0][1].trouble == "no UTF-8"


@pytest.mark.parametrize(
    ("task", "template", "words"),
    [
        ("rtee", "must be true", "'rtee'; did you mean 'rte'"),
        ("rte", "must be tru", "did you mean 'must be true'"),
        ("rte", None, "no template is named"),
    ],
)
def test_unknown_names_list_the_nearest(task: str, template: str | None, words: str) -> None:
    assert words in str(resolver()(task, template))
