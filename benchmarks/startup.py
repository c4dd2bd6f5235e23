"""From nothing to the first answer, in fresh processes: import, loading, compiling (cold and warm cache), answering.

    python benchmarks/startup.py --vocab FOLDER

Writes a model of random weights in the Hub's format (float16, as published) to a temporary folder, then starts Python
anew for every figure. FOLDER holds a vocabulary of the shape's size (sp.model, dict.txt).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import models
import rounds

from metro_jax.inference import MetroT0
from metro_jax.text.tokenizer import MetroTokenizer

IMPORT = """
import sys, time
start = time.perf_counter()
import metro_jax
taken = time.perf_counter() - start
heavy = {"tensorflow", "torch", "seqio"} & set(sys.modules)
assert not heavy, heavy
print(taken)
"""
ANSWER = """
import json, sys, time
start = time.perf_counter()
import metro_jax
model = metro_jax.MetroT0.from_pretrained(sys.argv[1], quantize=sys.argv[2] or None)
loaded = time.perf_counter()
model.generate(["Is this review positive or negative? Review: the best cast iron skillet"], max_new_tokens=8)
first = time.perf_counter()
model.generate(["Is this review positive or negative? Review: the worst cast iron skillet"], max_new_tokens=8)
print(json.dumps([loaded - start, first - start, time.perf_counter() - first]))
"""


def fresh(code: str, *arguments: str, cache: str = "off") -> str:
    """Standard output of a new Python."""
    environment = {**os.environ, "METRO_JAX_CACHE": cache}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"a measured process failed:\n{done.stderr}")
    return done.stdout


def main() -> None:
    arguments = parse()
    config = models.SHAPES[arguments.shape](padding="hub")
    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab, lower=True)
    print(rounds.machine("jax"))
    imports = [float(fresh(IMPORT)) for _ in range(arguments.rounds)]
    print(f"import metro_jax: {statistics.median(imports):.3f} s (median of {arguments.rounds}; the aim is below 0.4)")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch, "model")
        model = MetroT0(config, models.random_params(config, 0), tokenizer)
        model.save_pretrained(folder, dtype="float16")
        del model
        for quantize in ("", "int8"):
            cache = str(pathlib.Path(scratch, f"cache{quantize}"))
            for state in ("cold", "warm"):
                loaded, first, second = json.loads(fresh(ANSWER, str(folder), quantize, cache=cache))
                what = f"{arguments.shape} {quantize or 'float32':8} {state} cache"
                print(f"{what}: loaded after {loaded:.1f} s, first answer after {first:.1f} s", end="")
                print(f", a second one takes {second:.2f} s", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = models.SHAPES
    parser.add_argument("--shape", choices=shapes, default="base_pp", help="sizes of the model (default: %(default)s)")
    parser.add_argument("--vocab", type=pathlib.Path, required=True, help="folder with sp.model and dict.txt")
    parser.add_argument("--rounds", type=int, default=5, help="imports timed (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
