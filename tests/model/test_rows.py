"""Random numbers of a hardware key, drawn by each device for its own rows."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from metro_jax.model.rows import kept_by_hardware

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from metro_jax.model.layers import Dropout
from metro_jax.model.rows import PIECES
from metro_jax.training.partitioning import LOCAL_SUMS, PjitPartitioner

key = jax.random.key(1, impl="unsafe_rbg")

def drop(x, step):
    return Dropout(0.5).apply({}, x, deterministic=False, rngs={"dropout": jax.random.fold_in(key, step)})

def in_pieces(x, step):
    with part.local_context():
        return jax.vmap(drop, (0, None), axis_name=PIECES, spmd_axis_name=LOCAL_SUMS)(x, step)

for fsdp in (1, 2, 4):
    part = PjitPartitioner(fsdp_partitions=fsdp)
    places = part.mesh.shape["data"]
    for function, shape in ((drop, (8, 64)), (in_pieces, (places, 8 // places, 64))):
        with part.context():
            compiled = jax.jit(function, out_shardings=part.batch_sharding if len(shape) == 2 else None)
            first, second = (np.asarray(compiled(jnp.ones(shape), step)).reshape(8, 64) for step in (1, 2))
        assert set(np.unique(first)) == {0.0, 2.0}
        assert len({row.tobytes() for row in [*first, *second]}) == 16, "rows share their numbers"
        assert 0.6 < first.mean() < 1.4
print("fine")
"""


def test_every_row_and_step_has_numbers_of_its_own_on_any_mesh():
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize("shape", [(4, 5, 32, 64), (64, 640)])
def test_hardware_bits_keep_the_share_that_was_asked_for(shape):
    kept = np.asarray(kept_by_hardware(0.9, jax.random.key(1, impl="unsafe_rbg"), shape))
    assert kept.shape == shape
    assert abs(kept.mean() - 0.9) < 5 * (0.09 / kept.size) ** 0.5
    # Both halves of a number are used, and say different things.
    low, high = kept[:, 0], kept[:, (shape[1] + 1) // 2]
    assert 0.75 < (low == high).mean() < 0.89
