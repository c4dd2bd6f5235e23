"""Time and peak memory of `metro-jax convert` on a checkpoint of a published size, beside peers in the same run.

    python benchmarks/conversion.py
    python benchmarks/conversion.py --size base --torch-python /path/to/venv/bin/python

The checkpoint is made first: random float16 weights in a pytorch_model.bin of torch's zip format, the four names of the
token matrix sharing one storage. Every row is a process of its own, start-up included; its peak memory is what the
system counted (ru_maxrss), pages of mapped files among it. Peers, which convert nothing: a plain copy of the bytes,
and, where an interpreter with torch is given or this one has it, torch.load, a copy of every tensor, torch.save.
"""

import argparse
import importlib.util
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

SIZES = ("base", "base_pp", "large_pp")
# Started from nothing but the standard library: a child's peak begins with what its parent had when it forked.
MAKE = """
import sys, json, pathlib
import numpy as np
from metro_jax.convert.hub import HUB_RULES
from metro_jax.convert.hub_config import metro_config_to_hub
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.rules import sizes_of
from metro_jax.convert.torch_writer import write_torch
from metro_jax.model.config import MetroConfig

folder, config = pathlib.Path(sys.argv[1]), getattr(MetroConfig, sys.argv[2])()
draw, sizes, tensors = np.random.default_rng(0), sizes_of(config), {}

def lazy(shape):
    return LazyTensor(shape, np.float16, lambda: (draw.standard_normal(shape, np.float32) * 0.02).astype(np.float16), 0)

for rule in HUB_RULES:
    shape = rule.tensor_shape(sizes)
    if rule.layers:
        tensors |= {rule.name(i): lazy(shape) for i in range(sizes[rule.layers])}
    else:
        tensors |= dict.fromkeys(rule.names, lazy(shape))
write_torch(folder / "pytorch_model.bin", tensors)
(folder / "config.json").write_text(json.dumps(metro_config_to_hub(config)))
"""
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"
TORCH = """
import sys, torch
state = torch.load(sys.argv[1], weights_only=True)
torch.save({name: tensor.clone() for name, tensor in state.items()}, sys.argv[2])
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command; its output is shown only if it fails."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command[:4])} failed:\n{output.read().decode(errors='replace')[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit / 2**20


def rows(folder: pathlib.Path, torch_python: str | None) -> dict[str, list[str]]:
    """Name of each row to its command; `{out}` stands for a destination that is new every time."""
    weights = str(folder / "pytorch_model.bin")
    convert = [sys.executable, "-m", "metro_jax.cli", "convert"]
    commands = {"peer: copy of the bytes": [sys.executable, "-c", COPY, weights, "{out}"]}
    if torch_python:
        commands["peer: torch.load, clone, torch.save"] = [torch_python, "-c", TORCH, weights, "{out}"]
    ours = {
        ".bin to Hub folder": [str(folder), "{out}", "--to", "hub"],
        ".bin to Hub folder in float32": [str(folder), "{out}", "--to", "hub", "--dtype", "float32"],
        ".bin to metro_jax checkpoint": [str(folder), "{out}", "--to", "jax"],
        ".bin to fairseq .pt": [str(folder), "{out}.pt", "--to", "fairseq"],
        "metro_jax checkpoint to Hub folder": [str(folder / "jax"), "{out}", "--to", "hub"],
    }
    return commands | {name: [*convert, *arguments] for name, arguments in ours.items()}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base_pp", help="shape of the checkpoint (default base_pp)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all rows; medians are shown (default 3)")
    parser.add_argument("--folder", help="where the checkpoint and the results go for a while; default: the system's")
    parser.add_argument("--torch-python", metavar="PYTHON", help="an interpreter with torch, for that peer")
    arguments = parser.parse_args()
    torch_python = arguments.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = pathlib.Path(place) / "checkpoint"
        folder.mkdir()
        subprocess.run([sys.executable, "-c", MAKE, str(folder), arguments.size], check=True)
        size = (folder / "pytorch_model.bin").stat().st_size / 2**20
        commands = rows(folder, torch_python)
        measure([*commands[".bin to metro_jax checkpoint"][:-3], str(folder / "jax"), "--to", "jax"])  # the last source
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(arguments.rounds):
            for name, command in commands.items():
                out = pathlib.Path(place) / f"out{number}"
                results[name].append(measure([part.replace("{out}", str(out)) for part in command]))
                for made in pathlib.Path(place).glob(f"out{number}*"):
                    shutil.rmtree(made) if made.is_dir() else made.unlink()
    print(f"{arguments.size}, float16 pytorch_model.bin of {size:.0f} MiB, median of {arguments.rounds}:\n")
    print("| | seconds | peak memory, MiB | peak / checkpoint |\n|---|---|---|---|")
    for name, measured in results.items():
        seconds, peak = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"| {name} | {seconds:.1f} | {peak:.0f} | {peak / size:.2f} |")


if __name__ == "__main__":
    main()
