"""Compiled for TPUs that are not there, by libtpu: `make test-plan` installs it and runs these.

Budgets: `budgets.json` has peak memory and bytes sent of each recipe on each machine, as benchmarks/tpu_table.py
measured them at the compiler's usual effort; METRO_PLAN_BUDGETS=1 plans them all again, half a minute for each.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from metro_jax.training.plan.hlo import Program
from metro_jax.training.plan.topology import GIB

BUDGETS = json.loads((pathlib.Path(__file__).parent / "budgets.json").read_text())
# The compiler's choices vary a little with its version.
SLACK = 1.05
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu, the TPU compiler (213 MB), is not installed: `make test-plan` installs it and runs this",
    ),
]
# One layer of each kind at base's widths: a scanned layer compiles once however many there are.
SHALLOW = ["--set=MetroConfig.num_encoder_layers=1", "--set=MetroConfig.num_decoder_layers=1"]
HOST = ("infeed", "outfeed", "send", "recv", "send-done", "recv-done")


def plan(tmp_path, *arguments):
    """Exit status, JSON and program of a command."""
    files = ["--json", str(tmp_path / "plan.json"), "--hlo", str(tmp_path / "plan.hlo")]
    command = [sys.executable, "-m", "metro_jax.cli", "plan", *arguments, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode in (0, 1), done.stderr
    program = tmp_path / "plan.hlo"
    data = json.loads((tmp_path / "plan.json").read_text())
    return done, data, Program(program.read_text()) if program.exists() else None


@pytest.mark.parametrize("topology", ["v5e:1x1", "v4-8", "v6e:1x1"])
@pytest.mark.parametrize("step", ["generate", "rank"])
def test_inference_compiles_and_stays_on_the_chip(tmp_path, topology, step):
    arguments = ["metro_basepp_t0", "--topology", topology, "--step", step, "--level", "O0", "--rows=8", "--target=63"]
    _, data, program = plan(tmp_path, *arguments, *SHALLOW, "--complete")
    assert data["machine_code"]
    assert data["fits"]
    # Rows are spread and weights whole: all that chips ask each other is whether every row has ended.
    assert all(c["payload_bytes"] <= 4 for c in data["collectives"])
    used = {instruction.opcode for _, instruction, _ in program.walk()}
    assert not used & set(HOST)
    loops = [i for _, i, _ in program.walk() if i.opcode == "while"]
    if step == "generate":
        # One loop over tokens, all of it on the device, whose cache is updated where it is.
        assert len(loops) == 1
        cache = "bf16[8,12,64,64]"  # rows per chip, heads, positions, head width
        body = program.computations[loops[0].called("body")[0]].values()
        assert any(cache in i.shape for i in body)
        assert not [i for i in body if i.opcode == "copy" and i.shape.startswith(cache)]


def test_a_training_step_compiles_for_a_host_of_eight(tmp_path):
    file = "recipes/topologies/v5e_8.gin"
    arguments = ["t5_base_pretrain", "--topology", "v5e-8", "--gin_file", file, "--level", "O0", *SHALLOW]
    done, data, _ = plan(tmp_path, *arguments, "--complete")
    assert data["machine_code"]
    assert data["fits"], done.stdout
    assert data["mesh"] == {"data": 8, "fsdp": 1, "model": 1}
    assert data["memory"]["peak"] < data["memory"]["limit"] == 15.75 * GIB
    # Parameters are whole on every chip and moments spread: gradients are reduced and scattered, and parameters
    # gathered, once.
    large = [c for c in data["collectives"] if c["payload_bytes"] > 2**20]
    kinds = {c["kind"] for c in large}
    # The token matrix's rows are no multiple of tiles times chips: a permutation moves the rest of 1.4 MB.
    assert {"reduce-scatter", "all-gather"} <= kinds
    assert kinds <= {"reduce-scatter", "all-gather", "all-reduce", "collective-permute"}
    assert all(c["times_per_step"] == 1 for c in large)
    assert sum(c["payload_bytes"] for c in large if c["kind"] == "all-gather") <= data["memory"]["parameters"]
    assert data["memory"]["optimizer"] < 1.05 * 2 * data["memory"]["parameters"] / 8


def test_too_large_says_by_how_much_and_what_would_fit(tmp_path):
    arguments = ["t5_base_pretrain", "--topology", "v5e-8", "--mesh", "data=8", "--microbatches", "1", *SHALLOW]
    done, data, _ = plan(tmp_path, *arguments, "--level", "O0", "--set", "DROPOUT_RATE=0.0", "--set", "BATCH_SIZE=4096")
    assert done.returncode == 1
    assert data["memory"]["peak"] > data["memory"]["limit"]
    assert "more than the 15.75 there are" in done.stdout
    assert "what would fit" in done.stdout


@pytest.mark.parametrize("name", sorted(BUDGETS))
@pytest.mark.skipif(
    not os.environ.get("METRO_PLAN_BUDGETS"),
    reason="plans every recipe on every machine, half a minute for each: METRO_PLAN_BUDGETS=1 make test-plan",
)
def test_a_recipe_stays_within_its_budget(tmp_path, name):
    recipe, machine = name.split()
    size = "_large" if "largepp" in recipe else ""
    settings = f"recipes/topologies/{machine.replace('-', '_')}{size}.gin"
    _, data, _ = plan(tmp_path, recipe, "--topology", machine, "--gin_file", settings)
    assert data["fits"]
    assert data["memory"]["peak"] <= SLACK * BUDGETS[name]["peak_bytes"]
    sent = sum(c["sent_bytes_per_step"] for c in data["collectives"])
    assert sent <= SLACK * BUDGETS[name]["sent_bytes_per_step"]
