"""Fixed prompts, and what a checkpoint makes of them on this project's network."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metro_jax.convert.rules import flatten, nest
from metro_jax.convert.source import Source
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import EncoderDecoder
from metro_jax.text.ids import BOS, EOS, PAD
from metro_jax.text.tokenizer import MetroTokenizer

# One of each kind that the model was finetuned on: sentiment, entailment, question answering, summary, closed book.
TEXTS = (
    "Review: the lamp is lovely, but it broke after a week. Is this review positive or negative?",
    'Suppose that all birds can fly. Can we infer that "penguins can fly"? Yes, no, or maybe?',
    "Which of these is a planet: the moon, Mars, or the sun?",
    "Summarize in one sentence: The committee met on Monday. It talked for six hours, and agreed on nothing.",
    "What is the capital of France?",
)
NEW_TOKENS = 16
DECODED = 8  # length of the decoder's fixed input


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of both sides in metro_jax ids, and how to show ids."""

    texts: tuple[str, ...]
    tokens: np.ndarray
    mask: np.ndarray
    decoder_tokens: np.ndarray
    tokenizer: MetroTokenizer | None

    def piece(self, token: int) -> str:
        return str(token) if self.tokenizer is None else self.tokenizer.id_to_piece(token)

    def text(self, ids: list[int]) -> str:
        return " ".join(map(str, ids)) if self.tokenizer is None else self.tokenizer.decode(ids)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one side made of the prompts: hidden states of every layer, logits, and greedy texts."""

    states: dict[str, np.ndarray]  # "encoder", "decoder": [embedding and layers, prompt, position, width]
    logits: np.ndarray  # [prompt, position, vocabulary]
    generated: list[str]


def fixed_prompts(source: Source) -> Prompts:
    """The prompts as ids of the checkpoint's vocabulary; without one, ids drawn from a fixed seed."""
    config = source.config
    draw = np.random.default_rng(0)
    if source.vocabulary is not None:
        tokenizer = MetroTokenizer.from_pretrained(source.vocabulary)
        texts, rows = TEXTS, tokenizer.encode_batch(TEXTS, max_length=min(512, config.max_length))
    else:
        tokenizer = None
        lengths = [min(n, config.max_length) for n in (24, 17, 9, 30, 5)]
        rows = [[BOS, *draw.integers(3, config.vocab_size, n - 2).tolist(), EOS] for n in lengths]
        texts = tuple(f"ids {' '.join(map(str, row))}" for row in rows)
    tokens = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    length = min(DECODED, config.max_length)
    decoder = draw.integers(3, config.vocab_size, (len(rows), length)).astype(np.int32)
    decoder[:, 0] = config.decoder_start_token
    return Prompts(texts, tokens, tokens != PAD, decoder, tokenizer)


def run_network(source: Source, prompts: Prompts) -> Answers:
    """Reads the main model in float32 and runs it."""
    # How pads are hidden differs between the forms and not the model (spec 2.6); dropout is off.
    config = source.config.replace(padding="hub", dtype="float32", remat="none")
    params = nest(
        {
            name: jnp.asarray(np.asarray(leaf, np.float32))
            for name, leaf in flatten(source.params).items()
            if not name.startswith(("generator/", "rtd_head/"))
        }
    )
    encoder, decoder, logits = _forward(params, config, prompts.tokens, prompts.mask, prompts.decoder_tokens)
    encoded = encoder[-1]
    texts = greedy_texts(
        lambda written: np.asarray(_decode(params, config, written, encoded, prompts.mask)), config, prompts
    )
    return Answers({"encoder": np.asarray(encoder), "decoder": np.asarray(decoder)}, np.asarray(logits), texts)


@functools.partial(jax.jit, static_argnames="config")
def _forward(params: Any, config: MetroConfig, tokens: Any, mask: Any, decoder_tokens: Any) -> Any:
    model: Any = EncoderDecoder(config, collect=True)
    _, decoded, encoder, decoder = model.apply({"params": params}, tokens, decoder_tokens, mask, method="hidden_states")
    return encoder, decoder, model.apply({"params": params}, decoded, method="project")


@functools.partial(jax.jit, static_argnames="config")
def _decode(params: Any, config: MetroConfig, written: Any, encoded: Any, mask: Any) -> Any:
    model: Any = EncoderDecoder(config)
    hidden, _ = model.apply({"params": params}, written, encoded, mask[:, None, :], method="decode")
    return model.apply({"params": params}, hidden, method="project")


def greedy_texts(logits_of: Callable[[np.ndarray], np.ndarray], config: MetroConfig, prompts: Prompts) -> list[str]:
    """The most probable token, again and again; without a cache, so that any implementation can be asked the same.

    Args:
        logits_of: tokens written so far, padded to the full length -> logits of every position.
    """
    rows = len(prompts.tokens)
    written = np.full((rows, min(NEW_TOKENS + 1, config.max_length)), PAD, np.int32)
    written[:, 0] = config.decoder_start_token
    ended = np.zeros(rows, bool)
    for position in range(written.shape[1] - 1):
        following = logits_of(written)[:, position].argmax(axis=-1)
        written[:, position + 1] = np.where(ended, PAD, following)
        ended |= following == EOS
        if ended.all():
            break
    return [prompts.text([token for token in row[1:] if token not in (PAD, EOS)]) for row in written.tolist()]
