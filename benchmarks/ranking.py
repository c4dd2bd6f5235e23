"""Ranking choices in one run: each input encoded once and its choices scored together, beside one choice per row.

    python benchmarks/ranking.py

Sides: `metro_jax` as `MetroT0.rank` does it; `ours per row`, the same code with the input repeated for every choice;
`torch`, transformers' BART of the same sizes and weights with one choice per row, as METRO-T0's published evaluation
computes it. Weights are random. All sides must agree on the scores before anything is timed.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import bart_peer
import bounds
import jax.numpy as jnp
import models
import numpy as np
import rounds

from metro_jax.inference import batching, engine
from metro_jax.model.config import MetroConfig

AGREE = 1e-2  # of sums of a few log-probabilities near -10, float32


def grouped(config: MetroConfig, weights: Any, tokens: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Scores [row, choice], each input once."""
    trees = []
    for row in choices:
        ((_, tree),) = batching.grow(row.tolist(), config.decoder_start_token)
        trees.append(tree)
    packed = engine.Trees(*map(jnp.asarray, batching.pack(trees, len(tokens))))
    arrays = map(jnp.asarray, (tokens, tokens != models.PAD))
    scores = np.asarray(engine.score_trees(weights, *arrays, packed, config=config))
    return np.asarray([[scores[i, a:b].sum() for a, b in tree.spans] for i, tree in enumerate(trees)])


def per_row(config: MetroConfig, weights: Any, tokens: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Scores [row, choice], the input repeated for every choice."""
    rows, count, length = choices.shape
    repeated = np.repeat(tokens, count, axis=0)
    return grouped(config, weights, repeated, choices.reshape(rows * count, 1, length)).reshape(rows, count)


def peer_scores(model: Any, config: MetroConfig, tokens: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Scores [row, choice] as the published evaluation computes them."""
    torch, _ = bart_peer.import_peer()
    rows, count, length = choices.shape
    labels = torch.from_numpy(choices.reshape(rows * count, length).astype(np.int64)).to(model.device)
    with torch.inference_mode():
        source = torch.from_numpy(np.repeat(tokens, count, axis=0).astype(np.int64)).to(model.device)
        start = torch.full_like(labels[:, :1], config.decoder_start_token)
        inputs = torch.cat([start, labels[:, :-1]], dim=1)
        found = model(input_ids=source, attention_mask=(source != models.PAD).long(), decoder_input_ids=inputs)
        log_probabilities = found.logits.float().log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        return log_probabilities.sum(-1).reshape(rows, count).cpu().numpy()


def main() -> None:
    arguments = parse()
    config = models.SHAPES[arguments.shape](padding="hub")
    host = models.random_params(config, arguments.seed)
    weights = models.weights(config, host)
    print(rounds.machine("jax", "torch", "transformers"))
    shape = arguments.examples, arguments.choices, arguments.length
    choices = np.random.default_rng(1).integers(4, config.vocab_size, shape).astype(np.int32)
    choices[..., -1] = bart_peer.EOS
    tokens = models.sources(config, arguments.examples, arguments.source, arguments.seed)
    sides: dict[str, Callable[[], np.ndarray]] = {
        "metro_jax": lambda: grouped(config, weights, tokens, choices),
        "ours per row": lambda: per_row(config, weights, tokens, choices),
    }
    if arguments.sides == "both":
        peer = bart_peer.bart(config, host, "float32")
        sides["torch"] = lambda: peer_scores(peer, config, tokens, choices)
    found = {name: work() for name, work in sides.items()}
    for name, scores in found.items():
        off = float(np.abs(scores - found["metro_jax"]).max())
        if not off <= AGREE:
            raise SystemExit(f"scores of {name} differ from metro_jax's by {off:.2g}: fix that first")
    print(
        f"{arguments.shape}, float32, {arguments.examples} examples, {arguments.choices} choices of {arguments.length} "
        f"tokens, source {arguments.source}, {arguments.rounds} rounds; scores equal to {AGREE:g}"
    )
    times = rounds.interleave(sides, arguments.rounds)
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:14} {median:9.4f} s  {arguments.examples / median:8.2f} examples/s")
    ranked = [bounds.Ranked(*pair) for pair in zip(tokens.tolist(), choices.tolist(), strict=True)]
    allowed = bounds.repeated(config, ranked, len(ranked)) / bounds.shared(config, ranked)
    print(f"the multiplications allow {allowed:.2f} times, if both sides multiply equally fast")
    for name in list(times)[1:]:
        print(f"metro_jax is {rounds.ratio(times[name], times['metro_jax'])} times as fast as {name}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = models.SHAPES
    parser.add_argument("--shape", choices=shapes, default="base_pp", help="sizes of the model (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=8, help="inputs (default: %(default)s)")
    parser.add_argument("--choices", type=int, default=4, help="choices per input (default: %(default)s)")
    parser.add_argument("--length", type=int, default=4, help="tokens per choice with its end mark (default: 4)")
    parser.add_argument("--source", type=int, default=256, help="source tokens per row (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and tokens (default: %(default)s)")
    parser.add_argument("--sides", choices=("both", "ours"), default="both", help="'ours' needs no torch")
    arguments = parser.parse_args()
    counts = arguments.examples, arguments.choices, arguments.length, arguments.source, arguments.rounds
    if min(counts) < 1:
        parser.error("--examples, --choices, --length, --source and --rounds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
