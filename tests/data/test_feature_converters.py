"""Batches as the models want them."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from metro_jax.data import feature_converters as fc
from metro_jax.text.ids import swap_ids

LENGTHS = {"inputs": 12, "targets": 12}
PAIRS = [([1, 5, 6, 2], [7, 2]), ([1, 8, 2], [9, 10, 2]), ([1, 11, 12, 13, 14, 15, 2], [16, 2])]


def dataset_of(rows):
    rows = [{name: np.asarray(value, np.int32) for name, value in row.items()} for row in rows]
    spec = {name: tf.TensorSpec([None], tf.int32) for name in rows[0]}
    return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)


def pairs():
    return dataset_of([{"inputs": i, "targets": t} for i, t in PAIRS])


def blocks():
    rows = [[1, 5, 6, 7, 2], [1, 8, 9, 2], [1, *range(10, 20), 2]]
    return dataset_of(
        [{"targets": r, "inputs": [40, *r[1:]], "generator_targets": [1] + [0] * (len(r) - 1)} for r in rows]
    )


def converted(converter, dataset, lengths=LENGTHS):
    return [{k: v.tolist() for k, v in row.items()} for row in converter(dataset, lengths).as_numpy_iterator()]


def test_sequence_to_sequence_rows():
    rows = converted(fc.EncoderDecoderFeatureConverter(pack=False), pairs())
    assert rows[1] == {
        "encoder_input_tokens": [1, 8, 2] + [0] * 9,
        "decoder_input_tokens": [2, 9, 10] + [0] * 9,
        "decoder_target_tokens": [9, 10, 2] + [0] * 9,
        "decoder_loss_weights": [1, 1, 1] + [0] * 9,
    }


def test_packed_sequence_to_sequence_rows():
    first, second = converted(fc.EncoderDecoderFeatureConverter(pack=True), pairs())
    assert first == {
        "encoder_input_tokens": [1, 5, 6, 2, 1, 8, 2, 0, 0, 0, 0, 0],
        "encoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0],
        "encoder_positions": [0, 1, 2, 3, 0, 1, 2, 0, 0, 0, 0, 0],
        "decoder_input_tokens": [2, 7, 2, 9, 10, 0, 0, 0, 0, 0, 0, 0],
        "decoder_target_tokens": [7, 2, 9, 10, 2, 0, 0, 0, 0, 0, 0, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        "decoder_segment_ids": [1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0],
        "decoder_positions": [0, 1, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0],
    }
    assert second["encoder_input_tokens"][:7] == PAIRS[2][0]


def test_pretraining_rows():
    rows = converted(fc.MetroPretrainingFeatureConverter(pack=False, decoder_start=40), blocks())
    assert rows[0] == {
        "encoder_input_tokens": [40, 5, 6, 7, 2] + [0] * 7,
        "generator_target_tokens": [1] + [0] * 11,
        "decoder_input_tokens": [40, 1, 5, 6, 7] + [0] * 7,
        "decoder_target_tokens": [1, 5, 6, 7, 2] + [0] * 7,
    }


def test_packed_pretraining_rows():
    first, second = converted(fc.MetroPretrainingFeatureConverter(pack=True, decoder_start=40), blocks())
    segments, positions = [1] * 5 + [2] * 4 + [0] * 3, [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]
    assert first == {
        "encoder_input_tokens": [40, 5, 6, 7, 2, 40, 8, 9, 2, 0, 0, 0],
        "generator_target_tokens": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        "decoder_input_tokens": [40, 1, 5, 6, 7, 40, 1, 8, 9, 0, 0, 0],
        "decoder_target_tokens": [1, 5, 6, 7, 2, 1, 8, 9, 2, 0, 0, 0],
        "encoder_segment_ids": segments,
        "encoder_positions": positions,
        "decoder_segment_ids": segments,
        "decoder_positions": positions,
    }
    assert second["encoder_segment_ids"] == [1] * 12
    alone = converted(fc.MetroPretrainingFeatureConverter(pack=True, decoder_start=40, max_segments=1), blocks())
    assert len(alone) == 3


def test_shapes_are_static_and_announced():
    for cls, data in ((fc.EncoderDecoderFeatureConverter, pairs()), (fc.MetroPretrainingFeatureConverter, blocks())):
        for pack in (False, True):
            converter = cls(pack=pack, use_custom_packing_ops=False, decoder_start=2)
            announced = converter.get_model_feature_lengths(LENGTHS)
            assert {name: (n,) for name, n in announced.items()} == {
                name: tuple(spec.shape) for name, spec in converter(data, LENGTHS).element_spec.items()
            }


def test_the_decoder_start_is_eos_or_the_mask_symbol(data_folder, tokenizer):
    assert fc.EncoderDecoderFeatureConverter(pack=False).decoder_start == 2
    assert fc.SpanCorruptionFeatureConverter(pack=False).decoder_start == tokenizer.mask_id
    assert fc.MetroPretrainingFeatureConverter(pack=False).decoder_start == tokenizer.mask_id
    other = fc.MetroPretrainingFeatureConverter.starting_with(77)
    assert other(pack=False).decoder_start == 77
    assert other.MODEL_FEATURES == fc.MetroPretrainingFeatureConverter.MODEL_FEATURES


def test_rank_rows_carry_their_labels():
    labels = {"idx": [3, 1], "is_correct": True, "weight": 1.0}
    rows = pairs().map(lambda row: row | {name: tf.constant(value) for name, value in labels.items()})
    row = next(fc.RankFeatureConverter(pack=False)(rows, LENGTHS).as_numpy_iterator())
    assert row["idx"].tolist() == [3, 1]
    assert row["is_correct"]
    assert row["weight"] == 1.0
    assert row["decoder_target_tokens"].tolist() == [7, 2] + [0] * 10


def test_choices_of_an_example_stay_in_one_batch():
    """Examples with three, two, one and three choices in batches of three rows."""
    counts = [3, 2, 1, 3]
    idx = [(example, choice) for example, count in enumerate(counts) for choice in range(count)]
    rows = [{"inputs": [1, 5, 2], "targets": [7 + choice, 2], "idx": [example, choice]} for example, choice in idx]
    labels = {"is_correct": tf.constant(True), "weight": tf.constant(1.0)}
    converter = fc.RankFeatureConverter(choices=3)
    dataset = converter(dataset_of(rows).map(lambda row: row | labels), LENGTHS)
    assert {name: tuple(spec.shape) for name, spec in dataset.element_spec.items()}["encoder_input_tokens"] == (12,)
    batches = list(dataset.batch(3).as_numpy_iterator())
    found = [[tuple(i) for i in batch["idx"].tolist() if i[0] >= 0] for batch in batches]
    assert found == [[i for i in idx if i[0] == example] for example in range(len(counts))]
    empty = batches[2]["idx"][:, 0] < 0
    assert empty.tolist() == [False, True, True]
    assert not batches[2]["weight"][empty].any()
    assert not batches[2]["decoder_loss_weights"][empty].any()


def test_an_example_with_too_many_choices_is_an_error():
    row = {"inputs": [1, 2], "targets": [7, 2], "idx": [0, 3]}
    labels = {"is_correct": tf.constant(True), "weight": tf.constant(1.0)}
    dataset = fc.RankFeatureConverter(choices=3)(dataset_of([row]).map(lambda row: row | labels), LENGTHS)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more choices"):
        list(dataset)


def test_wrong_use_is_explained():
    with pytest.raises(ValueError, match="use_custom_packing_ops"):
        fc.EncoderDecoderFeatureConverter(pack=True, use_custom_packing_ops=True)
    with pytest.raises(ValueError, match="pack=True"):
        fc.RankFeatureConverter(pack=True)
    with pytest.raises(ValueError, match="choices=0"):
        fc.RankFeatureConverter(choices=0)
    with pytest.raises(ValueError, match="max_segments=0"):
        fc.MetroPretrainingFeatureConverter(max_segments=0)
    with pytest.raises(ValueError, match=f"max_segments={fc.MAX_SEGMENTS + 1}"):
        fc.MetroPretrainingFeatureConverter(max_segments=fc.MAX_SEGMENTS + 1)
    converter = fc.MetroPretrainingFeatureConverter(pack=False, decoder_start=40)
    with pytest.raises(ValueError, match="same length"):
        converter(blocks(), {"inputs": 12, "targets": 16})
    with pytest.raises(ValueError, match="metro_pretrain"):
        converter(pairs(), LENGTHS)


def test_padding_agrees_with_seqio(data_folder):
    """The same rows as seqio's own converter, but for the first decoder token."""
    ours = converted(fc.EncoderDecoderFeatureConverter(pack=False), pairs())
    theirs = converted(seqio.EncDecFeatureConverter(pack=False, bos_id=2), pairs())
    for row, other in zip(ours, theirs, strict=True):
        for name in ("encoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights"):
            assert row[name] == other[name]


