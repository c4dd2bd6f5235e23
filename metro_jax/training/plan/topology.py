"""Machines to plan for: TPU slices by name, described by libtpu's compiler on any Linux host; NVIDIA GPUs by name;
this host's own devices.

Nothing here touches a TPU or GPU: their compilers work for devices that are not there (`jax.experimental.topologies`).
"""

import dataclasses
import difflib
import math
import os
import re
import tempfile
from typing import Any

import jax

from metro_jax.training.plan import gpus
from metro_jax.training.plan.gpus import GPUS

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip of a generation; bandwidths in bytes per second.

    Args:
        memory: what the compiler lets a program use, as it says when a program is too large.
        hbm: memory bandwidth.
        link: one link between chips, in one direction; there are two links along each axis of the torus.
        torus: axes of the network. An axis of a slice closes into a ring when it is a multiple of `ring` long.
        cores: JAX devices per chip.
        network: of a GPU to those of other hosts, in one direction; 0 for TPUs, whose slices are one network.
    """

    memory: float
    hbm: float
    link: float
    torus: int
    ring: int
    cores: int = 1
    network: float = 0.0


# Memory: libtpu 0.0.42's own words ("Used ... of 30.75G hbm"). Bandwidths: docs.cloud.google.com/tpu/docs, pages of v4,
# v5e, v5p and v6e: memory as written there; a link is a chip's interconnect bandwidth over its ports, one direction.
CHIPS = {
    "v4": Chip(30.75 * GIB, 1228e9, 50e9, 3, 4),
    "v5e": Chip(15.75 * GIB, 819e9, 50e9, 2, 16),
    "v5p": Chip(95.74 * GIB, 2765e9, 100e9, 3, 4),
    "v6e": Chip(31.25 * GIB, 1638e9, 100e9, 2, 16),
}
# Shapes behind Google Cloud's names: v4-N and v5p-N count TensorCores (two per chip), v5e-N and v6e-N chips.
CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
SHAPES = {
    "v4": {2 * chips: shape for chips, shape in CUBES.items()},
    "v5p": {2 * chips: shape for chips, shape in CUBES.items()},
    "v5e": SQUARES,
    "v6e": SQUARES,
}
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask which slice this host belongs to
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the host may be a TPU VM on which something else runs
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Args:
        name: as asked for, with Cloud's name resolved, such as "v4:4x4x8".
        chip: its data sheet; None where it is not known.
        shape: chips along each physical axis; empty for devices of this host.
        slices: TPU slices joined by the data centre's network.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    shape: tuple[int, ...] = ()
    slices: int = 1

    @property
    def generation(self) -> str:
        """Such as "v4", "cpu" or "gpu"."""
        return self.name.partition(":")[0]

    def rings(self, axis: int) -> bool:
        """Whether the chips along a physical axis are joined end to end."""
        return self.chip is not None and self.shape[axis] % self.chip.ring == 0


def gpu_chip(name: str) -> Chip:
    """What the estimates need to know of a GPU."""
    gpu = GPUS[name]
    return Chip(gpus.FRACTION * gpu.memory, gpu.hbm, gpu.nvlink, 0, 1, network=gpu.network)


def prepare_environment(name: str) -> None:
    """Settings that must be there before JAX starts: a TPU of this host stays free, messages stay quiet.

    Args:
        name: the topology that will be asked for; "cpu:N" makes N devices of this host.
    """
    generation, _, count = name.partition(":")
    if generation == "gpu":
        return
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if generation == "cpu":
        if not count.isdigit() or int(count) < 1:
            raise ValueError(f"--topology {name}: give a number of devices, such as cpu:8")
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"
        return
    if generation in GPUS:
        # Else the plugin looks for a driver and the GPUs of this host; JAX has read the variable when it was imported.
        jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"] or "cpu")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        return
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("TPU_LOG_DIR", tempfile.gettempdir())
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")


def canonical(name: str) -> str:
    """Cloud's names as shapes: "v4-128" is "v4:4x4x4" (64 chips), "v5e-8" is "v5e:2x4"; others unchanged.

    Raises:
        ValueError: no such generation or size; says which there are.
    """
    match = re.fullmatch(r"(v\w+?)-(\d+)", name)
    generation = match[1] if match else name.partition(":")[0]
    if generation in GPUS:
        gpus.count(name)
        return name
    if generation not in (*CHIPS, "cpu", "gpu"):
        known = [*CHIPS, *(f"{g}-{n}" for g in SHAPES for n in SHAPES[g]), *(f"{gpu}:8" for gpu in GPUS)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"--topology {name}: unknown; give a Cloud name such as v5e-8, v4-128, v5p-64, v6e-256, a shape of chips "
            f"such as v4:4x4x8 (generations: {', '.join(CHIPS)}), GPUs such as h100:8 ({', '.join(GPUS)}), cpu:8, or "
            f"gpu for the ones of this machine{hint}"
        )
    if not match:
        return name
    shapes = SHAPES[generation]
    if int(match[2]) not in shapes:
        raise ValueError(
            f"--topology {name}: there is no such slice; {generation} comes as "
            f"{', '.join(f'{generation}-{size}' for size in shapes)}"
        )
    return f"{generation}:{shapes[int(match[2])]}"


def describe(name: str, slices: int = 1) -> Topology:
    """The devices of a topology.

    Raises:
        ValueError: an unknown name, or a shape that the compiler refuses.
        ImportError: libtpu is not installed.
    """
    name = canonical(name)
    generation, _, shape = name.partition(":")
    if generation in GPUS:
        return Topology(name, tuple(gpus.devices(name)), gpu_chip(generation))
    if generation in ("cpu", "gpu"):
        devices = jax.devices(generation)
        wanted = int(shape) if shape else len(devices)
        if len(devices) < wanted:
            raise ValueError(f"--topology {name}: this machine shows {len(devices)} devices; ask for as many or fewer")
        return Topology(name, tuple(devices[:wanted]), None)
    sizes = tuple(int(size) for size in shape.split("x")) if re.fullmatch(r"\d+(x\d+)+", shape) else ()
    if not sizes:
        raise ValueError(f"--topology {name}: give the chips along each axis, such as {generation}:2x4")
    options: dict[str, Any] = {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as Cloud runs it
    if math.prod(sizes) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    chip = CHIPS[generation]
    return Topology(name, tuple(_ask_libtpu(name, options)), chip, sizes, slices)


def _ask_libtpu(name: str, options: dict[str, Any]) -> Any:
    from jax.experimental import topologies

    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "compiling for TPU needs libtpu, the TPU compiler (213 MB; it runs on any Linux host): "
            "pip install -c constraints.txt 'metro_jax[tpu-plan]'"
        ) from None
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except Exception as error:  # libtpu's errors have no type of their own
        raise ValueError(f"--topology {name}: the TPU compiler refuses it: {str(error).splitlines()[0]}") from error
