"""A plan whose program is small and known."""

import types

import pytest

from metro_jax.training.plan.collectives import collectives
from metro_jax.training.plan.estimate import estimate
from metro_jax.training.plan.hlo import Program
from metro_jax.training.plan.report import Plan
from metro_jax.training.plan.steps import Compiled, Step, TooLargeError
from metro_jax.training.plan.topology import CHIPS, GIB, Topology
from tests.training.plan.programs import LAYERS
from tests.training.plan.test_collectives import chips

# As libtpu says it.
TOO_LARGE = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 21.50G of 15.75G "
    "hbm. Exceeded hbm capacity by 5.75G."
)


@pytest.fixture
def topology() -> Topology:
    return Topology("v4:2x2x1", (types.SimpleNamespace(device_kind="TPU v4"),), CHIPS["v4"], (2, 2, 1))


@pytest.fixture
def step() -> Step:
    mesh = chips((2, 2, 1), (2, 2, 1))
    mesh.size = 4
    partitioner = types.SimpleNamespace(mesh=mesh)
    state = {"parameters": GIB, "optimizer": 2 * GIB, "batch": GIB // 4}
    return Step("train", None, partitioner, 4e15, 3e15, 2**20, state, microbatches=2)


@pytest.fixture
def plan(topology, step) -> Plan:
    program = Program(LAYERS)
    found = collectives(program, step.partitioner.mesh)
    return Plan(
        recipe="metro_base_pretrain",
        topology=topology,
        step=step,
        steps=125_000,
        level="default",
        compiled=Compiled(LAYERS, 12.0, 8 * GIB),
        too_large=None,
        collectives=found,
        estimate=estimate(step, program, found, topology),
    )


@pytest.fixture
def too_large(topology, step) -> Plan:
    return Plan("metro_base_pretrain", topology, step, 125_000, "default", None, TooLargeError(TOO_LARGE))
