"""Compiled for GPUs that are not there, by JAX's CUDA plugin where it is installed (docs/tpu_plan.md says how)."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from metro_jax.training.plan.collectives import Collective, seconds
from metro_jax.training.plan.gpus import GPUS, target_config
from metro_jax.training.plan.topology import Topology, gpu_chip
from tests.training.plan.test_collectives import chips
from tests.training.plan.test_command import SMALL

PLUGIN = bool(importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda12"))


@pytest.mark.parametrize("name", sorted(GPUS))
def test_the_description_has_the_figures(name):
    gpu, text = GPUS[name], target_config(GPUS[name])
    for line in (f"device_memory_size: {gpu.memory}", f"core_count: {gpu.cores}", f'"{gpu.kind}"'):
        assert line in text
    assert text.count("{") == text.count("}")


def test_nvlink_within_a_host_and_the_network_between():
    topology = Topology("h100:16", (), gpu_chip("h100"))
    mesh = chips((16,), (16, 1, 1))
    for number, device in enumerate(mesh.devices.flat):
        device.process_index = number // 8
    inside = Collective("all-to-all", 8 * 10**9, 1, tuple(range(8)), ("data",), "")
    across = Collective("all-gather", 16 * 10**9, 1, tuple(range(16)), ("data",), "")
    assert seconds(inside, topology, mesh) == pytest.approx(7e9 / 450e9)
    assert seconds(across, topology, mesh) == pytest.approx(15e9 / 50e9)


@pytest.mark.slow
@pytest.mark.skipif(
    not PLUGIN,
    reason="JAX's CUDA plugin (5 GB with NVIDIA's libraries) is not installed: pip install 'jax[cuda12]' of this jax",
)
@pytest.mark.parametrize(("topology", "devices"), [("h100:8", 8), ("a100:16", 16)])
def test_a_training_step_compiles_for_gpus(tmp_path, topology, devices):
    small = [option for option in SMALL if "BATCH_SIZE" not in option and "level" not in option]
    command = [sys.executable, "-m", "metro_jax.cli", "plan", "t5_base_pretrain", "--topology", topology]
    command += ["--microbatches=2", "--set=BATCH_SIZE=64", "--json", str(tmp_path / "plan.json"), *small]
    command.append("--set=MetroConfig.vocab_size=8192")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["mesh"] == {"data": devices, "fsdp": 1, "model": 1}
    assert data["fits"]
    assert 0 < data["memory"]["peak"] < data["memory"]["limit"]
    assert data["machine_code"]
    # Moments are spread over the GPUs: gradients are scattered and parameters gathered once.
    assert {c["kind"] for c in data["collectives"] if c["payload_bytes"] > 2**18} == {"reduce-scatter", "all-gather"}
    assert data["estimate"]["step_seconds"][0] > 0
