"""Updates shared out along `data`: layouts, numbers, checkpoints of one layout read in another."""

import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metro_jax.training import updates
from metro_jax.training.partitioning import PjitPartitioner, arrange_groups


def layout(shape, spec=(), groups=1, places=16, fsdp=1):
    """Mesh axes of a parameter's update, on a mesh of this size."""
    size = groups * places * fsdp
    devices = np.asarray([jax.devices()[0]] * size)
    whole = Mesh(devices.reshape(groups * places, fsdp, 1), ("data", "fsdp", "model"))
    mesh = Mesh(devices.reshape(groups, places, fsdp, 1), ("data", updates.AXIS, "fsdp", "model"))
    made = updates.update_sharding(mesh, NamedSharding(whole, PartitionSpec(*spec)), shape)
    return made.mesh is mesh, tuple(made.spec)


def test_the_cut_wastes_no_tiles():
    """METRO base's parameters over 16 places: rows, not the columns, of which 768/16 = 48 would fill 128."""
    assert layout((33280, 768)) == (True, (updates.AXIS, None))
    assert layout((12, 768, 3072)) == (True, (None, updates.AXIS, None))
    assert layout((12, 768, 12, 64)) == (True, (None, updates.AXIS, None, None))
    # Four places take whole layers, which lie one after another in memory.
    assert layout((12, 768, 3072), places=4) == (True, (updates.AXIS, None, None))


def test_what_cannot_or_need_not_be_cut_stays_as_it_is():
    assert layout((12, 768)) == (False, ())
    assert layout((1025, 769)) == (False, ())
    assert layout((33280, 768), places=1, groups=4) == (False, ())
    # parameter_partitioning_dims=2 cuts parameters themselves along data.
    assert layout((33280, 768), (None, ("fsdp", "data"))) == (False, (None, ("fsdp", "data")))


def test_parameters_spread_over_fsdp_keep_that_cut():
    assert layout((24, 1024, 4096), (None, "fsdp", "model"), fsdp=4) == (True, (None, ("fsdp", updates.AXIS), "model"))
    assert layout((65536, 1024), (None, "fsdp"), fsdp=4) == (True, (updates.AXIS, "fsdp"))


def test_as_many_places_as_divide_up_to_16():
    assert next(updates.group_sizes(64, None)) == 16
    assert list(updates.group_sizes(6, None)) == [6, 3, 2, 1]
    assert next(updates.group_sizes(17, None)) == 1
    assert list(updates.group_sizes(64, 4)) == [4]
    with pytest.raises(ValueError, match=r"optimizer_partitions=3 does not divide the 8 places.*1, 2, 4, 8"):
        list(updates.group_sizes(8, 3))


def test_devices_keep_their_order_on_a_host():
    devices = [jax.devices()[0]] * 8
    assert arrange_groups(devices, (4, 2, 1), None).shape == (1, 4, 2, 1)
    assert arrange_groups(devices, (4, 2, 1), 2).shape == (2, 2, 2, 1)
    partitioner = PjitPartitioner(devices=devices, optimizer_partitions=1)
    assert dict(partitioner.mesh.shape) == {"data": 8, "fsdp": 1, "model": 1}


