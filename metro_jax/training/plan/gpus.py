"""NVIDIA GPUs to plan for: described in figures to XLA's compiler for GPUs, which needs none of them to be there.

The compiler is JAX's CUDA plugin. It tunes no kernels without a GPU, so the kernels it takes are its defaults; memory,
collectives and the order of operations are those of the real thing.
"""

import dataclasses
from typing import Any

HOST = 8  # GPUs that NVLink joins in one host of these generations
MISSING = (
    "compiling for GPUs needs JAX's CUDA plugin, of the same version as jax, and NVIDIA's libraries (5 GB; they run on "
    "any Linux host): pip install -c constraints.txt 'jax[cuda12]'"
)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU, from NVIDIA's data sheets; bandwidths in bytes per second, one direction.

    Args:
        kind: its name as the driver, and so JAX, gives it.
        memory: bytes, of which JAX takes 75 % for a program unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
        hbm: memory bandwidth.
        nvlink: to the other GPUs of its host, all links together.
        network: to other hosts; one adapter per GPU as in NVIDIA's DGX.
        capability: CUDA's, (major, minor).
        accelerated: whether the architecture has an "a" variant (sm_90a).
        cores, units, clock: streaming multiprocessors, float32 units in each, GHz.
        shared, shared_most: bytes of shared memory in a multiprocessor, and of one block at most.
        cache: bytes of the second level.
    """

    kind: str
    memory: int
    hbm: float
    nvlink: float
    network: float
    capability: tuple[int, int]
    accelerated: bool
    cores: int
    units: int
    clock: float
    shared: int
    shared_most: int
    cache: int


# https://www.nvidia.com: data sheets of A100, H100 and H200; shared memory: CUDA C Programming Guide, technical
# specifications per compute capability. Memory as the driver shows it.
_H100 = Gpu(
    kind="NVIDIA H100 80GB HBM3",
    memory=84_942_979_072,
    hbm=3352e9,
    nvlink=450e9,
    network=50e9,
    capability=(9, 0),
    accelerated=True,
    cores=132,
    units=128,
    clock=1.98,
    shared=228 * 1024,
    shared_most=227 * 1024,
    cache=50 * 2**20,
)
GPUS = {
    "a100": Gpu(
        kind="NVIDIA A100-SXM4-80GB",
        memory=85_100_068_864,
        hbm=2039e9,
        nvlink=300e9,
        network=25e9,
        capability=(8, 0),
        accelerated=False,
        cores=108,
        units=64,
        clock=1.41,
        shared=164 * 1024,
        shared_most=163 * 1024,
        cache=40 * 2**20,
    ),
    "h100": _H100,
    "h200": dataclasses.replace(_H100, kind="NVIDIA H200", memory=151_397_597_184, hbm=4800e9),  # the same chip
}
FRACTION = 0.75  # JAX's documentation, "GPU memory allocation"


def count(name: str) -> int:
    """GPUs of a name such as "h100:8": up to 8, or whole hosts of 8.

    Raises:
        ValueError: no such number.
    """
    _, _, number = name.partition(":")
    if not number.isdigit() or int(number) < 1 or (int(number) > HOST and int(number) % HOST):
        raise ValueError(
            f"--topology {name}: give 1 to {HOST} GPUs of one host, such as h100:8, or a multiple of {HOST} for several"
        )
    return int(number)


def devices(name: str) -> list[Any]:
    """Devices of a GPU topology, to compile for.

    Raises:
        ValueError: no such number, or the compiler refuses it.
        ImportError: JAX's CUDA plugin is not installed.
    """
    from jax.experimental import topologies

    number, gpu = count(name), GPUS[name.partition(":")[0]]
    hosts = max(1, number // HOST)
    try:
        import jax_plugins.xla_cuda12  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(MISSING) from None
    options = {"target_config": target_config(gpu), "topology": f"1x{hosts}x{number // hosts}"}
    try:
        return list(topologies.get_topology_desc(platform="cuda", **options).devices)
    except Exception as error:  # the plugin's errors have no type of their own
        raise ValueError(f"--topology {name}: the GPU compiler refuses it: {str(error).splitlines()[0]}") from error


def target_config(gpu: Gpu) -> str:
    """XLA's description of a GPU that is not there, as the text of its protocol buffer."""
    major, minor = gpu.capability
    feature = "ACCELERATED_FEATURES" if gpu.accelerated else "NONE"
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {feature} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  clock_rate_ghz: {gpu.clock}
  memory_bandwidth: {gpu.hbm:.0f}
  device_memory_size: {gpu.memory}
  l2_cache_size: {gpu.cache}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared_most}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  driver_version: "13.0.0"
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.kind}"
"""
