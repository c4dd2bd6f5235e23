"""The report of what a data folder holds."""

import pytest

from metro_jax.data.folder import read_mixtures
from metro_jax.data.t0 import catalogue, prepare, report


@pytest.fixture(scope="module")
def prepared(p3_folders, vocabulary_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t0")
    work = prepare.plan(p3_folders["parquet"], ["t0pp_train", "t0_train_eval", "t0_eval"])
    prepare.prepare(work, vocabulary_folder, folder, show=False)
    return folder, work.missing


def test_every_task_has_a_state(prepared, monkeypatch):
    folder, missing = prepared
    monkeypatch.setattr(catalogue, "MAX_EXAMPLES", 70)  # 7 tasks of glue_mrpc: a cap of 10
    made = report.report(folder, ["t0_train", "t0_train_eval", "t0_eval"], missing)
    train = made["t0_train"]
    assert train["counts"] == {"tasks": 313, "found": 3, "missing": 310, "empty": 0, "over_cap": 3}
    assert train["examples"] == 10 + 6 + 10  # imdb has 11 tasks, samsum 7
    entry = train["tasks"]["glue_mrpc_equivalent"]
    assert (entry["cap"], entry["examples"], entry["over_cap"], entry["status"]) == (10, 12, True, "found")
    assert entry["longer"] == {"inputs": 0, "targets": 0}
    assert "nor any other task" in train["tasks"]["xsum_DOC_tldr"]["reason"]
    validation = made["t0_train_eval"]["tasks"]["glue_mrpc_equivalent"]
    assert validation["examples"] == 12  # the test split has no labels
    assert validation["dropped"] == {"no label": 12}
    assert made["t0_eval"]["counts"]["found"] == 3
    assert report.incomplete(made) == {"t0_train": 310, "t0_train_eval": 141, "t0_eval": 109}


def test_text_and_json_say_the_same(prepared, tmp_path, monkeypatch):
    folder, missing = prepared
    monkeypatch.setattr(catalogue, "MAX_EXAMPLES", 70)
    made = report.report(folder, ["t0_train"], missing)
    text = report.save(tmp_path, made, allow_missing=True)
    assert report.read(tmp_path) == made
    assert (tmp_path / "t0_report.txt").read_text() == text
    assert text.startswith("t0_train: 313 tasks, 3 found, 310 missing, 0 empty, 3 over their cap; 26 examples in")
    assert "  glue_mrpc_equivalent  12  10\n" in text
    mixture = read_mixtures(tmp_path)["t0_train"]
    assert mixture["allow_missing"] is True
    assert mixture["split"] == "train"
    assert mixture["tasks"]["glue_mrpc_equivalent"] == 10
    assert report.read(tmp_path / "nowhere") == {}


def test_empty_tasks_are_listed(tmp_path, p3_folders, tokenizer):
    from metro_jax.data.t0.encode import Unit, encode
    from metro_jax.data.t0.p3 import splits

    source = splits(p3_folders["parquet"], "glue_mrpc_equivalent")["test"]
    encode(tmp_path, Unit("glue_mrpc_same_thing", "train", "prompted", source), tokenizer, lambda _: None)
    made = report.report(tmp_path, ["t0_train"])
    assert made["t0_train"]["counts"]["empty"] == 1
    assert "Empty (every row was dropped):\n  glue_mrpc_same_thing" in report.as_text(made)


def test_a_task_without_the_wanted_split_says_so(prepared):
    folder, _ = prepared
    made = report.report(folder, ["t0_train_eval", "t0_train"])
    assert "run `metro-jax data t0`" in made["t0_train_eval"]["tasks"]["xsum_DOC_tldr"]["reason"]
    (folder / "glue_mrpc_same_thing").mkdir(exist_ok=True)
    account = (folder / "glue_mrpc_equivalent" / "source.train.json").read_text()
    (folder / "glue_mrpc_same_thing" / "source.train.json").write_text(account)
    made = report.report(folder, ["t0_train_eval"])
    assert "no split but those" in made["t0_train_eval"]["tasks"]["glue_mrpc_same_thing"]["reason"]