ON_FOUR_DEVICES = r"""
    import re, sys, tempfile, jax, numpy as np
    jax.config.update("jax_num_cpu_devices", 4)
    from tests.training import conftest
    from tests.training.stand_in import CONFIG, BagModel
    from metro_jax.training.checkpoints import Checkpointer
    from metro_jax.training.models import MetroPretrainingModel
    from metro_jax.training.optimizers import MetroAdamW
    from metro_jax.training.partitioning import PjitPartitioner
    from metro_jax.training.schedules import create_learning_rate_scheduler
    from metro_jax.training.trainer import Trainer

    batch = conftest.masked_batch()
    metro = sys.argv[1] == "metro"
    # The token matrix is large enough to be cut, and all else small enough not to be.
    sizes = {"vocab_size": 4096 if metro else 8192}
    embedding, width = ("token_embedding", 16) if metro else ("embedding", 8)
    rate = create_learning_rate_scheduler(factors="constant", base_learning_rate=0.01)
    optimizer = MetroAdamW(clip_norm=0.5)

    def trainer_of(data, fsdp, model, pieces, places):
        devices = jax.devices()[: data * fsdp * model]
        options = {"num_partitions": model, "fsdp_partitions": fsdp, "optimizer_partitions": places}
        partitioner = PjitPartitioner(devices=devices, **options)
        if metro:
            made = MetroPretrainingModel(conftest.TINY.replace(**sizes), conftest.PRETRAINING, optimizer)
        else:
            made = BagModel(optimizer, CONFIG.replace(**sizes))
        shapes = {k: v.shape for k, v in batch.items()}
        return Trainer(made, partitioner, shapes, learning_rate_fn=rate, num_microbatches=pieces)

    def run(trainer, steps=3):
        state, seen = trainer.init_state(), []
        for _ in range(steps):
            state, metrics = trainer.train(state, trainer.partitioner.shard_batch(batch))
            seen.append([float(metrics["loss"][0]), float(metrics["gradient_norm"][0])])
        return seen, state

    def moments(state):
        return state.state.param_states.mu[embedding]

    def once_per_step(trainer, state):
        # The token matrix's gradient is reduced and scattered outside the loop over microbatches, and nowhere else.
        with trainer.partitioner.context():
            text = trainer._train.lower(state, trainer.partitioner.shard_batch(batch)).compile().as_text()
        bodies = set(re.findall(r"body=%?([\w.-]+)", text))
        for block in text.split("\n\n"):
            if (re.findall(r"%?([\w.-]+)", block) or [""])[0] in bodies:
                moved = re.findall(r"= (\S+) (?:all-reduce|reduce-scatter|all-gather)\(", block)
                assert not [shape for shape in moved if re.search(r"\[\d", shape)], moved
        whole = re.findall(rf"f32\[{sizes['vocab_size']},{width}\]\S* all-reduce\(", text)
        assert not whole, whole
        assert re.search(r" reduce-scatter\(", text)

    meshes = [(4, 1, 1, None, 4)] if metro else [(4, 1, 1, None, 4), (4, 1, 1, 2, 2), (2, 2, 1, None, 2)]
    for pieces in (1, 2):
        expected, plain = run(trainer_of(1, 1, 1, pieces, None))
        shared = None
        for data, fsdp, model, asked, places in meshes:
            trainer = trainer_of(data, fsdp, model, pieces, asked)
            seen, state = run(trainer)
            np.testing.assert_allclose(seen, expected, rtol=1e-5)
            for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
            shard = moments(state).addressable_shards[0].data.shape
            assert np.prod(shard) * places * fsdp == sizes["vocab_size"] * width, shard
            whole = state.target[embedding].addressable_shards[0].data.shape
            assert whole == (sizes["vocab_size"], width // fsdp), whole
            if (data, fsdp, places) == (4, 1, 4):
                shared = trainer, state
    once_per_step(*shared)
    # A checkpoint of either layout is read in the other, bit for bit, and on one device.
    apart = trainer_of(4, 1, 1, 2, 1)
    assert moments(apart.init_state()).addressable_shards[0].data.shape == (sizes["vocab_size"], width)
    one = trainer_of(1, 1, 1, 2, None)
    for source, targets in (((shared), (apart, one)), ((apart, run(apart, 1)[1]), (shared[0],))):
        with tempfile.TemporaryDirectory() as folder:
            with Checkpointer(folder) as checkpointer:
                checkpointer.save(3, source[1].state_dict())
                checkpointer.wait()
                for target in targets:
                    _, found, _ = checkpointer.restore(target.abstract_state_dict())
                    restored = target.restore_state(found)
                    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(source[1]))
                    layouts = jax.tree.map(lambda x: x.sharding, restored.state.param_states.mu)
                    assert layouts == target.state_shardings.state.param_states.mu
                    target.train(restored, target.partitioner.shard_batch(batch))
    print("same")
"""


@pytest.mark.parametrize("model", ["bag", pytest.param("metro", marks=pytest.mark.slow)])
def test_a_shared_update_is_the_whole_one(model):
    """Losses, gradient norms, clipped updates, layouts, one reduction, checkpoints; in a process of four devices."""
    code = textwrap.dedent(ON_FOUR_DEVICES)
    paths = [str(pathlib.Path(__file__).parents[2])]
    code = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    # The compiler's optimisations take longer than the steps.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, "-c", code, model], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip().endswith("same"), done.stderr[-2000:]
