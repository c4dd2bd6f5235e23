"""What runs on the device: arrays of ids in, arrays out, compiled per shape. `metro.py` puts strings around it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metro_jax.decoding import Decoded, Options, decode
from metro_jax.inference.compilation import Program
from metro_jax.model import serving
from metro_jax.model.cache import decode_step, init_cache, reorder
from metro_jax.model.config import PAD_POSITION, MetroConfig
from metro_jax.model.network import PAD, check_length, position_rows


class Ranking(NamedTuple):
    """Scores of one input's choices (sums of log-probabilities) and the index of the best, the first of equals."""

    scores: list[float]
    best: int


class TokenScores(NamedTuple):
    """Pieces of a target, its end mark included, and the log-probability of each."""

    pieces: list[str]
    log_probabilities: list[float]

    @property
    def total(self) -> float:
        """Log-probability of the whole target."""
        return float(sum(self.log_probabilities))


class Trees(NamedTuple):
    """Targets of each row as a tree of decoder inputs: what they have in common is computed once.

    Args:
        tokens: decoder input of every node, the start token first, pad where there is none.
        depth: of every node, the start token's being 0.
        ancestors: [row, node, other]: the other is on the path to the node, or is the node itself.
        parents, labels: of every scored token the node that predicts it, and the token; pad labels score 0.
    """

    tokens: Int[Array, "rows nodes"]
    depth: Int[Array, "rows nodes"]
    ancestors: Bool[Array, "rows nodes nodes"]
    parents: Int[Array, "rows labels"]
    labels: Int[Array, "rows labels"]


def _generate(
    weights: Any,
    tokens: Int[Array, "rows source"],
    mask: Bool[Array, "rows source"],
    limit: Int[Array, ""],
    rng: Array,
    row_seeds: Int[Array, "rows"],
    *,
    config: MetroConfig,
    max_length: int,
    options: Options,
) -> Decoded:
    encoded = serving.encode(weights, config, tokens, mask)
    return decode(
        lambda last, cache: decode_step(weights, config, last, cache),
        init_cache(weights, config, encoded, mask, max_length),
        tokens.shape[0],
        max_length=max_length,
        options=options,
        limit=limit,
        start_token=config.decoder_start_token,
        rng=rng,
        row_seeds=row_seeds,
        expand=reorder,  # beams get rows of the past of their own and share what the source gave
        reorder=reorder,
    )


def _score(weights: Any, tokens: Array, mask: Array, trees: Trees, *, config: MetroConfig) -> Float[Array, "rows _"]:
    """As `_score_and_compare`, the log-probabilities alone."""
    return _score_and_compare(weights, tokens, mask, trees, config=config)[0]


def _score_and_compare(
    weights: Any,
    tokens: Int[Array, "rows source"],
    mask: Bool[Array, "rows source"],
    trees: Trees,
    *,
    config: MetroConfig,
) -> tuple[Float[Array, "rows labels"], Bool[Array, "rows labels"]]:
    """Log-probability of every label, and whether no token is more probable there."""
    encoded = serving.encode(weights, config, tokens, mask)
    rows = jnp.where(trees.tokens != PAD, trees.depth + PAD_POSITION + 1, PAD_POSITION)
    hidden = serving.decode(weights, config, trees.tokens, rows, trees.ancestors, encoded, mask)
    logits = serving.project(weights["token_embedding"], hidden)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    row = jnp.arange(len(tokens))[:, None]
    found = logits[row, trees.parents, trees.labels]
    scores = jnp.where(trees.labels != PAD, found - normaliser[row, trees.parents], 0.0)
    return scores, found >= jnp.max(logits, axis=-1)[row, trees.parents]


def _logits(
    weights: Any, source: Array, target: Array, mask: Array, target_mask: Array, *, config: MetroConfig
) -> Array:
    check_length(config, target.shape[1], "the decoder input")
    encoded = serving.encode(weights, config, source, mask)
    visible = mask if config.padding == "hub" else mask & (source != PAD)
    causal = jnp.tril(jnp.ones((1, target.shape[1], target.shape[1]), bool))
    keys = (target != PAD) & target_mask
    rows = position_rows(target)
    hidden = serving.decode(weights, config, target, rows, causal & keys[:, None, :], encoded, visible)
    return serving.project(weights["token_embedding"], hidden)


def _encode(weights: Any, tokens: Array, mask: Array, *, config: MetroConfig) -> Array:
    return serving.encode(weights, config, tokens, mask).astype(jnp.float32)


generate_tokens = Program("generation", _generate, ("config", "max_length", "options"))
score_trees = Program("scoring", _score, ("config",))
score_and_compare_trees = Program("scoring", _score_and_compare, ("config",))
logits = Program("logits", _logits, ("config",))
encode = Program("encoding", _encode, ("config",))
