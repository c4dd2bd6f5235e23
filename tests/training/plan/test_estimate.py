"""Traffic and the roofline."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from metro_jax.training.flops import PEAK_FLOPS
from metro_jax.training.partitioning import AXES
from metro_jax.training.plan.collectives import collectives, total_seconds
from metro_jax.training.plan.estimate import elements, estimate, traffic, vector_operations
from metro_jax.training.plan.hlo import Program
from metro_jax.training.plan.topology import CHIPS, Topology
from tests.training.plan.programs import LAYERS
from tests.training.plan.test_collectives import chips


def test_traffic_counts_slices_and_loops():
    products, others = traffic(Program(LAYERS))
    gathered, hidden = 768 * 768 * 2, 64 * 768 * 2
    assert products == 12 * (gathered + 2 * hidden)
    # Read one layer's slice of the stacked weights, not the stack; the custom call's result stays on the chip.
    cast = 384 * 768 * 4 + 384 * 768 * 2
    collective = (384 * 768 * 2 + gathered) + (gathered + 384 * 768 * 2)
    counters = 4 + 3 * 4  # where to slice, and the counter's sum
    condition = 2 * 4 + 1
    assert others == 12 * (cast + collective + counters + condition) + hidden + 4000


def test_vector_operations_are_counted_by_element():
    # A layer's weights are cast, twelve times; its counter is raised and compared.
    assert vector_operations(Program(LAYERS)) == 12 * (384 * 768 + 1 + 1)
    assert elements("pred[]{:T(512)}") == 1
    assert elements("(f32[2], f32[3])") == 0


def test_the_estimate_adds_up():
    topology = Topology("v4:2x2x1", (types.SimpleNamespace(device_kind="TPU v4"),), CHIPS["v4"], (2, 2, 1))
    mesh = chips((2, 2, 1), (2, 2, 1))
    mesh.size = 4
    program = Program(LAYERS)
    found = collectives(program, Mesh(np.asarray([jax.devices()[0]] * 4).reshape(2, 2, 1), AXES))
    step = types.SimpleNamespace(partitioner=types.SimpleNamespace(mesh=mesh), flops=4e12, model_flops=3e12)
    made = estimate(step, program, found, topology)
    assert made.product_seconds == pytest.approx(1e12 / PEAK_FLOPS["TPU v4"])
    assert made.communication_seconds == pytest.approx(total_seconds(found, topology, mesh))
    best, worst = made.step_seconds
    assert worst == pytest.approx(made.product_seconds + made.other_seconds + made.communication_seconds)
    assert worst > best >= made.product_seconds
    assert made.utilisation[1] == pytest.approx(0.75e12 / PEAK_FLOPS["TPU v4"] / best)
    unknown = Topology("cpu:4", (types.SimpleNamespace(device_kind="cpu"),), None)
    assert estimate(step, program, found, unknown) is None
