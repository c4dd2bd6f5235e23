"""What a model looks at and what it held likely: attention weights and token probabilities, with their pieces."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metro_jax.decoding import bucket_length
from metro_jax.inference.compilation import Program
from metro_jax.model import serving
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import check_length
from metro_jax.text.ids import PAD

if TYPE_CHECKING:
    from metro_jax.inference.metro import MetroT0


class Attention(NamedTuple):
    """Pieces of a text, `<s>` and `</s>` included, and how much each (row) takes from each (column): rows sum to 1."""

    pieces: list[str]
    weights: Float[np.ndarray, "layers heads tokens tokens"]


class TokenChoices(NamedTuple):
    """What the model held likely at each place of a target, the most likely first.

    Args:
        pieces: of the target, its end mark included.
        probabilities: of these.
        likely, likely_probabilities: per place, as many as were asked for.
    """

    pieces: list[str]
    probabilities: list[float]
    likely: list[list[str]]
    likely_probabilities: list[list[float]]


def encoder_attention(model: "MetroT0", text: str) -> Attention:
    """The weights of every layer and head of the encoder's self attention.

    Raises:
        ValueError: a text longer than the model's positions.
    """
    ids = _encode(model, text, "the text")
    tokens = np.full((1, bucket_length(len(ids), maximum=model.config.max_length)), PAD, np.int32)
    tokens[0, : len(ids)] = ids
    weights = _attention(model._weights, *map(model._replicate, (tokens, tokens != PAD)), config=model.config)
    pieces = [model.tokenizer.id_to_piece(token) for token in ids]
    return Attention(pieces, np.asarray(weights)[:, 0, :, : len(ids), : len(ids)])


def token_choices(model: "MetroT0", text: str, target: str, count: int = 5) -> TokenChoices:
    """The probabilities of the tokens of a target (an answer, say), and of the `count` likeliest at each place.

    Raises:
        ValueError: a text or target longer than the model's positions, a count that is not 1 to the vocabulary's size.
    """
    if not 1 <= count <= model.config.vocab_size:
        raise ValueError(f"count={count} must lie between 1 and the {model.config.vocab_size} pieces of the vocabulary")
    source, labels = _encode(model, text, "the text"), _encode(model, target, "the target")[1:]
    inputs = jnp.asarray([[model.config.decoder_start_token, *labels[:-1]]])
    logits = model.logits(jnp.asarray([source]), inputs)
    probabilities = np.asarray(jax.nn.softmax(logits[0], axis=-1))
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :count]
    name = model.tokenizer.id_to_piece
    return TokenChoices(
        pieces=[name(token) for token in labels],
        probabilities=[float(row[token]) for row, token in zip(probabilities, labels, strict=True)],
        likely=[[name(int(token)) for token in row] for row in order],
        likely_probabilities=np.take_along_axis(probabilities, order, axis=-1).tolist(),
    )


def _encode(model: "MetroT0", text: str, what: str) -> list[int]:
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r}: give one string")
    ids = model.tokenizer.encode(text)
    check_length(model.config, len(ids), what)
    return ids


def _weights_seen(weights: Any, tokens: Array, mask: Array, *, config: MetroConfig) -> Array:
    seen: list[Array] = []
    serving.encode(weights, config, tokens, mask, seen)
    return jnp.stack(seen)


_attention = Program("attention", _weights_seen, ("config",))