@pytest.mark.golden
def test_golden_pretraining_batch(golden_dir):
    batch = np.load(golden_dir / "metro_pretrain_expected.npz")
    source = {
        "inputs": swap_ids(batch["src_tokens"]),
        "targets": swap_ids(batch["discriminator_target"]),
        "generator_targets": swap_ids(batch["generator_target"]),
    }
    length = source["targets"].shape[1]
    sizes = (source["targets"] != 0).sum(1)
    rows = dataset_of([{name: ids[i, :n] for name, ids in source.items()} for i, n in enumerate(sizes)])
    start = int(batch["prev_output_tokens"][0, 0])
    converter = fc.MetroPretrainingFeatureConverter(pack=False, decoder_start=start)
    found = next(converter(rows, {"inputs": length, "targets": length}).batch(len(sizes)).as_numpy_iterator())
    np.testing.assert_array_equal(swap_ids(found["encoder_input_tokens"]), batch["src_tokens"])
    np.testing.assert_array_equal(swap_ids(found["generator_target_tokens"]), batch["generator_target"])
    np.testing.assert_array_equal(swap_ids(found["decoder_target_tokens"]), batch["discriminator_target"])
    np.testing.assert_array_equal(swap_ids(found["decoder_input_tokens"]), batch["prev_output_tokens"])


