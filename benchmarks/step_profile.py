"""Where a training step's time goes on an accelerator, kernel by kernel.

    python benchmarks/step_profile.py --shape base --batch 32 --length 512 --dtype bfloat16

Times the Trainer's step as training_step.py does, then traces some steps with JAX's profiler and adds up the device's
own times by kernel, with the operation of the network that each comes from. Needs a GPU or TPU: on CPUs the trace has
no device.
"""

import argparse
import collections
import gzip
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
from training_step import add_sizes, build

from metro_jax.training.flops import peak_flops


def read_trace(folder: str) -> list[dict[str, Any]]:
    """The complete events on devices' streams, from the newest trace in a folder."""
    path = max(pathlib.Path(folder).rglob("*.trace.json.gz"), key=lambda p: p.stat().st_mtime)
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    streams = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in events
        if e.get("name") == "thread_name" and names.get(e["pid"], "").startswith("/device:")
    }
    kernels = {at for at, name in streams.items() if name.startswith(("Stream", "XLA Ops"))}
    return [e for e in events if e.get("ph") == "X" and (e["pid"], e["tid"]) in kernels]


def kernel_table(events: list[dict[str, Any]], steps: int, most: int) -> str:
    """The kernels that take longest: ms per step, runs per step, name, what it comes from."""
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    runs: collections.Counter[tuple[str, str]] = collections.Counter()
    for event in events:
        detail = event.get("args", {})
        key = event["name"], str(detail.get("tf_op") or detail.get("name") or detail.get("hlo_op") or "")
        total[key] += event["dur"] / 1e3
        runs[key] += 1
    if not events:
        return "no device in the trace: kernels are shown on GPUs and TPUs only"
    lines = [f"{sum(total.values()) / steps:9.2f} ms per step on the device, in {len(events) // steps} kernels"]
    for key in sorted(total, key=lambda k: -total[k])[:most]:
        lines.append(f"{total[key] / steps:9.2f} {runs[key] // steps:6d}  {key[0][:48]:48}  {key[1][-110:]}")
    return "\n".join(lines)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser)
    parser.add_argument("--steps", type=int, default=10, help="timed, after two that are not")
    parser.add_argument("--traced", type=int, default=3, help="steps in the trace")
    parser.add_argument("--most", type=int, default=40, help="kernels shown")
    arguments = parser.parse_args()
    trainer, batch, state = build(arguments)
    placed = trainer.partitioner.shard_batch(batch)
    began = time.perf_counter()
    for _ in range(2):
        state, metrics = trainer.train(state, placed)
        jax.block_until_ready(metrics)
    print(f"compiled, and two steps, in {time.perf_counter() - began:.1f} s")
    times = []
    for _ in range(arguments.steps):
        began = time.perf_counter()
        state, metrics = trainer.train(state, placed)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - began)
    seconds, peak = statistics.median(times), peak_flops(jax.devices()[0])
    rate = trainer.flops_per_step(batch) / seconds
    used = f", {100 * rate / (peak * len(jax.devices())):.1f} % of the bfloat16 peak" if peak else ""
    tokens = arguments.batch * arguments.length / seconds
    print(f"{seconds * 1e3:.1f} ms per step, {tokens:,.0f} tokens/s, {rate / 1e12:.1f} TFLOP/s{used}")
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(arguments.traced):
                state, metrics = trainer.train(state, placed)
            jax.block_until_ready((state, metrics))
        print(kernel_table(read_trace(folder), arguments.traced, arguments.most))


if __name__ == "__main__":
    main()
