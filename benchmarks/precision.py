"""What bfloat16 and int8 change: differences of logits, and how many greedy tokens stay the same.

python benchmarks/precision.py                              # random weights of the base++ shape
python benchmarks/precision.py --model quickstart_run/model # a model of yours
"""

import argparse
from typing import Any

import generation
import jax
import models
import numpy as np
import rounds

from metro_jax.inference import MetroT0
from metro_jax.model.config import MetroConfig


def load(arguments: argparse.Namespace) -> tuple[MetroConfig, Any]:
    """Configuration and parameters of the model to look at."""
    if arguments.model:
        model = MetroT0.from_pretrained(arguments.model)
        return model.config, jax.tree.map(np.asarray, model.params)
    config = models.SHAPES[arguments.shape](padding="hub")
    return config, models.random_params(config, 0)


def main() -> None:
    arguments = parse()
    config, params = load(arguments)
    tokens = models.sources(config, arguments.rows, arguments.source, 0)
    print(rounds.machine("jax"))
    exact = models.weights(config, params)
    ids = generation.ours(config, exact, tokens, arguments.new)()
    reference = generation.logits(config, exact, tokens, ids[:, :-1])
    del exact
    print(
        f"{arguments.model or arguments.shape}: {arguments.rows} rows, source {arguments.source}, {arguments.new} new"
    )
    for name, dtype, int8 in (("bfloat16", "bfloat16", False), ("int8", "float32", True)):
        other = config.replace(dtype=dtype)
        weights = models.weights(other, params, int8=int8)
        found = generation.logits(other, weights, tokens, ids[:, :-1])
        off = np.abs(found - reference)
        same_next = (found.argmax(-1) == reference.argmax(-1)).mean()
        same = (generation.ours(other, weights, tokens, arguments.new)() == ids).mean()
        print(
            f"{name:9} logits off by {off.mean():.1e} (mean) and {off.max():.1e} (largest), their std is "
            f"{reference.std():.2f}; next token equal {same_next:.1%}, greedy tokens equal {same:.1%}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = models.SHAPES
    parser.add_argument("--shape", choices=shapes, default="base_pp", help="random weights (default: %(default)s)")
    parser.add_argument("--model", metavar="FOLDER", help="a Hub-format folder instead of random weights")
    parser.add_argument("--rows", type=int, default=8, help="random sources (default: %(default)s)")
    parser.add_argument("--source", type=int, default=128, help="tokens of each (default: %(default)s)")
    parser.add_argument("--new", type=int, default=32, help="tokens to generate (default: %(default)s)")
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.source, arguments.new) < 1:
        parser.error("--rows, --source and --new must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
