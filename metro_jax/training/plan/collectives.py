"""Collective operations of a compiled step: how much each moves, how often, over which axes of the mesh, how long."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from metro_jax.training.plan.hlo import Instruction, Program
from metro_jax.training.plan.topology import Topology

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# On TPU a reduce-scatter is a fusion of this name around an all-reduce and the slice that is kept.
SCATTERED = "all-reduce-scatter"
# Between slices: one host's share of the data centre's network per chip, 200 Gbit/s for eight chips (v5e's page).
DATA_CENTRE = 200e9 / 8 / 8
WRAPPERS = frozenset({"while", "body", "closed_call", "checkpoint", "rematted_computation", "layers", "_train_step"})
MANUAL = "1"  # the channel that JAX gives to every collective within jax.shard_map
SMALL = 2**20  # bytes; counts, norms and flags, which cost a latency rather than bandwidth


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation.

    Args:
        payload: bytes of one device's whole array: before an all-reduce or reduce-scatter, after an all-gather.
        times: executions per step.
        group: partition numbers of one group of devices that work together.
        axes: mesh axes that the group spans.
        where: the model's part it came from, as JAX names it.
    """

    kind: str
    payload: int
    times: int
    group: tuple[int, ...]
    axes: tuple[str, ...]
    where: str

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one execution, by the ring algorithm."""
        n = len(self.group)
        factor = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}
        return self.payload * factor.get(self.kind, (n - 1) / n)

    @property
    def sent_per_step(self) -> float:
        """The same over all executions."""
        return self.sent * self.times

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "axes": list(self.axes),
            "devices": len(self.group),
            "payload_bytes": self.payload,
            "times_per_step": self.times,
            "sent_bytes_per_step": round(self.sent_per_step),
            "where": self.where,
        }


def collectives(program: Program, mesh: Mesh) -> list[Collective]:
    """All collectives of a step that move something, the heaviest first."""
    seen: dict[str, Collective] = {}
    for name, instruction, times in program.walk():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        group = device_group(instruction.rest, mesh.size)
        operands = program.operand_bytes(name, instruction)
        if len(group) < 2 or not operands or not times:
            continue
        payload = operands * len(group) if kind == "all-gather" else operands
        if name.startswith(SCATTERED):
            kind = "reduce-scatter"
        made = Collective(kind, payload, times, group, axes_of(group, mesh), origin(instruction.rest))
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        # The parts of an asynchronous collective repeat it under the same channel; all of shard_map's share one.
        key = channel[1] if channel and channel[1] != MANUAL else f"{name}/{instruction.name}"
        if key not in seen or seen[key].sent_per_step < made.sent_per_step:
            seen[key] = made
    return sorted(seen.values(), key=lambda c: -c.sent_per_step)


def device_group(rest: str, devices: int) -> tuple[int, ...]:
    """The first group of partitions of a collective, from any of XLA's notations.

    `{{0,1},{2,3}}`; `[2,2]<=[4]` and `[2,2]<=[2,2]T(1,0)`; `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}`; for
    permutations the pairs.
    """
    pairs = re.search(r"source_target_pairs=\{(\{\d+,\d+\}(?:,\{\d+,\d+\})*)\}", rest)
    if pairs:
        first = next((p for p in re.findall(r"\{(\d+),(\d+)\}", pairs[1]) if p[0] != p[1]), ("0", "0"))
        return tuple(sorted({int(first[0]), int(first[1])}))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return tuple(int(i) for i in listed[1].split(",") if i)
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if tiled:
        return tuple(int(i) for i in _iota(tiled[2], tiled[3]).reshape(_numbers(tiled[1]))[0])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}", rest
    )
    if named:
        return _named_group(named[1], named[2], named[3], named[4])
    return tuple(range(devices))  # no groups: all together


def _named_group(axes: str, ids: str | None, order: str | None, chosen: str) -> tuple[int, ...]:
    """The group along the chosen axes of XLA's mesh; an axis may be split, as in `'a':(2)4`."""
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", axes)}
    array = _iota(ids or str(math.prod(sizes.values())), order).reshape(tuple(sizes.values()))
    index: list[Any] = [0] * array.ndim
    for name, before, size in re.findall(r"'?([A-Za-z_][\w.\-]*)'?(?::\((\d+)\)(\d+))?", chosen):
        axis = list(sizes).index(name)
        after = sizes[name] // (int(before) * int(size)) if before else 1
        index[axis] = slice(0, int(size) * after, after) if before else slice(None)
    return tuple(int(i) for i in array[tuple(index)].reshape(-1))


