"""Rows of a table in memory become the batches that the seqio pipeline makes of the same rows."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from metro_jax.data.feature_converters import EncoderDecoderFeatureConverter
from metro_jax.data.preprocessors import fit
from metro_jax.data.records import prompted_features
from metro_jax.text.ids import EOS
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.training.pairs import encode_pairs, pair_batches
from tests.training.data_folder import VOCABULARY

ROWS = [
    ("The cat  sat\non a mat. What did it do?", " sat "),
    ("Two DOGS run over hills to find food. Who runs?", "two dogs"),
    ("the " * 40, "and saw " * 20),
]


@pytest.fixture(scope="module")
def tokenizer() -> MetroTokenizer:
    return MetroTokenizer.from_pretrained(VOCABULARY)


def test_batches_are_those_of_the_data_pipeline(tokenizer: MetroTokenizer) -> None:
    pairs = encode_pairs(ROWS, tokenizer, max_input=32, max_target=16)
    assert (pairs.cut_inputs, pairs.cut_targets) == (2, 1)
    (batch,) = itertools.islice(pair_batches(pairs, len(ROWS)), 1)
    records = prompted_features(ROWS, tokenizer)
    rows = [{name: np.asarray(row[name], np.int32) for name in ("inputs", "targets")} for row in records]
    spec = {name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")}
    dataset = tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)
    lengths = {"inputs": 32, "targets": 16}
    converted = EncoderDecoderFeatureConverter(pack=False)(fit(dataset, lengths, "truncate"), lengths)
    expected = list(converted.as_numpy_iterator())
    # Batches have an order of their own.
    order = [pairs.inputs.index([token for token in row if token]) for row in batch["encoder_input_tokens"].tolist()]
    assert sorted(order) == [0, 1, 2]
    for name, found in batch.items():
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, [expected[n][name] for n in order], err_msg=name)


def test_every_epoch_has_every_row_in_an_order_of_its_own(tokenizer: MetroTokenizer) -> None:
    rows = [(f"{word} dogs", word) for word in ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two"]]
    pairs = encode_pairs(rows, tokenizer)

    def inputs(seed: int, batches: int = 9) -> list[tuple[int, ...]]:
        made = itertools.islice(pair_batches(pairs, 4, seed=seed), batches)
        return [tuple(row) for batch in made for row in batch["encoder_input_tokens"].tolist()]

    epochs = [inputs(seed=1)[start : start + 9] for start in (0, 9, 18, 27)]  # 36 rows in 9 batches: 4 epochs
    assert all(set(epoch) == set(epochs[0]) and len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert inputs(seed=1) == inputs(seed=1) != inputs(seed=2)


def test_the_first_decoder_input_is_the_one_asked_for(tokenizer: MetroTokenizer) -> None:
    batch = next(pair_batches(encode_pairs(ROWS, tokenizer), 2, decoder_start=7))
    assert batch["decoder_input_tokens"][:, 0].tolist() == [7, 7]
    assert next(pair_batches(encode_pairs(ROWS, tokenizer), 2))["decoder_input_tokens"][0, 0] == EOS


def test_complaints_name_the_row(tokenizer: MetroTokenizer) -> None:
    with pytest.raises(ValueError, match="at least one"):
        encode_pairs([], tokenizer)
    with pytest.raises(ValueError, match=r"row 1, \('who', ' '\), has an empty answer: leave it out"):
        encode_pairs([("what", "that"), ("who", " ")], tokenizer)
    with pytest.raises(ValueError, match="batch_size=0"):
        next(pair_batches(encode_pairs(ROWS, tokenizer), 0))


def test_training_on_a_table_needs_no_tensorflow() -> None:
    code = (
        "import sys, metro_jax.training.pairs, metro_jax.training.trainer, metro_jax.training.partitioning, "
        "metro_jax.training.schedules\n"
        "print([name for name in ('tensorflow', 'seqio', 'clu', 'torch', 'gin') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
