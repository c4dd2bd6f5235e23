"""Pretraining blocks and masks, and fitting prompted examples into their lengths, as TensorFlow ops (spec 4.1, 4.2,
6.3).

Each random step is split in two: a function that draws from a stateless seed, and one that applies given draws, so that
the latter can be checked exactly. seqio hands out the seeds after it has repeated the records: every epoch has new
crops and masks, the same ones for the same seed, and the state of the iterator can be saved.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin
import tensorflow as tf

from metro_jax.data import draws
from metro_jax.text.ids import BOS, EOS, NUM_SPECIAL, PAD

Features = dict[str, tf.Tensor]

MASK_RATE = 0.15  # of the tokens (spec 4.2)
KEEP_RATE = 0.1  # of the masked positions stay as they are
RANDOM_RATE = 0.1  # of the masked positions get a random id


def max_masked(length: int, rate: float = MASK_RATE, max_segments: int = 1) -> int:
    """The largest number of masked positions in a row of `length`, over at most `max_segments` packed blocks.

    A block of n tokens has at most floor(rate n) + 1 masked positions, and the floors add up to at most floor(rate
    length).
    """
    return min(length, int(rate * length) + max_segments)


def feature_length(sequence_length: Mapping[str, int] | None, feature: str) -> int:
    """The length asked for a feature. Raises ValueError when none is given."""
    if not sequence_length or sequence_length.get(feature) is None:
        raise ValueError(
            f"no length is given for the feature {feature!r} (got {sequence_length}); blocks are built to it: "
            "set TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 512} or the like"
        )
    return sequence_length[feature]


# Blocks (spec 4.1) ---------------------------------------------------------------------------------------------------


def draw_crops(line_lengths: tf.Tensor, limit: int, seed: tf.Tensor) -> tf.Tensor:
    """Where the crop of each line begins: uniform on [0, length - limit) for longer lines, else 0."""
    excess = tf.maximum(line_lengths - limit, 0)
    uniform = draws.uniform(tf.shape(line_lengths), seed)
    return tf.cast(uniform * tf.cast(excess, tf.float64), line_lengths.dtype)


def apply_crops(ids: tf.Tensor, line_lengths: tf.Tensor, starts: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts every line to `limit` ids from its start on; returns the ids and the new line lengths."""
    begins = tf.cumsum(line_lengths, exclusive=True)
    position = tf.range(tf.size(ids), dtype=line_lengths.dtype) - tf.repeat(begins + starts, line_lengths)
    return tf.boolean_mask(ids, (position >= 0) & (position < limit)), tf.minimum(line_lengths, limit)