def _iota(sizes: str, order: str | None) -> np.ndarray:
    shape = _numbers(sizes)
    array = np.arange(math.prod(shape)).reshape(shape)
    return array.transpose(_numbers(order)) if order else array


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def axes_of(group: Sequence[int], mesh: Mesh) -> tuple[str, ...]:
    """Mesh axes along which the members of a group differ; partitions are numbered along the mesh."""
    places = np.stack(np.unravel_index(np.asarray(group), tuple(mesh.shape.values())))
    return tuple(axis for axis, row in zip(mesh.axis_names, places, strict=True) if len(set(row.tolist())) > 1)


def origin(rest: str) -> str:
    """The part of the model that an instruction's metadata names, without JAX's wrappers."""
    match = re.search(r'op_name="([^"]*)"', rest)
    if not match:
        return ""
    path = match[1]
    while (bare := re.sub(r"\b(?:jit|jvp|transpose|vmap)\(([^()]*)\)", r"\1", path)) != path:
        path = bare
    return "/".join(part for part in path.split("/") if part and part not in WRAPPERS)


def seconds(collective: Collective, topology: Topology, mesh: Mesh) -> float:
    """Time of one execution with the links to itself: both directions of every physical axis that the group spans.

    A group within a ring sends both ways round; along an open line the last link carries everything. Between slices the
    data centre's network is the limit.
    """
    chip = topology.chip
    if chip is None:
        return 0.0
    members = [mesh.devices.flat[i] for i in collective.group]
    if len({getattr(device, "slice_index", 0) or 0 for device in members}) > 1:
        return collective.sent / DATA_CENTRE
    if not chip.torus:  # GPUs: NVLink's switches within a host, the network between hosts
        return collective.sent / (chip.network if len({device.process_index for device in members}) > 1 else chip.link)
    spans = [len({device.coords[axis] for device in members}) for axis in range(len(topology.shape))]
    links = sum(
        2 if topology.rings(axis) and size == topology.shape[axis] else 1 for axis, size in enumerate(spans) if size > 1
    )
    if collective.kind.endswith("all-to-all"):
        # Half of what a device holds crosses the middle of the longest axis, over the links there.
        longest = max(range(len(spans)), key=lambda axis: spans[axis])
        crossing = 4 if topology.rings(longest) else 2
        return collective.payload * spans[longest] / (2 * crossing * chip.link)
    return collective.sent / (max(links, 1) * chip.link)


def total_seconds(found: Iterable[Collective], topology: Topology, mesh: Mesh) -> float:
    """Of all executions in one step, one after another."""
    return sum(seconds(c, topology, mesh) * c.times for c in found)


def by_kind(found: Iterable[Collective]) -> dict[tuple[str, tuple[str, ...]], dict[str, float]]:
    """Executions and bytes sent per device and step, for each kind and axes."""
    sums: dict[tuple[str, tuple[str, ...]], dict[str, float]] = {}
    for c in found:
        entry = sums.setdefault((c.kind, c.axes), {"times": 0, "payload": 0.0, "sent": 0.0})
        entry["times"] += c.times
        entry["payload"] += c.payload * c.times
        entry["sent"] += c.sent_per_step
    return dict(sorted(sums.items(), key=lambda item: -item[1]["sent"]))


__all__ = ["Collective", "Instruction", "by_kind", "collectives", "device_group", "seconds", "total_seconds"]
