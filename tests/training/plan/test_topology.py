"""Names of machines."""

import os

import pytest

from metro_jax.training.flops import PEAK_FLOPS
from metro_jax.training.plan.gpus import GPUS
from metro_jax.training.plan.topology import CHIPS, SHAPES, canonical, describe, prepare_environment
from tests.training.plan.test_gpus import PLUGIN


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("v5e-8", "v5e:2x4"),
        ("v4-8", "v4:2x2x1"),
        ("v4-128", "v4:4x4x4"),
        ("v5p-64", "v5p:2x4x4"),
        ("v6e-256", "v6e:16x16"),
        ("v4:4x4x8", "v4:4x4x8"),
        ("cpu:8", "cpu:8"),
    ],
)
def test_clouds_names_are_shapes(name, shape):
    assert canonical(name) == shape


def test_names_of_v4_and_v5p_count_two_cores_per_chip():
    for generation in SHAPES:
        for size, shape in SHAPES[generation].items():
            chips = 1
            for side in shape.split("x"):
                chips *= int(side)
            assert size == chips * (2 if generation in ("v4", "v5p") else 1)
    assert set(SHAPES) == set(CHIPS)


@pytest.mark.parametrize(
    ("name", "said"),
    [("v5e-9", "v5e comes as v5e-1, v5e-4"), ("v4_128", "did you mean 'v4-128'"), ("tpu", "give a Cloud name")],
)
def test_unknown_names_are_told_what_there_is(name, said):
    with pytest.raises(ValueError, match=said):
        canonical(name)


def test_gpus_by_name_and_number():
    assert canonical("h100:8") == "h100:8"
    assert canonical("a100:32") == "a100:32"
    for name in ("h100", "h100:0", "h100:12", "a100:x"):
        with pytest.raises(ValueError, match="1 to 8 GPUs of one host"):
            canonical(name)
    with pytest.raises(ValueError, match="did you mean 'h100:8'"):
        canonical("h10:8")
    assert {gpu.kind for gpu in GPUS.values()} <= set(PEAK_FLOPS)


@pytest.mark.skipif(PLUGIN, reason="JAX's CUDA plugin is installed, and tests/training/plan/test_gpus.py uses it")
def test_gpus_need_the_plugin_and_say_how_to_get_it():
    with pytest.raises(ImportError, match=r"pip install .*jax\[cuda12\]"):
        describe("h100:8")


def test_this_machines_devices_need_no_data_sheet():
    topology = describe("cpu:1")
    assert (len(topology.devices), topology.chip, topology.generation) == (1, None, "cpu")
    with pytest.raises(ValueError, match="this machine shows"):
        describe("cpu:4096")


def test_a_tpu_of_this_host_is_left_alone(monkeypatch):
    for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "TPU_LOG_DIR", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    prepare_environment("v4:4x4x4")
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    prepare_environment("cpu:8")
    assert "--xla_force_host_platform_device_count=8" in os.environ["XLA_FLAGS"]
    with pytest.raises(ValueError, match="cpu:8"):
        prepare_environment("cpu:many")


def test_every_generation_has_a_peak():
    kinds = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
    assert all(kinds[generation] in PEAK_FLOPS for generation in CHIPS)
