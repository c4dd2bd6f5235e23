"""Probabilities of continuations, and whether greedy decoding would write them: what evaluation harnesses ask for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from metro_jax.inference import batching, engine
from metro_jax.inference.metro import MetroT0
from metro_jax.model.network import check_length


class Likelihood(NamedTuple):
    """Log-probability of a continuation, and whether greedy decoding writes it (of equals, any counts as written)."""

    log_probability: float
    greedy: bool


def likelihoods(
    model: MetroT0,
    texts: Sequence[str],
    continuations: Sequence[Sequence[str]],
    *,
    end: bool = True,
    progress: bool | None = None,
) -> list[list[Likelihood]]:
    """The likelihood of each continuation of each text, nothing cut off. Each text is encoded once.

    Args:
        end: the end mark belongs to a continuation, as in the evaluation of T0 (spec 8.1).

    Raises:
        ValueError: a text without continuations, one longer than the model's positions.
    """
    sources = model.tokenizer.encode_batch(texts)
    labels = []
    for n, (source, own) in enumerate(zip(sources, continuations, strict=True)):
        if not own:
            raise ValueError(f"continuations[{n}] is empty: there is nothing to score")
        labels.append([ids[1:] if end else ids[1:-1] for ids in model.tokenizer.encode_batch(own)])
        check_length(model.config, len(source), f"texts[{n}]")
        for m, label in enumerate(labels[-1]):
            if not label:
                raise ValueError(f"continuations[{n}][{m}] is empty: without the end mark nothing of it can be scored")
            check_length(model.config, len(label), f"continuations[{n}][{m}]")
    config = model.config
    parts = [(n, *part) for n, row in enumerate(labels) for part in batching.grow(row, config.decoder_start_token)]
    buckets = [batching.tree_bucket([labels[n][number] for number in numbers]) for n, numbers, _ in parts]
    # An input whose targets are too many for a tree comes several times.
    made = model._scoring_batches([sources[n] for n, *_ in parts], buckets)
    found: list[list[Any]] = [[None] * len(row) for row in labels]
    for rows, tokens, bucket in batching.shown(made, len(parts), "scoring", progress):
        trees = batching.pack([parts[row][2] for row in rows], len(tokens), bucket)
        placed = jax.tree.map(model._place, trees)
        scored = engine.score_and_compare_trees(model._weights, *model._source(tokens), placed, config=config)
        scores, likeliest = np.asarray(scored[0], np.float32), np.asarray(scored[1])
        for i, row in enumerate(rows):
            n, numbers, tree = parts[row]
            for number, (begin, end_) in zip(numbers, tree.spans, strict=True):
                total, greedy = scores[i, begin:end_].sum(), likeliest[i, begin:end_].all()
                found[n][number] = Likelihood(float(total), bool(greedy))
    return found
