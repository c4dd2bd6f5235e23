"""The device mesh and how logical axes map to it.

The mesh has three axes: `data` (batch rows), `fsdp` (batch rows, and parameters along `embed`), `model` (heads, MLP and
vocabulary). Axes of size one cost nothing, so the same rules serve one CPU and a pod.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.linen.spmd import logical_to_mesh_axes
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metro_jax.training import updates
from metro_jax.training.trees import flatten, unflatten
from metro_jax.training.updates import as_tuple

AXES = ("data", "fsdp", "model")
# Gradients of microbatches are summed where they arise, one sum per place along this axis, and reduced over it once.
LOCAL_SUMS = "data"
Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]


class DataLayout(NamedTuple):
    """Which share of every batch this process reads: the rows of all batches are dealt into `num_shards` blocks."""

    shard_id: int
    num_shards: int
    is_first: bool  # no process before this one has the same share


def standard_logical_axis_rules(
    activation_partitioning_dims: int = 1,
    parameter_partitioning_dims: int = 1,
    additional_rules: Rules | None = None,
) -> Rules:
    """Rules from logical to mesh axes, under T5X's name and arguments; earlier rules win.

    Args:
        activation_partitioning_dims: 2 also shards activations along `embed` over `model`.
        parameter_partitioning_dims: 1 shards parameters over `model`, and over `fsdp` where the mesh has it; 2 also
            over `data` (fully sharded parameters on a mesh without an fsdp axis, as T5X does).
        additional_rules: appended.

    Raises:
        ValueError: a number of dimensions other than 1 or 2.
    """
    for name, value in (
        ("activation_partitioning_dims", activation_partitioning_dims),
        ("parameter_partitioning_dims", parameter_partitioning_dims),
    ):
        if value not in (1, 2):
            raise ValueError(f"{name}={value!r} must be 1 or 2")
    embed = ("fsdp", "data") if parameter_partitioning_dims == 2 else ("fsdp",)
    rules: list[tuple[str, Any]] = [
        ("batch", ("data", "fsdp")),
        ("vocab", "model"),
        ("mlp", "model"),
        ("heads", "model"),
        ("embed", embed),
    ]
    if activation_partitioning_dims == 2:
        rules.append(("embed", "model"))
    for name in ("kv", "length", "layers", "abspos_buckets", "relpos_buckets"):
        rules.append((name, None))
    return (*rules, *(additional_rules or ()))


class PjitPartitioner:
    """A mesh over all devices and the shardings that follow from logical axis names.

    Args:
        num_partitions: devices that share one copy of the model (the `model` axis); 1 is pure data parallelism.
        model_parallel_submesh: T5X's other way to say it: its product is the number of partitions.
        fsdp_partitions: devices over which parameters and moments are spread along `embed`.
        optimizer_partitions: places along `data` over which moments are spread, and the update with them, where
            parameters are whole (ZeRO-1, `training/updates.py`). None is as many as divide `data`, up to 16, and lie
            side by side on the torus of TPUs; 1 keeps moments whole along `data`.
        logical_axis_rules: pairs (logical axis, mesh axis); None means `standard_logical_axis_rules()`.
        params_on_devices: accepted for T5X's command lines; parameters always live on the devices.

    Raises:
        ValueError: the partitions do not divide the number of devices, or contradict each other.
    """

    def __init__(
        self,
        num_partitions: int | None = None,
        model_parallel_submesh: Sequence[int] | None = None,
        fsdp_partitions: int = 1,
        logical_axis_rules: Rules | None = None,
        params_on_devices: bool = True,
        devices: Sequence[Any] | None = None,
        optimizer_partitions: int | None = None,
    ) -> None:
        del params_on_devices
        submesh = math.prod(model_parallel_submesh) if model_parallel_submesh else None
        if submesh and num_partitions and num_partitions != submesh:
            raise ValueError(
                f"num_partitions={num_partitions} contradicts model_parallel_submesh="
                f"{tuple(model_parallel_submesh or ())}, whose product is {submesh}; give one of them"
            )
        model = submesh or num_partitions or 1
        devices = list(devices if devices is not None else jax.devices())
        if model < 1 or fsdp_partitions < 1 or len(devices) % (model * fsdp_partitions):
            raise ValueError(
                f"num_partitions={model} times fsdp_partitions={fsdp_partitions} does not divide the {len(devices)} "
                f"devices of this run; choose a divisor of {len(devices)}"
            )
        shape = (len(devices) // (model * fsdp_partitions), fsdp_partitions, model)
        grouped = arrange_groups(devices, shape, optimizer_partitions)
        self.mesh = Mesh(grouped.reshape(shape), AXES)
        # The same devices in the same order, with `data` as groups and places within one.
        self._update_mesh = Mesh(grouped, ("data", updates.AXIS, *AXES[1:]))
        self.rules: Rules = tuple(standard_logical_axis_rules() if logical_axis_rules is None else logical_axis_rules)
        self._check_rules()

    def _check_rules(self) -> None:
        for rule in self.rules:
            if len(rule) != 2:
                raise ValueError(f"logical_axis_rules: {rule!r} is not a pair (logical axis, mesh axis or None)")
            for axis in as_tuple(rule[1]):
                if axis not in AXES:
                    raise ValueError(
                        f"logical_axis_rules: {rule!r} names mesh axis {axis!r}; there are {', '.join(AXES)}"
                    )

    @property
    def batch_shards(self) -> int:
        """Over how many devices the rows of a batch are spread."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def replicated(self) -> NamedSharding:
        """Every device holds the whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """Rows spread over `data` and `fsdp`."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Where the network's logical constraints mean this mesh; trace inside it."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield

    @contextlib.contextmanager
    def local_context(self) -> Iterator[None]:
        """The same within it, for what is mapped over the places along LOCAL_SUMS and so does not see that axis."""
        with nn.logical_axis_rules([(name, _without(axes, LOCAL_SUMS)) for name, axes in self.rules]):
            yield

    def spec(self, names: Sequence[str | None] | None) -> PartitionSpec:
        """Mesh axes of an array with these logical axes."""
        if not names:
            return PartitionSpec()
        return logical_to_mesh_axes(tuple(names), self.rules) or PartitionSpec()

    def local_sum_sharding(self, sharding: NamedSharding) -> NamedSharding:
        """Layout of one array like `sharding`'s for each place along LOCAL_SUMS, stacked on a leading axis."""
        return NamedSharding(
            self.mesh, PartitionSpec(LOCAL_SUMS, *(_without(axes, LOCAL_SUMS) for axes in sharding.spec))
        )

    def update_shardings(self, shardings: Any, params: Any) -> Any:
        """Layout in which each parameter is updated, and of its moments, from its own."""
        return jax.tree.map(lambda s, x: updates.update_sharding(self._update_mesh, s, x.shape), shardings, params)

    def sum_of_places(self, local: Any, shardings: Any) -> Any:
        """Gradients of each place along LOCAL_SUMS added up, in the layouts of the update."""
        return jax.tree.map(lambda x, s: updates.sum_of_places(self._update_mesh, x, s), local, shardings)

    def data_layout(self, batch_size: int) -> DataLayout:
        """This process's share of the rows; processes whose devices hold the same rows have the same share."""
        blocks: dict[int, set[tuple[int, int]]] = {}
        for device, index in self.batch_sharding.devices_indices_map((batch_size,)).items():
            start, stop, _ = index[0].indices(batch_size)
            blocks.setdefault(device.process_index, set()).add((start, stop))
        shares = sorted({tuple(sorted(share)) for share in blocks.values()})
        mine = tuple(sorted(blocks[jax.process_index()]))
        if len({len(share) for share in shares}) > 1 or len(set().union(*shares)) != sum(map(len, shares)):
            raise ValueError(
                "the processes of this mesh share the rows of a batch unevenly; choose num_partitions and "
                "fsdp_partitions so that each process holds as many rows, or all of them the same"
            )
        first = min(process for process, share in blocks.items() if tuple(sorted(share)) == mine)
        return DataLayout(shares.index(mine), len(shares), first == jax.process_index())

    def check_batch_size(self, batch_size: int, num_microbatches: int = 1) -> None:
        """Every device gets the same number of rows in every microbatch, or a ValueError."""
        unit = self.batch_shards * num_microbatches
        if batch_size < 1 or batch_size % unit:
            raise ValueError(
                f"batch_size={batch_size} is not a multiple of {unit}: {self.batch_shards} device(s) share the rows of "
                f"each of {num_microbatches} microbatch(es); choose {max(1, round(batch_size / unit)) * unit}"
            )

    def param_shardings(self, params: Any, params_axes: Mapping[str, Any]) -> Any:
        """One sharding per parameter, from the `params_axes` collection (every `name` has a `name_axes`).

        Raises:
            ValueError: a parameter without axes, or a dimension that its mesh axes do not divide.
        """
        axes = flatten(params_axes)
        shardings = {}
        for name, value in flatten(params).items():
            metadata = axes.get(f"{name}_axes")
            if metadata is None:
                raise ValueError(f"parameter {name} has no logical axes: the collection params_axes lacks {name}_axes")
            spec = self.spec(metadata.names)
            self._check_divides(name, value.shape, metadata.names, spec)
            shardings[name] = NamedSharding(self.mesh, spec)
        return unflatten(shardings)

    def _check_divides(self, name: str, shape: tuple[int, ...], names: Sequence[Any], spec: PartitionSpec) -> None:
        for size, logical, axis in zip(shape, names, spec, strict=False):
            parts = math.prod(self.mesh.shape[a] for a in as_tuple(axis))
            if size % parts:
                raise ValueError(
                    f"{name}: axis {logical!r} of size {size} cannot be cut into {parts} parts over mesh axis {axis!r};"
                    " choose num_partitions and fsdp_partitions that divide it"
                )

    def shard_batch(self, batch: Mapping[str, np.ndarray], batch_size: int | None = None) -> dict[str, jax.Array]:
        """The rows this process has read, as arrays over the whole mesh.

        Args:
            batch_size: rows over all processes; None works it out from the rows given.
        """

        def place(rows: np.ndarray) -> jax.Array:
            shape = None if batch_size is None else (batch_size, *rows.shape[1:])
            return jax.make_array_from_process_local_data(self.batch_sharding, rows, shape)

        return {name: place(np.asarray(rows)) for name, rows in batch.items()}

    def shard_whole_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """The same, where every process has read all rows."""
        sharding = self.batch_sharding
        return {k: jax.make_array_from_callback(v.shape, sharding, v.__getitem__) for k, v in batch.items()}


