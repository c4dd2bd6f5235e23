"""Prepared records: what is in them, and that a split appears whole or not at all."""

import json

import pytest

from metro_jax.data import records
from metro_jax.text.ids import EOS


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_documents_keep_their_lines(tmp_path, tokenizer):
    documents = [["a simple bridge", "the dog plays"], ["   "], [], ["friend", " ", "no"]]
    info = records.write_documents(tmp_path, "corpus", "train", documents, tokenizer, progress=False)
    assert info["dropped"] == {"empty document": 2}
    rows = list(records.read_records(tmp_path, "corpus", "train", "documents"))
    assert len(rows) == info["examples"] == 2
    for lines, row in zip([documents[0], documents[3]], rows, strict=True):
        expected = [tokenizer.training_ids(line, bos=False) for line in lines]
        assert row["line_lengths"].tolist() == [len(ids) for ids in expected]
        assert row["ids"].tolist() == [i for ids in expected for i in ids]
    assert rows[1]["line_lengths"][1] == 1  # a line without a word separates documents


def test_pairs_are_collapsed_and_encoded_on_the_training_path(tmp_path, tokenizer):
    pairs = [("a  simple\n bridge ", "\nyes"), ("x", " \t"), ("", "no </s> no")]
    info = records.write_prompted(tmp_path, "task", "train", pairs, tokenizer, progress=False)
    assert info["dropped"] == {"empty target": 1}
    first, second = records.read_records(tmp_path, "task", "train", "prompted")
    assert first["inputs"].tolist() == tokenizer.training_ids("a simple bridge")
    assert first["targets"].tolist() == tokenizer.training_ids("yes", bos=False)
    assert (first["inputs_pretokenized"], first["targets_pretokenized"]) == (pairs[0][0].encode(), pairs[0][1].encode())
    assert second["inputs"].tolist() == [1, EOS]
    assert second["targets"].tolist().count(EOS) == 1  # special strings in the text are plain text here


def test_rows_of_an_example_stay_together(tmp_path, tokenizer):
    examples = [("a bridge?", ["yes", "no"], "no"), ("a dog?", ["yes", "no", "yes"], "yes"), ("b?", ["no"], "no")]
    info = records.write_ranked(tmp_path, "task", "validation", examples, tokenizer, shards=2, progress=False)
    assert info["examples"] == 6
    rows = list(records.read_records(tmp_path, "task", "validation", "ranked"))
    labels = [(*row["idx"].tolist(), bool(row["is_correct"])) for row in rows]
    # Examples 0 and 2 went to the first shard, example 1 to the second.
    assert labels == [(0, 0, False), (0, 1, True), (2, 0, True), (1, 0, True), (1, 1, False), (1, 2, True)]
    for row in rows:
        text, choices, _ = examples[row["idx"][0]]
        assert row["inputs"].tolist() == tokenizer.encode(text)
        assert row["targets"].tolist() == tokenizer.encode_choice(choices[row["idx"][1]])
        assert row["weight"] == 1.0


def test_the_answer_must_be_a_choice(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"'maybe' of example 1"):
        records.write_ranked(
            tmp_path, "t", "test", [("a", ["yes"], "yes"), ("b", ["yes"], "maybe")], tokenizer, progress=False
        )
    with pytest.raises(ValueError, match="not among"):
        records.write_ranked(tmp_path, "t", "test", [("a", [], "yes")], tokenizer, progress=False)
    assert listing(tmp_path) == []


def test_info_counts_and_names_the_vocabulary(tmp_path, tokenizer):
    pairs = [(f"dog {'plays ' * i}", "yes") for i in range(5)]
    info = records.write_prompted(tmp_path, "task", "train", pairs, tokenizer, shards=3, progress=True)
    assert info == json.loads((tmp_path / "task" / "info.train.json").read_text())
    lengths = [len(row["inputs"]) for row in records.read_records(tmp_path, "task", "train", "prompted")]
    assert info["examples"] == len(lengths)
    assert (info["totals"]["inputs"], info["longest"]["inputs"]) == (sum(lengths), max(lengths))
    assert (info["vocabulary"], info["vocab_size"]) == (tokenizer.fingerprint(), tokenizer.vocab_size)
    assert listing(tmp_path / "task") == ["info.train.json", *records.shard_names("train", 3)]


def test_nothing_is_left_of_a_write_that_fails(tmp_path, tokenizer):
    def broken():
        yield "a", "yes"
        raise KeyError("the source broke off")

    with pytest.raises(KeyError):
        records.write_prompted(tmp_path, "task", "train", broken(), tokenizer, shards=2, progress=False)
    with pytest.raises(ValueError, match="no records"):
        records.write_prompted(tmp_path, "task", "train", [], tokenizer, progress=False)
    assert listing(tmp_path) == []


def test_a_split_can_be_written_again(tmp_path, tokenizer):
    records.write_prompted(tmp_path, "task", "train", [("a", "yes")] * 4, tokenizer, shards=4, progress=False)
    before = {name: (tmp_path / "task" / name).read_bytes() for name in listing(tmp_path / "task")}

    def broken():
        raise KeyError("no source")
        yield

    with pytest.raises(KeyError):
        records.write_prompted(tmp_path, "task", "train", broken(), tokenizer, progress=False)
    assert {name: (tmp_path / "task" / name).read_bytes() for name in listing(tmp_path / "task")} == before
    records.write_prompted(tmp_path, "task", "train", [("b", "no")], tokenizer, shards=1, progress=False)
    assert listing(tmp_path / "task") == ["info.train.json", *records.shard_names("train", 1)]


def test_the_same_records_give_the_same_bytes(tmp_path, tokenizer):
    for name in ("one", "two"):
        records.write_prompted(tmp_path, name, "train", [("a dog", "yes")] * 3, tokenizer, progress=False)
    names = listing(tmp_path / "one")
    assert [(tmp_path / "one" / n).read_bytes() for n in names] == [(tmp_path / "two" / n).read_bytes() for n in names]


@pytest.mark.parametrize(("kind", "shards", "message"), [("lyrics", 1, "lyrics"), ("documents", 0, "shards=0")])
def test_wrong_arguments(tmp_path, tokenizer, kind, shards, message):
    with pytest.raises(ValueError, match=message):
        records.RecordWriter(tmp_path, "task", "train", kind, tokenizer, shards)
