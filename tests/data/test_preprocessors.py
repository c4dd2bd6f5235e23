"""Blocks, masks and truncation as TensorFlow ops."""

import json

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from metro_jax.data import preprocessors, reference
from metro_jax.data.vocabulary import MetroVocabulary
from metro_jax.text.ids import swap_ids


@pytest.fixture(scope="module")
def masking(golden_dir):
    return json.loads((golden_dir / "masking.json").read_text())


@pytest.fixture(scope="module")
def pipeline(golden_dir):
    return json.loads((golden_dir / "pipeline.json").read_text())


def seed(number):
    return tf.constant([number, 3], tf.int64)


def ranges(line_lengths, block_size):
    starts, ends = preprocessors.complete_doc_blocks(tf.constant(line_lengths, tf.int32), block_size)
    return list(zip(starts.numpy().tolist(), ends.numpy().tolist(), strict=True))


# Properties


@pytest.mark.parametrize("number", range(20))
def test_blocks_are_those_of_the_walk_over_lines(number):
    random = np.random.default_rng(number)
    line_lengths = random.integers(1, random.integers(2, 14), size=random.integers(0, 60)).tolist()
    block_size = int(random.integers(4, 20))
    assert ranges(line_lengths, block_size) == reference.complete_doc_blocks(line_lengths, block_size)


def test_crops_stay_inside_their_lines_and_never_use_the_last_start():
    line_lengths = tf.constant([4, 12, 7, 1, 8], tf.int32)
    ids = tf.concat([100 * line + tf.range(length) for line, length in enumerate(line_lengths.numpy())], 0)
    seen = set()
    for number in range(60):
        starts = preprocessors.draw_crops(line_lengths, 7, seed(number))
        cut, lengths = preprocessors.apply_crops(ids, line_lengths, starts, 7)
        assert lengths.numpy().tolist() == [4, 7, 7, 1, 7]
        rows = tf.RaggedTensor.from_row_lengths(cut, lengths).to_list()
        for line, (start, row) in enumerate(zip(starts.numpy().tolist(), rows, strict=True)):
            assert row == [100 * line + start + i for i in range(len(row))]
        seen.add(int(starts[1]))
        assert int(starts[4]) == 0  # one id too long: the last start is the only other one
    assert seen == set(range(5))


def test_blocks_of_documents(tokenizer):
    length = 16
    documents = [[5, 6, 20], [1, 9], [15]]
    rows = [
        {"ids": np.arange(4, 4 + sum(lines), dtype=np.int32), "line_lengths": np.int32(lines)} for lines in documents
    ]
    spec = {name: tf.TensorSpec([None], tf.int32) for name in rows[0]}
    dataset = tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)
    with seqio.map_seed_manager(5):
        blocks = [
            block["targets"].tolist()
            for block in preprocessors.blocks(dataset, {"targets": length}).as_numpy_iterator()
        ]
    assert all(block[0] == 1 and len(block) <= length for block in blocks)
    assert blocks[0] == [1, *range(4, 15)]
    assert len(blocks[1]) == length  # the line of 20, cropped
    assert blocks[2:] == [[1, *range(5, 14)], [1, *range(4, 19)]]


def test_a_length_must_be_given():
    dataset = tf.data.Dataset.from_tensors({"ids": [4], "line_lengths": [1]})
    with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS"):
        preprocessors.blocks(dataset, None)


def test_masked_positions_never_exceed_the_ceiling():
    for length in (1, 5, 20, 33, 64):
        sizes = {int(tf.reduce_sum(tf.cast(m.masked, tf.int32))) for m in (
            preprocessors.draw_masks(tf.constant(length), 50, seed(n), 0.15, 0.1, 0.1) for n in range(40)
        )}  # fmt: skip
        assert sizes <= {int(0.15 * length), int(0.15 * length) + 1}
        assert max(sizes) <= preprocessors.max_masked(length)


@pytest.mark.parametrize("lengths", [[64], [10, 54], [21, 21, 22], [7] * 9, [1] * 64])
def test_the_ceiling_holds_for_packed_rows(lengths):
    worst = sum(min(n, int(0.15 * n) + 1) for n in lengths)
    assert worst <= preprocessors.max_masked(sum(lengths), 0.15, len(lengths))


def test_truncation_keeps_eos_or_drops():
    dataset = tf.data.Dataset.from_tensor_slices(
        {"inputs": tf.ragged.constant([[1, 5, 6, 7, 2], [1, 5, 2]]), "targets": tf.ragged.constant([[8, 2], [8, 9, 2]])}
    ).map(lambda row: {name: tf.convert_to_tensor(value) for name, value in row.items()})
    lengths = {"inputs": 4, "targets": 3}
    cut = list(preprocessors.fit(dataset, lengths).as_numpy_iterator())
    assert [row["inputs"].tolist() for row in cut] == [[1, 5, 6, 2], [1, 5, 2]]
    kept = list(preprocessors.fit(dataset, lengths, "drop").as_numpy_iterator())
    assert [row["targets"].tolist() for row in kept] == [[8, 9, 2]]
    with gin.unlock_config():
        gin.bind_parameter("too_long_examples.choice", "drop")
    assert len(list(preprocessors.fit(dataset, lengths).as_numpy_iterator())) == 1
    gin.clear_config()
    assert len(list(preprocessors.fit(dataset, None).as_numpy_iterator())) == 2
    with pytest.raises(ValueError, match="too_long='skip'"):
        preprocessors.fit(dataset, lengths, "skip")