def complete_doc_blocks(line_lengths: tf.Tensor, block_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Token ranges [starts, ends) of blocks of whole lines that never cross a separator (a line of length 1).

    A line longer than `block_size` makes a block of its own. The loop runs once per block, not once per line.
    """
    line_lengths = tf.cast(line_lengths, tf.int32)
    count = tf.size(line_lengths)
    before = tf.concat([[0], tf.cumsum(line_lengths)], 0)  # tokens before line i
    line = tf.range(count + 1)
    separators = tf.boolean_mask(line[:-1], line_lengths == 1)
    content = tf.boolean_mask(line[:-1], line_lengths != 1)
    next_separator = _first_at_or_after(separators, line, count)
    next_content = _first_at_or_after(content, line, count)
    fits = tf.searchsorted(before, before + block_size, side="right") - 1
    stop = tf.minimum(tf.maximum(fits, line + 1), next_separator)  # the line after the block that begins with line i

    def step(begin: tf.Tensor, blocks: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return tf.gather(next_content, stop[begin]), blocks.write(blocks.size(), begin)

    blocks = tf.TensorArray(tf.int32, size=0, dynamic_size=True, element_shape=[])
    _, blocks = tf.while_loop(lambda begin, _: begin < count, step, (next_content[0], blocks))
    first_lines = blocks.stack()
    return tf.gather(before, first_lines), tf.gather(before, tf.gather(stop, first_lines))


def _first_at_or_after(sorted_values: tf.Tensor, queries: tf.Tensor, default: tf.Tensor) -> tf.Tensor:
    return tf.gather(tf.concat([sorted_values, [default]], 0), tf.searchsorted(sorted_values, queries, side="left"))


def _document_blocks(document: Features, seed: tf.Tensor, length: int) -> Features:
    ids, line_lengths = document["ids"], document["line_lengths"]
    starts = draw_crops(line_lengths, length - 1, seed)
    ids, line_lengths = apply_crops(ids, line_lengths, starts, length - 1)
    begins, ends = complete_doc_blocks(line_lengths, length - 1)
    blocks = tf.gather(ids, tf.ragged.range(begins, ends))
    blocks = tf.concat([tf.fill([blocks.nrows(), 1], tf.constant(BOS, tf.int32)), blocks], 1)
    return {"targets": blocks.to_tensor(PAD, shape=[None, length]), "length": ends - begins + 1}


def blocks(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None, feature: str = "targets"
) -> tf.data.Dataset:
    """Documents to blocks of at most `sequence_length[feature]` ids that begin with `<s>`, in `targets` (spec 4.1).

    Lines that are too long are cropped at random, in every split: the shapes are static.
    """
    length = feature_length(sequence_length, feature)
    build = functools.partial(_document_blocks, length=length)
    dataset = draws.map_with_seed(dataset, build).unbatch()
    return dataset.map(lambda block: {"targets": block["targets"][: block["length"]]}, tf.data.AUTOTUNE)


# Masks (spec 4.2) ----------------------------------------------------------------------------------------------------


class MaskDraws(NamedTuple):
    """The random part of masking n tokens; every field has shape [n]."""

    masked: tf.Tensor  # bool: is predicted by the generator
    kept: tf.Tensor  # bool: masked, but left as it is
    randomised: tf.Tensor  # bool: masked, and replaced by a random id
    random_ids: tf.Tensor  # int32, used where randomised


def draw_masks(
    length: tf.Tensor, vocab_size: int, seed: tf.Tensor, rate: float, keep: float, randomise: float
) -> MaskDraws:
    """floor(rate n + U) masked positions; of them `keep` stay, `randomise` get a uniform id from 4 to V - 1."""
    seeds = draws.split(seed, 4)
    count = draws.stochastic_floor(rate * tf.cast(length, tf.float64), seeds[0])
    masked = draws.positions(length, count, seeds[1])
    shape = tf.reshape(length, [1])
    fate = draws.uniform(shape, seeds[2])
    kept = masked & (fate < keep)
    randomised = masked & (fate >= keep) & (fate < keep + randomise)
    return MaskDraws(masked, kept, randomised, draws.uniform_ids(shape, seeds[3], NUM_SPECIAL, vocab_size))


def apply_masks(tokens: tf.Tensor, drawn: MaskDraws, mask_id: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The masked sequence, and the original ids at masked positions with pad elsewhere."""
    inputs = tf.where(drawn.masked & tf.logical_not(drawn.kept), mask_id, tokens)
    inputs = tf.where(drawn.randomised, drawn.random_ids, inputs)
    return inputs, tf.where(drawn.masked, tokens, PAD)


def mask_tokens(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, Any],
    rate: float = MASK_RATE,
    keep: float = KEEP_RATE,
    randomise: float = RANDOM_RATE,
) -> tf.data.Dataset:
    """Adds `inputs` (masked) and `generator_targets` to blocks in `targets`; `<s>` and eos can be masked (spec 4.2)."""
    vocabulary = output_features["targets"].vocabulary
    vocab_size, mask_id = vocabulary.vocab_size, vocabulary.mask_id

    def mask(block: Features, seed: tf.Tensor) -> Features:
        tokens = block["targets"]
        drawn = draw_masks(tf.size(tokens), vocab_size, seed, rate, keep, randomise)
        inputs, generator_targets = apply_masks(tokens, drawn, mask_id)
        return {"inputs": inputs, "targets": tokens, "generator_targets": generator_targets}

    return draws.map_with_seed(dataset, mask)


# Prompted and ranked examples (spec 6.3) -----------------------------------------------------------------------------


def truncate(ids: tf.Tensor, limit: int) -> tf.Tensor:
    """Cuts to `limit` ids, the last of them eos."""
    return tf.cond(tf.size(ids) > limit, lambda: tf.concat([ids[: limit - 1], [EOS]], 0), lambda: ids)


@gin.configurable(module="metro_jax.tasks")  # type: ignore[call-arg]
def too_long_examples(choice: str = "truncate") -> str:
    """What becomes of prompted examples that are too long: "truncate" or "drop" (gin: `too_long_examples.choice`).

    How many there are, `metro-jax data show TASK --stats` says.
    """
    return choice


def fit(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None, too_long: str | None = None
) -> tf.data.Dataset:
    """Brings `inputs` and `targets` to their lengths: too long examples are cut before their eos, or dropped.

    Args:
      too_long: "truncate" or "drop"; None asks `too_long_examples()`.
    """
    too_long = too_long_examples() if too_long is None else too_long
    if too_long not in ("truncate", "drop"):
        raise ValueError(f"too_long={too_long!r}: choose 'truncate' or 'drop'")
    limits = {name: length for name, length in (sequence_length or {}).items() if length is not None}

    def fits(example: Features) -> tf.Tensor:
        within = [tf.size(example[name]) <= limit for name, limit in limits.items()]
        return tf.reduce_all(tf.stack(within)) if within else tf.constant(True)

    def cut(example: Features) -> Features:
        return example | {name: truncate(example[name], limit) for name, limit in limits.items()}

    return dataset.filter(fits) if too_long == "drop" else dataset.map(cut, tf.data.AUTOTUNE)