def _without(axes: str | tuple[str, ...] | None, axis: str) -> str | tuple[str, ...] | None:
    """Mesh axes of one dimension, less one of them."""
    left = tuple(a for a in as_tuple(axes) if a != axis)
    return left[0] if len(left) == 1 else left or None


def arrange_groups(devices: Sequence[Any], shape: tuple[int, int, int], places: int | None) -> np.ndarray:
    """Devices as [groups, places in a group, fsdp, model], `shape` being (groups x places, fsdp, model).

    Args:
        places: along `data` that share an update, neighbours on the torus; None is as many as possible up to 16.

    Raises:
        ValueError: the number of places does not divide `data`, or cannot be laid onto the torus or within a slice.
        NotImplementedError: the mesh cannot be laid onto the torus at all.
    """
    for size in updates.group_sizes(shape[0], places):
        try:
            return arrange(devices, (shape[0] // size, size, *shape[1:]))
        except (NotImplementedError, ValueError):
            continue
    found = arrange(devices, shape)  # what is wrong with the mesh itself is said here
    if places not in (None, 1):
        raise ValueError(
            f"optimizer_partitions={places}: so many places along data are not side by side on this torus of chips, or "
            "not on one slice; choose another divisor, or None for the best"
        )
    return found[:, None]


def arrange(devices: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Devices as an array of this shape: neighbours on the torus of TPUs side by side.

    Slices, which only the slower network of the data centre joins, are places along `data`: between them there are
    gradients to be reduced and nothing else.

    Raises:
        ValueError: the slices do not divide the size of `data`.
    """
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices)
    data, *rest = shape
    if data % slices:
        raise ValueError(
            f"the mesh has {data} places along data, which {slices} slices cannot share evenly: choose num_partitions "
            f"and fsdp_partitions whose product divides the {len(devices) // slices} devices of a slice"
        )
    return mesh_utils.create_hybrid_device_mesh((data // slices, *rest), (slices, *(1 for _ in rest)), devices)


def is_divisible(sharding: NamedSharding, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be cut up like this."""
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True


class ModelBasedPjitPartitioner(PjitPartitioner):
    """T5X's name for the partitioner of its run files; the same thing here."""
