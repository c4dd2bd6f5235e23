"""Several processes that train together: JAX's own coordination service, started before anything is computed."""

import os
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from metro_jax.training.errors import UserError

# A process that was killed is missed after this long; the others then end too, rather than wait for it for ever.
HEARTBEAT_SECONDS = 30


def define_flags(values: flags.FlagValues) -> None:
    """T5X's flags, and `--multihost` for clusters that describe themselves."""
    flags.DEFINE_bool(
        "multihost", False, "Join the processes that the cluster names (TPU pods, Slurm, Open MPI).", flag_values=values
    )
    flags.DEFINE_bool("multiprocess_gpu", False, "T5X's name of --multihost.", flag_values=values)
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of the first process.", flag_values=values)
    flags.DEFINE_integer("process_count", None, "How many processes train together.", flag_values=values)
    flags.DEFINE_integer("process_index", None, "Which of them this one is, from 0.", flag_values=values)


def describes_itself(environment: Mapping[str, str]) -> bool:
    """Whether the environment names other processes that this one belongs to."""
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    return len(hosts) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environment or "JAX_COORDINATOR_ADDRESS" in environment


def initialize(values: flags.FlagValues) -> None:
    """Joins the other processes, where there are any.

    Raises:
        UserError: flags that say only a part of where the others are.
    """
    given: dict[str, Any] = {
        name: values[name].value for name in ("coordinator_address", "process_count", "process_index")
    }
    missing = [f"--{name}" for name, value in given.items() if value is None]
    explicit = len(missing) < len(given)
    if explicit and missing:
        raise UserError(
            f"{', '.join(missing)}: several processes need all of {', '.join(f'--{name}' for name in given)}"
        )
    if not (explicit or values.multihost or values.multiprocess_gpu or describes_itself(os.environ)):
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=given["coordinator_address"],
        num_processes=given["process_count"],
        process_id=given["process_index"],
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
