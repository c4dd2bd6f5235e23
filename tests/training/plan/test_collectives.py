"""What a step sends, over which axes, and how long the links take."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from metro_jax.training.partitioning import AXES
from metro_jax.training.plan.collectives import Collective, by_kind, collectives, device_group, origin, seconds
from metro_jax.training.plan.hlo import Program
from metro_jax.training.plan.topology import CHIPS, Topology
from tests.training.plan.programs import LAYERS

WEIGHTS = 768 * 768 * 2


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.asarray([jax.devices()[0]] * 4).reshape(2, 2, 1), AXES)


def chips(shape, mesh_shape):
    """A mesh over chips at the places of a torus, in order."""
    places = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), 1).tolist()
    devices = np.empty(len(places), object)
    devices[:] = [types.SimpleNamespace(coords=place, slice_index=0) for place in places]
    shaped = devices.reshape(mesh_shape)
    return types.SimpleNamespace(devices=shaped, shape=dict(zip(AXES, mesh_shape, strict=True)), axis_names=AXES)


def test_all_are_found_with_size_number_and_axes(mesh):
    found = {c.kind: c for c in collectives(Program(LAYERS), mesh)}
    gathered, scattered, reduced = found["all-gather"], found["reduce-scatter"], found["all-reduce"]
    assert (gathered.payload, gathered.times, gathered.axes) == (WEIGHTS, 12, ("fsdp",))
    # The fusion around an all-reduce that keeps a slice is a reduce-scatter.
    assert (scattered.payload, scattered.times, scattered.axes) == (WEIGHTS, 12, ("fsdp",))
    assert (reduced.payload, reduced.times, reduced.axes) == (4000, 1, ("data", "fsdp"))
    assert gathered.where == "Metro/encoder/mlp/wi/dot"


def test_bytes_sent_are_those_of_a_ring(mesh):
    sums = by_kind(collectives(Program(LAYERS), mesh))
    assert sums["all-gather", ("fsdp",)]["sent"] == 12 * WEIGHTS / 2
    assert sums["reduce-scatter", ("fsdp",)]["sent"] == 12 * WEIGHTS / 2
    assert sums["all-reduce", ("data", "fsdp")]["sent"] == 4000 * 2 * 3 / 4


def test_an_asynchronous_collective_counts_once(mesh):
    twice = LAYERS.replace(
        "  %constant.2 = ",
        "  %all-gather-start.1 = (bf16[384,768]{1,0}, bf16[768,768]{1,0}) all-gather-start(%fusion.1), channel_id=1, "
        "replica_groups={{0,1},{2,3}}, dimensions={0}\n  %constant.2 = ",
    )
    assert len(collectives(Program(twice.replace("channel_id=1,", "channel_id=9,")), mesh)) == 3
    # JAX gives all collectives of its own (jax.shard_map) the channel 1: they are as many as there are.
    assert len(collectives(Program(twice), mesh)) == 4


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x", (0, 2)),
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}, x", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x", (0, 2)),
        ("replica_groups=mesh['a'=8] {'a':(1)4}, x", (0, 2, 4, 6)),
        ("source_target_pairs={{0,0},{1,5}}, x", (1, 5)),
        ("channel_id=3", tuple(range(8))),
    ],
)
def test_every_notation_of_groups(text, group):
    assert device_group(text, 8) == group


def test_links_of_rings_and_lines():
    gather = Collective("all-gather", 4 * 10**9, 1, (0, 1, 2, 3), ("fsdp",), "")
    link = CHIPS["v4"].link
    ring = Topology("v4:4x4x4", (), CHIPS["v4"], (4, 4, 4))
    assert seconds(gather, ring, chips((4, 4, 4), (1, 64, 1))) == pytest.approx(3e9 / (2 * link))
    line = Topology("v4:2x2x4", (), CHIPS["v4"], (2, 2, 4))
    pair = dataclasses.replace(gather, group=(0, 4))
    assert seconds(pair, line, chips((2, 2, 4), (1, 16, 1))) == pytest.approx(2e9 / link)
    both = dataclasses.replace(gather, group=tuple(range(16)))
    assert seconds(both, ring, chips((4, 4, 4), (4, 16, 1))) == pytest.approx(4e9 * 15 / 16 / (4 * link))


def test_between_slices_the_data_centre_is_the_limit():
    mesh = chips((2, 2, 1), (4, 1, 1))
    for device in mesh.devices.flat[2:]:
        device.slice_index = 1
    reduce = Collective("all-reduce", 10**9, 1, (0, 1, 2, 3), ("data",), "")
    slow = seconds(reduce, Topology("v4:2x2x1", (), CHIPS["v4"], (2, 2, 1), 2), mesh)
    assert slow > 10 * 1.5e9 / (2 * CHIPS["v4"].link)


def test_where_it_came_from_without_wrappers():
    text = (
        'metadata={op_name="jit(_train_step)/transpose(jvp(Metro))/decoder/while/body/closed_call/checkpoint/wo/dot"}'
    )
    assert origin(text) == "Metro/decoder/wo/dot"
    assert origin("") == ""
