"""Multiplications that scoring choices needs: what bounds every gain in the same arithmetic, whatever the code."""

from collections.abc import Sequence
from typing import NamedTuple

from metro_jax.inference import batching
from metro_jax.model.config import MetroConfig

Ids = Sequence[int]


class Ranked(NamedTuple):
    """One example as tokens: its input and its choices (end mark included)."""

    source: Ids
    choices: Sequence[Ids]


def encoding(config: MetroConfig, tokens: int, length: int) -> int:
    """Encoder, and the cross attention's keys and values, for tokens in rows of `length`."""
    d, layer = config.d_model, 4 * config.d_model + 2 * config.d_ff
    encoder = config.num_encoder_layers * (d * layer + 2 * length * d)
    return tokens * (encoder + config.num_decoder_layers * 2 * d * d)


def decoding(config: MetroConfig, tokens: int, length: int, source: int) -> int:
    """Decoder with its logits, for tokens in rows of `length` that attend to `source` tokens each."""
    d, layer = config.d_model, 6 * config.d_model + 2 * config.d_ff
    decoder = config.num_decoder_layers * (d * layer + 2 * (length + source) * d)
    return tokens * (decoder + config.vocab_size * d)


def repeated(config: MetroConfig, examples: Sequence[Ranked], batch: int) -> int:
    """The reference's procedure: the input once for every choice, batches in order, padded to their longest."""
    total = 0
    for start in range(0, len(examples), batch):
        group = examples[start : start + batch]
        rows = sum(len(example.choices) for example in group)
        source = max(len(example.source) for example in group)
        length = max(len(choice) for example in group for choice in example.choices)
        total += encoding(config, rows * source, source) + decoding(config, rows * length, length, source)
    return total


def shared(config: MetroConfig, examples: Sequence[Ranked]) -> int:
    """The least: every input once, what choices have in common once, and no padding."""
    total = 0
    for source, choices in examples:
        total += encoding(config, len(source), len(source))
        for _, tree in batching.grow(choices, config.decoder_start_token):
            total += decoding(config, len(tree.tokens), len(tree.tokens), len(source))
    return total
