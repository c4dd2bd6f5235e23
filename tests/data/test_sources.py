"""Reading prepared records through seqio's source interface."""

import pytest
import seqio

from metro_jax.data import records
from metro_jax.data.sources import PreparedSource, VocabularyMismatchError
from metro_jax.data.vocabulary import MetroVocabulary
from metro_jax.text.tokenizer import MetroTokenizer


def source(prepared, task="liked", kind="prompted"):
    return PreparedSource(task, kind, MetroVocabulary(prepared / "vocab"), folder=prepared)


def texts(dataset):
    return sorted(example["inputs_pretokenized"] for example in dataset.as_numpy_iterator())


def test_everything_is_read_once_in_the_right_types(prepared):
    reader = source(prepared)
    assert reader.splits == ("train",)
    dataset = reader.get_dataset("train", shuffle=False)
    written = list(records.read_records(prepared, "liked", "train", "prompted"))
    assert texts(dataset) == sorted(row["inputs_pretokenized"] for row in written)
    assert len(written) == reader.num_input_examples("train")
    assert {name: spec.dtype.name for name, spec in dataset.element_spec.items()} == {
        "inputs": "int32",
        "targets": "int32",
        "inputs_pretokenized": "string",
        "targets_pretokenized": "string",
    }


def test_shards_divide_the_records(prepared):
    reader = source(prepared)
    parts = [
        texts(reader.get_dataset("train", shuffle=True, seed=0, shard_info=seqio.ShardInfo(index=i, num_shards=2)))
        for i in range(2)
    ]
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == texts(reader.get_dataset("train", shuffle=False))


def test_records_of_another_vocabulary_are_refused_with_both_hashes(prepared, other_vocabulary_folder):
    other = MetroVocabulary(other_vocabulary_folder)
    reader = PreparedSource("liked", "prompted", other, folder=prepared)
    with pytest.raises(VocabularyMismatchError) as error:
        reader.get_dataset("train")
    present = MetroTokenizer.from_pretrained(prepared / "vocab").fingerprint()
    assert present in str(error.value)
    assert other.fingerprint() in str(error.value)


def test_records_of_another_kind_are_refused(prepared):
    with pytest.raises(ValueError, match="holds ranked records, but prompted"):
        source(prepared, "liked_score_eval").get_dataset("validation")


def test_the_folder_is_looked_up_at_each_use(prepared, monkeypatch):
    reader = PreparedSource("liked", "prompted", MetroVocabulary())
    monkeypatch.delenv("METRO_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match="METRO_DATA_DIR"):
        reader.splits  # noqa: B018
    monkeypatch.setenv("METRO_DATA_DIR", str(prepared))
    assert reader.splits == ("train",)
    assert "liked" in repr(reader)