# Goldens


@pytest.mark.golden
def test_golden_blocks(pipeline):
    for case in pipeline["complete_doc"]:
        assert ranges(case["line_sizes"], case["block_size"]) == [tuple(b) for b in case["blocks"]], case["name"]


@pytest.mark.golden
def test_golden_crops(pipeline):
    for case in pipeline["random_crop"]["cases"]:
        ids, lengths = tf.range(case["length"]), tf.constant([case["length"]])
        cut, kept = preprocessors.apply_crops(ids, lengths, tf.constant([case["start"]]), case["limit"])
        assert kept.numpy().tolist() == [case["kept"]]
        assert cut.numpy().tolist() == list(range(case["start"], case["start"] + case["kept"]))


@pytest.mark.golden
def test_golden_masks_given_the_draws(masking):
    settings = masking["mlm"]["exact"]["settings"]
    for case in masking["mlm"]["exact"]["cases"]:
        drawn = reference.mask_draws(
            len(case["item"]),
            settings["mask_prob"],
            settings["leave_unmasked_prob"],
            settings["random_token_prob"],
            settings["vocab_size"],
            np.random.RandomState(case["numpy_seed"]),
        )
        tensors = preprocessors.MaskDraws(
            tf.constant(drawn.masked),
            tf.constant(drawn.kept),
            tf.constant(drawn.randomised),
            tf.constant(drawn.random_ids, tf.int32),
        )
        tokens = tf.constant(swap_ids(case["item"]), tf.int32)
        inputs, targets = preprocessors.apply_masks(tokens, tensors, settings["mask_symbol_id"])
        assert swap_ids(inputs.numpy()).tolist() == case["masked_input"]
        assert swap_ids(targets.numpy()).tolist() == case["target"]


@pytest.mark.golden
def test_golden_mask_statistics(masking):
    expected, tolerance = masking["mlm"]["measured"], masking["mlm"]["tolerance"]
    s = masking["mlm"]["settings"]
    length, items = s["length"], s["items"]

    def draw(number):
        return preprocessors.draw_masks(
            tf.constant(length),
            s["vocab_size"],
            tf.stack([number, 11]),
            s["mask_prob"],
            s["leave_unmasked_prob"],
            s["random_token_prob"],
        )

    drawn = tf.data.Dataset.range(items).map(draw, tf.data.AUTOTUNE).batch(items)
    masked, kept, randomised, random_ids = next(drawn.as_numpy_iterator())
    share = {
        "masked_fraction": masked.mean(),
        "unchanged_fraction_of_masked": kept.sum() / masked.sum(),
        "random_fraction_of_masked": randomised.sum() / masked.sum(),
        "mask_symbol_fraction_of_masked": 1 - (kept.sum() + randomised.sum()) / masked.sum(),
        "random_ids_sentinel_fraction": (random_ids >= s["mask_symbol_id"]).mean(),
    }
    for name, value in share.items():
        limit = tolerance.get(name, tolerance["split"])
        assert value == pytest.approx(expected[name], abs=limit), name
    for name, column in (("bos_masked_fraction", 0), ("eos_masked_fraction", -1)):
        assert masked[:, column].mean() == pytest.approx(s["mask_prob"], abs=4 * (0.15 * 0.85 / items) ** 0.5), name
    assert {str(n) for n in masked.sum(1)} == set(expected["masked_count_values"])
    assert random_ids.min() >= expected["random_ids_min"]
    assert random_ids.max() <= expected["random_ids_max"]
    assert random_ids.mean() == pytest.approx(expected["random_ids_mean"], rel=0.02)


@pytest.mark.golden
def test_golden_truncation(pipeline):
    for case in pipeline["truncate"]:
        source = tf.constant(swap_ids([0, *case["raw"]]))
        assert swap_ids(preprocessors.truncate(source, case["limit"]).numpy().tolist()) == case["source"]
        assert preprocessors.truncate(tf.constant(case["raw"]), case["limit"]).numpy().tolist() == case["target"]


def test_masking_uses_the_vocabulary_of_the_task(vocabulary_folder, tokenizer):
    features = {"targets": seqio.Feature(MetroVocabulary(vocabulary_folder))}
    block = np.array([1, *range(4, 103), 2], np.int32)
    dataset = tf.data.Dataset.from_tensors({"targets": block}).repeat(30)
    with seqio.map_seed_manager(1):
        rows = list(preprocessors.mask_tokens(dataset, features, rate=0.5, keep=0.0, randomise=0.0).as_numpy_iterator())
    for row in rows:
        masked = row["generator_targets"] != 0
        assert masked.sum() in (50, 51)
        assert (row["inputs"][masked] == tokenizer.mask_id).all()
        assert (row["inputs"][~masked] == block[~masked]).all()
        assert (row["generator_targets"][masked] == block[masked]).all()
        assert (row["targets"] == block).all()
    assert len({row["inputs"].tobytes() for row in rows}) == len(rows)
