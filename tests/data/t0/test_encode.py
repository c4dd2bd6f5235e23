"""Rows of P3 to records."""

import pytest

from metro_jax.data import records
from metro_jax.data.folder import read_info
from metro_jax.data.t0 import encode as encode_lib
from metro_jax.data.t0 import p3
from metro_jax.data.t0.encode import Unit, encode, is_done, read_account
from tests.data import p3_files


def unit_of(folder, task, split="train", kind="prompted", **kwargs):
    return Unit(task, split, kind, p3.splits(folder, kwargs.pop("source", task))[split], **kwargs)


def test_records_hold_the_ids_of_the_training_path(p3_folder, tmp_path, tokenizer):
    unit = unit_of(p3_folder, "imdb_Movie_Expressed_Sentiment")
    read = []
    account = encode(tmp_path, unit, tokenizer, read.append)
    written = {
        row["inputs_pretokenized"].decode(): row
        for row in records.read_records(tmp_path, unit.task, "train", "prompted")
    }
    rows = p3_files.rows(unit.task, "train", 12)
    assert set(written) == {row["inputs_pretokenized"] for row in rows}
    for row in rows:
        record = written[row["inputs_pretokenized"]]
        source, target = " ".join(row["inputs_pretokenized"].split()), row["targets_pretokenized"].strip()
        assert record["inputs"].tolist() == tokenizer.training_ids(source)
        assert record["targets"].tolist() == tokenizer.training_ids(target, bos=False)
    assert account["examples"] == read_info(tmp_path, unit.task, "train")["examples"] == 12
    assert sum(read) == pytest.approx(unit.source.size, rel=0.02)


def test_rows_without_a_label_are_dropped_and_counted(p3_folder, tmp_path, tokenizer):
    unit = unit_of(p3_folder, "glue_mrpc_equivalent", "test")
    account = encode(tmp_path, unit, tokenizer, lambda _: None)
    assert account["examples"] == 0
    assert account["dropped"] == {"no label": 12}
    assert not (tmp_path / unit.task / "info.test.json").exists()
    assert is_done(tmp_path, unit, tokenizer)


def test_empty_targets_and_broken_text_are_counted(tmp_path, tokenizer, monkeypatch):
    rows = [p3.Row("a question", " \n"), "invalid UTF-8", p3.Row("a question", " yes")]
    monkeypatch.setattr(p3, "rows", lambda split: ((row, 1) for row in rows))
    unit = Unit("task", "train", "prompted", p3.Split("task", "train", p3.PARQUET, ()))
    account = encode(tmp_path, unit, tokenizer, lambda _: None)
    assert account["dropped"] == {"empty target": 1, "invalid UTF-8": 1}
    assert read_info(tmp_path, "task", "train")["dropped"] == account["dropped"]