@pytest.mark.golden
@pytest.mark.parametrize("stage", ["t5", "finetune"])
def test_golden_sequence_to_sequence_batch(golden_dir, stage):
    batch = np.load(golden_dir / "seq2seq_expected.npz")
    source, target = (swap_ids(batch[f"{stage}.{name}"]) for name in ("src_tokens", "target"))
    rows = [{"inputs": s[s != 0], "targets": t[t != 0]} for s, t in zip(source, target, strict=True)]
    lengths = {"inputs": source.shape[1], "targets": target.shape[1]}
    start = int(batch[f"{stage}.prev_output_tokens"][0, 0])
    converter = fc.EncoderDecoderFeatureConverter(pack=False, decoder_start=start)
    assert stage == "t5" or start == fc.EncoderDecoderFeatureConverter(pack=False).decoder_start
    found = next(converter(dataset_of(rows), lengths).batch(len(rows)).as_numpy_iterator())
    np.testing.assert_array_equal(swap_ids(found["encoder_input_tokens"]), batch[f"{stage}.src_tokens"])
    np.testing.assert_array_equal(swap_ids(found["decoder_input_tokens"]), batch[f"{stage}.prev_output_tokens"])
    np.testing.assert_array_equal(swap_ids(found["decoder_target_tokens"]), batch[f"{stage}.target"])


@pytest.mark.golden
def test_golden_finetuning_examples(golden_dir):
    """From raw ids to the batch: `<s>`, truncation and padding together."""
    from metro_jax.data import preprocessors

    batch = np.load(golden_dir / "seq2seq_expected.npz")
    raw = json.loads((golden_dir / "seq2seq_expected.json").read_text())["finetune.raw"]
    rows = [{"inputs": [1, *s], "targets": t} for s, t in zip(raw["src"], raw["tgt"], strict=True)]
    limits = {"inputs": raw["truncate_to"], "targets": raw["truncate_to"]}
    cut = preprocessors.fit(dataset_of(rows), limits)
    lengths = {"inputs": batch["finetune.src_tokens"].shape[1], "targets": batch["finetune.target"].shape[1]}
    found = next(fc.EncoderDecoderFeatureConverter(pack=False)(cut, lengths).batch(len(rows)).as_numpy_iterator())
    rows_found = {tuple(row) for row in swap_ids(found["encoder_input_tokens"]).tolist()}
    assert rows_found == {tuple(row) for row in batch["finetune.src_tokens"].tolist()}
