"""The tokenizer behind seqio's interface."""

import pytest
import tensorflow as tf
from etils import epath

from metro_jax.data.vocabulary import MetroVocabulary, copy_vocabulary


def test_ids_are_those_of_the_tokenizer(vocabulary_folder, tokenizer):
    vocabulary = MetroVocabulary(vocabulary_folder)
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2, 3)
    assert vocabulary.vocab_size == tokenizer.vocab_size
    assert vocabulary.mask_id == tokenizer.mask_id
    assert vocabulary.fingerprint() == tokenizer.fingerprint()


def test_encoding_adds_no_specials_and_decoding_stops_at_eos(vocabulary_folder, tokenizer):
    vocabulary = MetroVocabulary(vocabulary_folder)
    text = "simple bridge"
    ids = vocabulary.encode(text)
    assert [1, *ids, 2] == tokenizer.encode(text)
    assert vocabulary.decode([1, *ids, 2, *ids, 0, 0]) == tokenizer.decode(ids)


def test_tensors_give_the_same_as_lists(vocabulary_folder):
    vocabulary = MetroVocabulary(vocabulary_folder)
    ids = vocabulary.encode("simple bridge")
    encoded = tf.data.Dataset.from_tensors("simple bridge").map(vocabulary.encode_tf)
    assert next(encoded.as_numpy_iterator()).tolist() == ids
    rows = tf.constant([[*ids, 2, 0], [*ids, 2, ids[0]]])
    assert vocabulary.decode_tf(rows).numpy().tolist() == [vocabulary.decode(ids).encode()] * 2
    assert vocabulary.decode_tf(rows[0]).numpy().decode() == vocabulary.decode(ids)


def test_the_data_folder_is_asked_when_it_is_needed(monkeypatch, prepared, vocabulary_folder):
    monkeypatch.delenv("METRO_DATA_DIR", raising=False)
    vocabulary = MetroVocabulary()
    with pytest.raises(ValueError, match="METRO_DATA_DIR"):
        vocabulary.vocab_size  # noqa: B018
    monkeypatch.setenv("METRO_DATA_DIR", str(prepared))
    assert vocabulary.fingerprint() == MetroVocabulary(vocabulary_folder).fingerprint()
    assert vocabulary == MetroVocabulary(vocabulary_folder)


def test_a_folder_without_vocabulary_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sp\.model"):
        MetroVocabulary(tmp_path).encode("x")


def test_a_copy_of_a_vocabulary_is_the_same(tmp_path, vocabulary_folder):
    copy_vocabulary(epath.Path(vocabulary_folder), epath.Path(tmp_path / "new" / "vocab"))
    assert MetroVocabulary(tmp_path / "new" / "vocab").fingerprint() == MetroVocabulary(vocabulary_folder).fingerprint()


def test_other_vocabularies_differ(vocabulary_folder, other_vocabulary_folder):
    one, other = MetroVocabulary(vocabulary_folder), MetroVocabulary(other_vocabulary_folder)
    assert one != other
    assert one != "a vocabulary"