def test_long_rows_are_counted(p3_folder, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(encode_lib, "LIMIT", 25)
    unit = unit_of(p3_folder, "samsum_Summarize_")
    account = encode(tmp_path, unit, tokenizer, lambda _: None)
    written = records.read_records(tmp_path, unit.task, "train", "prompted")
    assert account["longer"] == {"inputs": sum(len(r["inputs"]) > 25 for r in written), "targets": 0, "limit": 25}
    assert account["longer"]["inputs"] > 0


def ranked(folder, task):
    found = {}
    for row in records.read_records(folder, task, "validation", "ranked"):
        found.setdefault(int(row["idx"][0]), []).append(
            (int(row["idx"][1]), row["targets"].tolist(), row["is_correct"])
        )
    return found


def test_ranked_rows_are_encoded_as_the_evaluation_does(p3_folder, tmp_path, tokenizer):
    task = "anli_MNLI_crowdsource_r1_score_eval"
    encode(tmp_path, unit_of(p3_folder, task, "validation", "ranked"), tokenizer, lambda _: None)
    found = ranked(tmp_path, task)
    rows = p3_files.rows(task, "validation", 12)
    assert len(found) == 12
    for number, group in found.items():
        of_example = [row for row in rows if row["idx"][0] == number]
        assert group == [
            (i, tokenizer.encode_choice(row["targets_pretokenized"]), row["is_correct"])
            for i, row in enumerate(of_example)
        ]


def test_answer_choices_stand_in_for_a_missing_score_eval_task(p3_folder, tmp_path, tokenizer):
    stem, task = "super_glue_rte_can_we_infer", "super_glue_rte_can_we_infer_score_eval"
    unit = Unit(task, "validation", "ranked", p3.splits(p3_folder, stem)["validation"], from_choices=True)
    encode(tmp_path, unit, tokenizer, lambda _: None)
    rows = p3_files.rows(stem, "validation", 12)
    assert {n: [right for _, _, right in group] for n, group in ranked(tmp_path, task).items()} == {
        n: [choice == row["targets_pretokenized"].strip() for choice in row["answer_choices"]]
        for n, row in enumerate(rows)
    }


def test_examples_without_a_correct_choice_are_counted(tmp_path, tokenizer, monkeypatch):
    rows = [p3.Row("q", "maybe", ("yes", "no")), p3.Row("q", "yes", ("yes", "no")), p3.Row("q", "yes")]
    monkeypatch.setattr(p3, "rows", lambda split: ((row, 1) for row in rows))
    unit = Unit("task", "validation", "ranked", p3.Split("task", "validation", p3.PARQUET, ()), from_choices=True)
    account = encode(tmp_path, unit, tokenizer, lambda _: None)
    assert account["dropped"] == {"no correct choice": 1, "no answer choices": 1}
    assert account["examples"] == 2


def test_what_is_done_is_known_until_something_changes(p3_folder, tmp_path, tokenizer):
    unit = unit_of(p3_folder, "samsum_Summarize_")
    assert not is_done(tmp_path, unit, tokenizer)
    encode(tmp_path, unit, tokenizer, lambda _: None)
    assert is_done(tmp_path, unit, tokenizer)
    assert not is_done(tmp_path, unit_of(p3_folder, "samsum_Summarize_", from_choices=True), tokenizer)
    (tmp_path / unit.task / "info.train.json").unlink()
    assert not is_done(tmp_path, unit, tokenizer)
    assert read_account(tmp_path, "nothing", "train") is None


def test_a_broken_source_leaves_nothing_half_written(p3_folder, tmp_path, tokenizer, monkeypatch):
    unit = unit_of(p3_folder, "samsum_Summarize_")
    (tmp_path / unit.task).mkdir()
    (tmp_path / unit.task / ".train.00000.999.tmp").write_text("left by a run that was killed")
    good = p3.rows(unit.source)

    def rows(split):
        yield next(good)
        raise p3.BrokenSplitError("torn")

    monkeypatch.setattr(p3, "rows", rows)
    with pytest.raises(p3.BrokenSplitError):
        encode(tmp_path, unit, tokenizer, lambda _: None)
    assert list((tmp_path / unit.task).iterdir()) == []


def order(folder, unit):
    return [row["inputs_pretokenized"] for row in records.read_records(folder, unit.task, unit.target, "prompted")]


def test_training_records_are_shuffled_once_and_for_all(p3_folders, tmp_path, tokenizer):
    """In every layout and every run the same order, another one than that of the source; other splits keep theirs."""
    found = []
    for number, layout in enumerate(("parquet", "tfrecord", "tfrecord")):
        unit = unit_of(p3_folders[layout], "samsum_Summarize_")
        encode(tmp_path / str(number), unit, tokenizer, lambda _: None)
        found.append(order(tmp_path / str(number), unit))
    assert found[0] == found[1] == found[2]
    source = [row["inputs_pretokenized"].encode() for row in p3_files.rows("samsum_Summarize_", "train", 12)]
    assert sorted(found[0]) == sorted(source)
    assert found[0] != source
    unit = unit_of(p3_folders["parquet"], "samsum_Summarize_", "validation")
    encode(tmp_path, unit, tokenizer, lambda _: None)
    source = p3_files.rows("samsum_Summarize_", "validation", 12)
    assert order(tmp_path, unit) == [row["inputs_pretokenized"].encode() for row in source]
