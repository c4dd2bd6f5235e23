"""The table of docs/tpu_plan.md: every recipe on every machine, compiled one after another, kept as JSON, written out.

    python benchmarks/tpu_table.py --out plans                        (compiles what is missing, then prints the table)
    python benchmarks/tpu_table.py --out plans --only v4-128 --recipes metro_basepp_pretrain
    python benchmarks/tpu_table.py --out plans --table                (only prints what is there)
    python benchmarks/tpu_table.py --out plans --budgets tests/training/plan/budgets.json

Each is `metro-jax plan RECIPE --topology NAME --gin_file recipes/topologies/NAME.gin --json OUT/...` (for large++ with
NAME_large.gin) in a process of its own (needs libtpu, 213 MB). Stopped, it goes on where it was. With --budgets it
writes the measured memory and traffic to the file that the tests compare with.
"""

import argparse
import json
import pathlib
import subprocess
import sys

MACHINES = ("v5e-8", "v4-8", "v4-128", "v5p-64", "v6e-256")
PRETRAINING = ("metro_base_pretrain", "metro_basepp_pretrain", "metro_largepp_pretrain")
BASELINES = ("t5_base_pretrain", "t5_basepp_pretrain")
# T0+ and T0++ differ from T0 in their data alone: the step is the same program.
FINETUNING = ("metro_base_t0", "metro_basepp_t0", "metro_largepp_t0")
INFERENCE = ("v5e:1x1", "v4-8", "v6e:1x1")
GIB = 2**30


def jobs(only: list[str], recipes: list[str]) -> list[tuple[str, str, str]]:
    """(recipe, machine, step) in the order of the table."""
    training = [(r, m, "train") for m in MACHINES for r in (*PRETRAINING, *BASELINES, *FINETUNING)]
    inference = [(r, m, step) for m in INFERENCE for r in FINETUNING for step in ("generate", "rank")]
    return [job for job in training + inference if (not only or job[1] in only) and (not recipes or job[0] in recipes)]


def path_of(out: pathlib.Path, job: tuple[str, str, str]) -> pathlib.Path:
    """Where a job's JSON is kept."""
    return out / ("-".join(job).replace(":", "_") + ".json")


def compile_one(job: tuple[str, str, str], path: pathlib.Path, timeout: float) -> None:
    """Runs the command of one job."""
    recipe, machine, step = job
    command = [sys.executable, "-m", "metro_jax.cli", "plan", recipe, "--topology", machine, "--json", str(path)]
    if step == "train":
        size = "_large" if "largepp" in recipe else ""
        command += ["--gin_file", f"recipes/topologies/{machine.replace('-', '_')}{size}.gin"]
    else:
        command += ["--step", step]
    print(" ".join(command[3:]), file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        print(f"  not within {timeout:.0f} s", file=sys.stderr)
        return
    if done.returncode not in (0, 1):
        print("\n".join(done.stderr.splitlines()[-5:]), file=sys.stderr)


def row(job: tuple[str, str, str], data: dict) -> str:
    """One line of the table."""
    recipe, machine, step = job
    memory = data["memory"]
    mesh = " x ".join(str(size) for size in data["mesh"].values())
    peak = f"{memory['peak'] / GIB:.2f}" if memory.get("peak") else "?"
    fits = f"{peak} of {memory['limit'] / GIB:.2f}" + ("" if data["fits"] else " (too large)")
    cells = [recipe, machine, mesh, str(data["microbatches"]), fits, f"{data['model_flops_per_step']:.2e}"]
    if step != "train":
        cells = [recipe, machine, step, fits]
        return "| " + " | ".join(cells) + " |"
    sent = sum(c["sent_bytes_per_step"] for c in data.get("collectives", ()))
    made = data.get("estimate")
    cells.append(f"{sent / 1e9:.2f}" if "collectives" in data else "")
    if made:
        best, worst = made["step_seconds"]
        low, high = made["model_flops_utilisation"]
        days = made["days"]
        cells += [
            f"{1e3 * best:.0f} to {1e3 * worst:.0f}",
            f"{low:.0%} to {high:.0%}",
            f"{days[0]:.1f} to {days[1]:.1f}",
        ]
    else:
        cells += ["", "", ""]
    return "| " + " | ".join(cells) + " |"


def table(out: pathlib.Path) -> str:
    """Both tables, and what has not been compiled."""
    head = ["recipe", "machine", "data x fsdp x model", "pieces", "peak GiB per chip", "FLOPs per step"]
    head += ["GB sent per chip and step", "ms per step", "utilisation", "days"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    served = ["| recipe | chip | step | peak GiB |", "|---|---|---|---|"]
    missing = []
    for job in jobs([], []):
        path = path_of(out, job)
        if path.exists():
            (lines if job[2] == "train" else served).append(row(job, json.loads(path.read_text())))
        else:
            missing.append(" ".join(job))
    return "\n".join([*lines, "", *served, "", "not compiled: " + (", ".join(missing) or "none")])


def budgets(out: pathlib.Path) -> dict[str, dict[str, float]]:
    """Peak memory and bytes sent of every training step there is."""
    found = {}
    for job in jobs([], []):
        path = path_of(out, job)
        if job[2] != "train" or not path.exists():
            continue
        data = json.loads(path.read_text())
        if data["fits"]:
            sent = sum(c["sent_bytes_per_step"] for c in data["collectives"])
            found[f"{job[0]} {job[1]}"] = {"peak_bytes": data["memory"]["peak"], "sent_bytes_per_step": sent}
    return found


def main() -> None:
    """Compiles what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("plans"), help="folder of the JSON files")
    parser.add_argument("--only", nargs="*", default=[], metavar="MACHINE", help="these machines")
    parser.add_argument("--recipes", nargs="*", default=[], metavar="RECIPE", help="these recipes")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds per compilation (default 3600)")
    parser.add_argument("--budgets", type=pathlib.Path, help="write what was measured there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.table and not arguments.budgets:
        for job in jobs(arguments.only, arguments.recipes):
            path = path_of(arguments.out, job)
            if not path.exists():
                compile_one(job, path, arguments.timeout)
    if arguments.budgets:
        arguments.budgets.write_text(json.dumps(budgets(arguments.out), indent=2) + "\n")
    print(table(arguments.out))


if __name__ == "__main__":
    main()
