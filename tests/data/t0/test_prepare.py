"""Planning, several processes, going on after a stop."""

import errno
import json

import pytest
import tensorflow as tf

from metro_jax.data import records
from metro_jax.data.t0 import catalogue, p3, prepare
from tests.data import p3_files

ALL = ["t0pp_train", "t0_train_eval", "t0_eval"]


def test_the_plan_takes_what_each_mixture_wants(p3_folder):
    work = prepare.plan(p3_folder, ALL)
    assert {(unit.task, unit.target, unit.kind) for unit in work.units} == {
        ("glue_mrpc_equivalent", "train", "prompted"),
        ("glue_mrpc_equivalent", "validation", "prompted"),
        ("glue_mrpc_equivalent", "test", "prompted"),
        ("imdb_Movie_Expressed_Sentiment", "train", "prompted"),  # imdb does not validate
        ("samsum_Summarize_", "train", "prompted"),
        ("super_glue_rte_can_we_infer_score_eval", "validation", "ranked"),  # from its answer choices
        ("super_glue_rte_must_be_true_score_eval", "validation", "ranked"),
        ("anli_MNLI_crowdsource_r1_score_eval", "validation", "ranked"),
    }
    assert {unit.task for unit in prepare.plan(p3_folder, ["t0_train"]).units} == set(p3_files.TASKS) - {
        "super_glue_rte_can_we_infer"
    }
    wanted = set().union(*(catalogue.mixtures()[name] for name in ALL))
    assert set(work.missing) | {unit.task for unit in work.units} == wanted


def test_missing_tasks_have_a_reason(p3_folder, tmp_path):
    missing = prepare.plan(p3_folder, ALL, {"trec_trec1": "not on the Hub"}).missing
    assert missing["trec_trec1"] == "not on the Hub"
    assert "licence" in missing["story_cloze_2016_Novel_Correct_Ending_score_eval"]
    assert "other tasks of glue_mrpc are" in missing["glue_mrpc_same_thing"]
    assert "nor any other task of wiki_bio" in missing["wiki_bio_who"]
    p3_files.write_split(tmp_path, "parquet", "wiki_bio_who2", "train", p3_files.rows("samsum_Summarize_", "train", 4))
    p3_files.write_split(tmp_path, "parquet", "trec_trec1", "test", p3_files.rows("samsum_Summarize_", "train", 4))
    missing = prepare.plan(tmp_path, ["t0_train"]).missing
    assert "wiki_bio_who2" in missing["wiki_bio_who"]
    assert "it has test" in missing["trec_trec1"]


def test_a_run_goes_on_where_it_stopped(p3_folder, tmp_path, vocabulary_folder, monkeypatch):
    work = prepare.plan(p3_folder, ALL)
    encoded = []
    real = prepare.encode

    def encode(folder, unit, tokenizer, advance):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(unit)
        return real(folder, unit, tokenizer, advance)

    monkeypatch.setattr(prepare, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(work, vocabulary_folder, tmp_path, show=False)
    first = list(encoded)
    monkeypatch.setattr(prepare, "encode", lambda *a: (encoded.append(a[1]), real(*a))[1])
    assert prepare.prepare(work, vocabulary_folder, tmp_path, show=False) == {}
    assert set(encoded[3:]) == set(work.units) - set(first)
    assert prepare.prepare(work, vocabulary_folder, tmp_path, show=False) == {}
    assert len(encoded) == len(work.units)


@pytest.mark.slow  # every process imports TensorFlow
def test_processes_give_the_same_records(p3_folders, tmp_path, vocabulary_folder):
    work = prepare.plan(p3_folders["tfrecord"], ["t0_train"])
    for name, processes in (("one", 1), ("two", 2)):
        assert prepare.prepare(work, vocabulary_folder, tmp_path / name, processes, show=False) == {}
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) > 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_broken_task_does_not_stop_the_others(p3_folder, tmp_path, vocabulary_folder, monkeypatch):
    real = p3.rows

    def rows(split):
        if split.task == "samsum_Summarize_":
            raise p3.BrokenSplitError("torn")
        return real(split)

    monkeypatch.setattr(p3, "rows", rows)
    work = prepare.plan(p3_folder, ["t0_train"])
    assert prepare.prepare(work, vocabulary_folder, tmp_path, show=False) == {"samsum_Summarize_": "torn"}
    assert len(list(records.read_records(tmp_path, "glue_mrpc_equivalent", "train", "prompted"))) == 12


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), tf.errors.ResourceExhaustedError(None, None, "No space left")],
)
def test_a_full_disk_stops_cleanly(p3_folders, tmp_path, vocabulary_folder, monkeypatch, error):
    work = prepare.plan(p3_folders["parquet"], ["t0_train"])
    real = records.RecordWriter.write

    def write(self, *args):
        if (tmp_path / "glue_mrpc_equivalent" / "info.train.json").exists():
            raise error
        real(self, *args)

    work.units.sort(key=lambda unit: unit.task)
    monkeypatch.setattr(prepare.Unit, "shards", property(lambda unit: 1))
    monkeypatch.setattr("metro_jax.data.t0.p3.Split.size", property(lambda split: 1000 - len(split.task)))
    monkeypatch.setattr(records.RecordWriter, "write", write)
    with pytest.raises(OSError, match="run the same command again"):
        prepare.prepare(work, vocabulary_folder, tmp_path, show=False)
    monkeypatch.setattr(records.RecordWriter, "write", real)
    assert not list(tmp_path.rglob("*.tmp"))
    assert prepare.prepare(work, vocabulary_folder, tmp_path, show=False) == {}
    assert {path.parent.name for path in tmp_path.glob("*/info.train.json")} == {unit.task for unit in work.units}


def test_a_data_folder_keeps_its_vocabulary(p3_folders, tmp_path, vocabulary_folder, tokenizer):
    other = tmp_path / "other"
    tokenizer.save_pretrained(other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"n_sentinel_tokens": 3}))
    work = prepare.Plan()
    prepare.prepare(work, vocabulary_folder, tmp_path / "out", show=False)
    with pytest.raises(ValueError, match="a data folder has one vocabulary"):
        prepare.prepare(work, other, tmp_path / "out", show=False)
