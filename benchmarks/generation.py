"""Greedy generation beside PyTorch, in one run: the same weights, the same tokens, interleaved rounds.

    python benchmarks/generation.py --shape base_pp --batch 1 8 --int8
    python benchmarks/generation.py --shape base_pp --batch 1 8 64 --dtype bfloat16        # on a GPU machine

The peer is transformers' `generate` on BART of the same sizes, which is METRO without the relative bias; ours runs with
that bias at zero and carries its cost. Weights are random. Before anything is timed both sides must agree on the
logits. Both read `--source` tokens per row and write exactly `--new`. Works from the repository root with nothing
installed but jax, flax, torch and transformers: PYTHONPATH=. python benchmarks/generation.py
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import bart_peer
import jax
import jax.numpy as jnp
import models
import numpy as np
import rounds

from metro_jax.decoding import Greedy
from metro_jax.inference import engine
from metro_jax.model.config import MetroConfig

# Largest difference of any logit, in standard deviations: rounding only; in bfloat16 that of 24 layers on both sides.
AGREE = {"float32": 1e-3, "bfloat16": 0.5}


def ours(config: MetroConfig, weights: Any, tokens: np.ndarray, new: int) -> Callable[[], np.ndarray]:
    """Our side: arrays on the host in, arrays on the host out."""
    seeds = np.arange(len(tokens))

    def work() -> np.ndarray:
        arrays = map(jnp.asarray, (tokens, tokens != models.PAD, new + 1))
        static = {"config": config, "max_length": new + 1, "options": Greedy()}
        decoded = engine.generate_tokens(weights, *arrays, jax.random.key(0), jnp.asarray(seeds), **static)
        return np.asarray(decoded.tokens)

    return work


def logits(config: MetroConfig, weights: Any, tokens: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float32 logits of our side."""
    arrays = map(jnp.asarray, (tokens, target, tokens != models.PAD, np.ones(target.shape, bool)))
    return np.asarray(engine.logits(weights, *arrays, config=config))


def check(a: np.ndarray, b: np.ndarray, dtype: str) -> str:
    """Both sides are the same function: logits agree; says by how much."""
    off = float(np.abs(a - b).max() / b.std())
    if not off <= AGREE[dtype]:
        raise SystemExit(
            f"logits of the two sides differ by {off:.2g} standard deviations: not the same model, fix that"
        )
    return f"logits of the two sides differ by at most {off:.1e} of their standard deviation"


def main() -> None:
    arguments = parse()
    config = models.SHAPES[arguments.shape](dtype=arguments.dtype, padding="hub")
    host = models.random_params(config, arguments.seed)
    print(rounds.machine("jax", "torch", "transformers"))
    print(f"device: {jax.devices()[0].device_kind} ({jax.default_backend()})")
    sizes = f"source {arguments.source}, {arguments.new} new, {arguments.rounds} rounds"
    print(f"{arguments.shape}, {arguments.dtype}, {sizes}", flush=True)
    peer = bart_peer.bart(config, host, arguments.dtype) if arguments.sides == "both" else None
    weights = {"metro_jax": models.weights(config, host)}
    if arguments.int8:
        weights["ours int8"] = models.weights(config, host, int8=True)
    del host
    extra = {"cache_implementation": "static"} if arguments.static_peer else {}
    for batch in arguments.batch:
        tokens = models.sources(config, batch, arguments.source, arguments.seed)
        sides: dict[str, Callable[[], np.ndarray]] = {
            name: ours(config, own, tokens, arguments.new) for name, own in weights.items()
        }
        if peer is not None:
            sides["torch"] = lambda tokens=tokens: bart_peer.generate(peer, tokens, arguments.new, **extra)
            if batch == arguments.batch[0]:
                rows, target = tokens[:2], sides["metro_jax"]()[:2, :-1]
                theirs = bart_peer.logits(peer, rows, target)
                print(check(logits(config, weights["metro_jax"], rows, target), theirs, arguments.dtype))
        ids = {name: work() for name, work in sides.items()}
        report(batch, arguments.new, rounds.interleave(sides, arguments.rounds), ids)


def report(batch: int, new: int, times: dict[str, list[float]], ids: dict[str, np.ndarray]) -> None:
    """Speeds of all sides, ratios to the peer (to our float32 as well), and how many tokens are the same."""
    for name, values in times.items():
        median = statistics.median(values)
        speed, step = batch * new / median, median / new * 1e3
        print(f"batch {batch:4}  {name:10} {median:9.4f} s  {speed:10.1f} tokens/s  {step:8.2f} ms/step")
    pairs = [("torch", "metro_jax"), ("torch", "ours int8"), ("metro_jax", "ours int8")]
    for slow, fast in pairs:
        if slow in times and fast in times:
            same = float((ids[slow] == ids[fast]).mean())
            faster = rounds.ratio(times[slow], times[fast])
            print(f"batch {batch:4}  {fast} is {faster} times as fast as {slow}; {same:.1%} of the tokens equal")
    print(end="", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = models.SHAPES
    parser.add_argument("--shape", choices=shapes, default="base_pp", help="sizes of the model (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of both sides")
    parser.add_argument("--int8", action="store_true", help="a third side: ours with int8 weights")
    parser.add_argument("--source", type=int, default=128, help="source tokens per row (default: %(default)s)")
    parser.add_argument("--new", type=int, default=32, help="tokens to generate per row (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and tokens (default: %(default)s)")
    parser.add_argument("--sides", choices=("both", "ours"), default="both", help="'ours' needs no torch")
    parser.add_argument(
        "--static-peer", action="store_true", help="peer with transformers' static cache, compiled on a GPU"
    )
    arguments = parser.parse_args()
    if min(*arguments.batch, arguments.source, arguments.new, arguments.rounds) < 1:
        parser.error("--batch, --source, --new and --rounds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
