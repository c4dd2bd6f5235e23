"""Prompts with their answers, held in memory: a table of a few thousand rows trains without files and TensorFlow.

What exceeds memory, is mixed from several tasks or is to be resumed at a position goes through seqio (`utils`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from metro_jax.decoding import bucket_length
from metro_jax.text.ids import EOS, PAD
from metro_jax.text.tokenizer import MetroTokenizer

MAX_LENGTH = 512  # tokens kept of a prompt and of an answer (spec 6.3)


class Pairs(NamedTuple):
    """Encoded rows, and how many of each side were cut."""

    inputs: list[list[int]]
    targets: list[list[int]]
    cut_inputs: int
    cut_targets: int


def encode_pairs(
    rows: Sequence[tuple[str, str]],
    tokenizer: MetroTokenizer,
    max_input: int = MAX_LENGTH,
    max_target: int = MAX_LENGTH,
) -> Pairs:
    """Ids of (prompt, answer) rows as finetuning has them: whitespace collapsed, `<s>` before the prompt (spec 6.1).

    Args:
        max_input, max_target: longer ones are cut before their end mark (spec 6.3).

    Raises:
        ValueError: no rows, or one whose prompt or answer is empty.
    """
    if not rows:
        raise ValueError("there are no rows: give at least one (prompt, answer)")
    texts = [[" ".join(text.split()) for text in row] for row in rows]
    for number, (prompt, answer) in enumerate(texts):
        if not prompt or not answer:
            empty = "answer" if prompt else "prompt"
            raise ValueError(f"row {number}, {rows[number]!r}, has an empty {empty}: leave it out")
    inputs = tokenizer.training_ids_batch([prompt for prompt, _ in texts])
    targets = tokenizer.training_ids_batch([answer for _, answer in texts], bos=False)
    return Pairs(
        [_cut(ids, max_input) for ids in inputs],
        [_cut(ids, max_target) for ids in targets],
        sum(len(ids) > max_input for ids in inputs),
        sum(len(ids) > max_target for ids in targets),
    )


def pair_batches(
    pairs: Pairs, batch_size: int, decoder_start: int = EOS, seed: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of one shape, as `EncoderDecoderModel` takes them; every epoch has an order of its own.

    An epoch's last rows share a batch with the first of the next one, so that each row comes once per epoch.

    Args:
        decoder_start: first decoder input, a metro_jax id: the configuration's `decoder_start_token`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    widths = [bucket_length(max(map(len, side))) for side in (pairs.inputs, pairs.targets)]
    order = _orders(len(pairs.inputs), seed)
    while True:
        numbers = [next(order) for _ in range(batch_size)]
        yield _batch([pairs.inputs[n] for n in numbers], [pairs.targets[n] for n in numbers], widths, decoder_start)


def _cut(ids: list[int], limit: int) -> list[int]:
    return ids if len(ids) <= limit else [*ids[: limit - 1], EOS]


def _orders(count: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng((seed, epoch)).permutation(count).tolist()
        epoch += 1


def _batch(
    inputs: list[list[int]], targets: list[list[int]], widths: list[int], decoder_start: int
) -> dict[str, np.ndarray]:
    source, target = (np.full((len(inputs), width), PAD, np.int32) for width in widths)
    for row, (ids, labels) in enumerate(zip(inputs, targets, strict=True)):
        source[row, : len(ids)], target[row, : len(labels)] = ids, labels
    shifted = np.concatenate([np.full((len(target), 1), decoder_start, np.int32), target[:, :-1]], axis=1)
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.where(target == PAD, PAD, shifted),
        "decoder_target_tokens": target,
        "decoder_loss_weights": (target != PAD).astype(np.int32),
    }
