"""MMLU's questions, the same from every form they come in."""

import pathlib

import pytest

from metro_jax.evaluation import mmlu_data
from metro_jax.evaluation.mmlu_data import TOTALS, VALIDATION, VALIDATION_COUNTS
from tests.evaluation import mmlu_files


def test_the_counts_are_those_of_the_true_split() -> None:
    assert len(VALIDATION_COUNTS) == 57
    assert sum(VALIDATION_COUNTS.values()) == TOTALS[VALIDATION] == 1531


def test_every_form_gives_the_same_questions(tmp_path: pathlib.Path) -> None:
    found = {}
    for layout in ("csv", "parquet", "jsonl"):
        mmlu_files.write(tmp_path / layout, layout, 2, 5)
        for split in ("dev", "validation", "test"):
            subjects = mmlu_data.read(tmp_path / layout, split)
            assert list(subjects) == list(VALIDATION_COUNTS)[:5]
            found[layout, split] = [q[:6] for own in subjects.values() for q in own]
            assert len(found[layout, split]) == 5 * (5 if split == "dev" else 2)
    for split in ("dev", "validation", "test"):
        assert found["csv", split] == found["parquet", split] == found["jsonl", split]


def test_the_originals_file_is_cut_by_the_fixed_order(tmp_path: pathlib.Path) -> None:
    mmlu_files.write(tmp_path, "jsonl", 0, named=False)
    found = mmlu_data.read(tmp_path, VALIDATION)
    assert {name: len(own) for name, own in found.items()} == VALIDATION_COUNTS
    last = mmlu_files.questions("anatomy", "validation", 14)[13]
    assert found["anatomy"][13].question == last["question"]
    with pytest.raises(ValueError, match=r"285 rows without 'subject'.*1531"):
        mmlu_data.read(tmp_path, "dev")


def test_broken_rows_are_named_and_keep_the_numbers(tmp_path: pathlib.Path) -> None:
    mmlu_files.write(tmp_path, "csv", 3, 1)
    path = tmp_path / "val" / "high_school_biology_val.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "only one column\n" + lines[2])
    first, broken, third = mmlu_data.read(tmp_path, VALIDATION)["high_school_biology"]
    assert (first.trouble, third.trouble, third.index) == (None, None, 2)
    assert broken.trouble == "1 columns instead of question, four options, answer"
    assert broken.where == "val/high_school_biology_val.csv, row 2"
    (tmp_path / "validation.jsonl").write_text('{"subject": "anatomy", "question": "a"}\n{"subject": "anatomy"\n')
    found = mmlu_data.read(tmp_path, VALIDATION)
    assert found["anatomy"][0].trouble
    assert "no JSON" in (found["unknown"][0].trouble or "")


def test_a_split_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no validation split.*cais/mmlu.*val/SUBJECT_val.csv"):
        mmlu_data.read(tmp_path, VALIDATION)
    (tmp_path / "anatomy").mkdir()
    (tmp_path / "anatomy" / "test-00000-of-00001.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        mmlu_data.read(tmp_path, "test")
