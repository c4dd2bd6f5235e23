"""Greedy generation beside PyTorch, in one run: the same weights, the same tokens, interleaved rounds.

    python benchmarks/generation.py --shape base_pp --batch 1 8
    python benchmarks/generation.py --shape base_pp --batch 1 8 64 --dtype bfloat16        # on a GPU machine

The peer is transformers' `generate` on BART of the same sizes, which is METRO without the relative bias; ours runs with
that bias at zero and carries its cost. Weights are random. Before anything is timed both sides must agree on the
logits. Both read `--source` tokens per row and write exactly `--new`. Works from the repository
root with nothing installed but jax, flax, torch and transformers: PYTHONPATH=. python benchmarks/generation.py
"""

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs its share of the same GPU

import bart_peer
import jax
import jax.numpy as jnp
import numpy as np
import rounds

from metro_jax.decoding import Greedy
from metro_jax.inference import engine
from metro_jax.inference.compilation import keep_compiled_programs
from metro_jax.model import serving
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import EncoderDecoder, init_params

SHAPES: dict[str, Callable[..., MetroConfig]] = {
    "base": MetroConfig.base,
    "base_pp": MetroConfig.base_pp,
    "large_pp": MetroConfig.large_pp,
    "tiny": lambda **changes: MetroConfig(512, 64, 4, 128, 2, 2).replace(**changes),
}
# Largest difference of any logit, in standard deviations: rounding only; in bfloat16 that of 24 layers on both sides.
AGREE = {"float32": 1e-3, "bfloat16": 0.5}


def random_params(config: MetroConfig, seed: int) -> Any:
    """Initialised parameters scaled so that logits differ and repeat little; relative biases zero, as BART has none.

    The reference's initialisation makes nearly equal logits; a token matrix of std 0.05 spreads them.
    """
    params = jax.tree.map(np.array, init_params(config, seed))
    rng = np.random.default_rng(seed)
    params["token_embedding"] = rng.normal(scale=0.05, size=params["token_embedding"].shape).astype(np.float32)
    params["encoder"]["layers"]["relative_bias"][:] = 0
    return params


def sources(config: MetroConfig, batch: int, length: int, seed: int) -> np.ndarray:
    """Random tokens of full length: nothing to skip on either side."""
    rng = np.random.default_rng(seed)
    return rng.integers(4, config.vocab_size, (batch, length)).astype(np.int32)


def ours(config: MetroConfig, weights: Any, tokens: np.ndarray, new: int) -> Callable[[], np.ndarray]:
    """Our side: arrays on the host in, arrays on the host out."""
    seeds = np.arange(len(tokens))

    def work() -> np.ndarray:
        decoded = engine.generate_tokens(
            weights,
            jnp.asarray(tokens),
            jnp.asarray(tokens != bart_peer.PAD),
            jnp.asarray(new + 1),
            jax.random.key(0),
            jnp.asarray(seeds),
            config=config,
            max_length=new + 1,
            options=Greedy(),
        )
        return np.asarray(decoded.tokens)

    return work


def check(
    config: MetroConfig, params: Any, peer: Any, dtype: str, tokens: np.ndarray, ids: tuple[np.ndarray, np.ndarray]
) -> str:
    """Both sides are the same function: logits agree on what ours wrote; says by how much."""
    mine, theirs = ids
    model: Any = EncoderDecoder(config)
    rows, target = tokens[:2], mine[:2, :-1]
    a = np.asarray(model.apply({"params": params}, rows, target, rows != bart_peer.PAD))
    b = bart_peer.logits(peer, rows, target)
    off = float(np.abs(a - b).max() / b.std())
    same = float((mine == theirs).mean())
    if not off <= AGREE[dtype]:
        raise SystemExit(
            f"logits of the two sides differ by {off:.2g} standard deviations: not the same model, fix that"
        )
    return f"logits differ by at most {off:.1e} of their standard deviation, {same:.1%} of the tokens are equal"


def main() -> None:
    arguments = parse()
    config = SHAPES[arguments.shape](dtype=arguments.dtype, padding="hub")
    host = random_params(config, arguments.seed)
    params = jax.device_put(jax.tree.map(lambda p: jnp.asarray(p, config.dtype), host))
    both = arguments.sides == "both"
    print(rounds.machine("jax", "torch", "transformers"))
    print(f"device: {jax.devices()[0].device_kind} ({jax.default_backend()})")
    peer = bart_peer.bart(config, host, arguments.dtype) if both else None
    extra = {"cache_implementation": "static"} if arguments.static_peer else {}
    sizes = f"source {arguments.source}, {arguments.new} new, {arguments.rounds} rounds"
    print(f"{arguments.shape}, {arguments.dtype}, {sizes}")
    for batch in arguments.batch:
        tokens = sources(config, batch, arguments.source, arguments.seed)
        sides: dict[str, Callable[[], np.ndarray]] = {"metro_jax": ours(config, params, tokens, arguments.new)}
        if peer is not None:
            sides["torch"] = lambda tokens=tokens: bart_peer.generate(peer, tokens, arguments.new, **extra)
            ids = sides["metro_jax"](), sides["torch"]()
            if batch == arguments.batch[0]:
                print(check(config, params, peer, arguments.dtype, tokens, ids))
        times = rounds.interleave(sides, arguments.rounds)
        for name, values in times.items():
            median = statistics.median(values)
            speed, step = batch * arguments.new / median, median / arguments.new * 1e3
            print(f"batch {batch:4}  {name:10} {median:9.4f} s  {speed:10.1f} tokens/s  {step:8.2f} ms/step")
        if peer is not None:
            print(
                f"batch {batch:4}  metro_jax is {rounds.ratio(times['torch'], times['metro_jax'])} times as fast",
                flush=True,
            )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="base_pp", help="sizes of the model (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of both sides")
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
