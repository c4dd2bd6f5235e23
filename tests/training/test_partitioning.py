"""The mesh and the rules from logical to mesh axes."""

import os
import pathlib
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.partitioning import AxisMetadata
from jax.sharding import PartitionSpec

from metro_jax.training.partitioning import PjitPartitioner, arrange, standard_logical_axis_rules


def test_one_device_is_a_mesh_like_any_other():
    partitioner = PjitPartitioner(num_partitions=1, devices=jax.devices()[:1])
    assert dict(partitioner.mesh.shape) == {"data": 1, "fsdp": 1, "model": 1}
    assert partitioner.batch_shards == 1


def test_rules_in_order_and_each_mesh_axis_once():
    partitioner = PjitPartitioner(devices=jax.devices()[:1])
    assert partitioner.spec(("vocab", "embed")) == PartitionSpec("model", "fsdp")
    assert partitioner.spec(("layers", "embed", "heads", "kv")) == PartitionSpec(None, "fsdp", "model", None)
    assert partitioner.spec(("batch", "length", "embed")) == PartitionSpec(("data", "fsdp"), None, None)
    assert partitioner.spec(("an axis nobody knows",)) == PartitionSpec(None)
    assert partitioner.spec(None) == PartitionSpec()


def test_more_dimensions_and_own_rules():
    rules = standard_logical_axis_rules(activation_partitioning_dims=2, additional_rules=[("mine", "data")])
    partitioner = PjitPartitioner(logical_axis_rules=rules, devices=jax.devices()[:1])
    assert partitioner.spec(("mine",)) == PartitionSpec("data")
    both = PjitPartitioner(
        logical_axis_rules=standard_logical_axis_rules(parameter_partitioning_dims=2), devices=jax.devices()[:1]
    )
    assert both.spec(("vocab", "embed")) == PartitionSpec("model", ("fsdp", "data"))


def test_slices_are_places_along_data():
    """Two slices of 2x4 chips; what is sharded within a copy of the model stays on one slice."""
    devices = [
        types.SimpleNamespace(
            platform="tpu",
            device_kind="TPU v5 lite",
            id=8 * part + number,
            coords=(number % 2, number // 2, 0),
            core_on_chip=0,
            slice_index=part,
            process_index=2 * part + number // 4,
        )
        for part in (1, 0)
        for number in range(8)
    ]
    array = arrange(devices, (4, 2, 2))
    assert array.shape == (4, 2, 2)
    assert [[device.slice_index for device in place.flat] for place in array] == [[0] * 4] * 2 + [[1] * 4] * 2
    assert {device.id for device in array.flat} == set(range(16))
    with pytest.raises(ValueError, match="1 places along data, which 2 slices cannot share evenly"):
        arrange(devices, (1, 8, 2))


def test_batches_become_arrays_over_the_mesh():
    rows = {"x": np.arange(6).reshape(2, 3)}
    placed = PjitPartitioner(devices=jax.devices()[:1]).shard_batch(rows)
    np.testing.assert_array_equal(placed["x"], rows["x"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_partitions": 3, "devices": [jax.devices()[0]] * 4}, "num_partitions=3 .* 4 devices.*divisor of 4"),
        ({"num_partitions": 2, "model_parallel_submesh": (4, 1)}, "num_partitions=2 contradicts .*product is 4"),
        ({"logical_axis_rules": [("batch", "dta")]}, "mesh axis 'dta'; there are data, fsdp, model"),
        ({"logical_axis_rules": [("batch",)]}, "is not a pair"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PjitPartitioner(**{"devices": [jax.devices()[0]] * 4, **options})


def test_dimensions_other_than_1_and_2_are_refused():
    with pytest.raises(ValueError, match="activation_partitioning_dims=3"):
        standard_logical_axis_rules(activation_partitioning_dims=3)


def test_a_parameter_without_axes_is_refused():
    with pytest.raises(ValueError, match=r"parameter a/b .*b_axes"):
        PjitPartitioner(devices=jax.devices()[:1]).param_shardings({"a": {"b": jnp.ones(2)}}, {})


ON_EIGHT_DEVICES = r"""
    import re, sys, jax, numpy as np
    jax.config.update("jax_num_cpu_devices", 8)
    from flax.linen.partitioning import AxisMetadata
    from tests.training import conftest
    from tests.training.stand_in import BagModel
    from metro_jax.training.models import MetroPretrainingModel
    from metro_jax.training.partitioning import PjitPartitioner
    from metro_jax.training.schedules import create_learning_rate_scheduler
    from metro_jax.training.trainer import Trainer

    batch = conftest.masked_batch()
    metro = sys.argv[1] == "metro"
    embedding, width = ("token_embedding", 16) if metro else ("embedding", 8)
    rate = create_learning_rate_scheduler(factors="constant", base_learning_rate=0.01)
    results = []
    for data, fsdp, model in ((1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)):
        devices = jax.devices()[: data * fsdp * model]
        partitioner = PjitPartitioner(num_partitions=model, fsdp_partitions=fsdp, devices=devices)
        assert tuple(partitioner.mesh.shape.values()) == (data, fsdp, model)
        shapes = {k: v.shape for k, v in batch.items()}
        model_ = MetroPretrainingModel(conftest.TINY, conftest.PRETRAINING) if metro else BagModel()
        trainer = Trainer(model_, partitioner, shapes, learning_rate_fn=rate, num_microbatches=2)
        state, losses = trainer.init_state(), []
        piece = state.target[embedding].addressable_shards[0].data.shape
        assert piece == (736 // model, width // fsdp), piece
        assert state.state.param_states.mu[embedding].addressable_shards[0].data.shape == piece
        for _ in range(3):
            state, metrics = trainer.train(state, partitioner.shard_batch(batch))
            losses.append(float(metrics["loss"][0]))
        results.append(losses)
        if data == 8:
            # Gradients of microbatches are added up locally and reduced once, after the loop; only scalars (the mean
            # weight that the logged loss is divided by) are known to all places in every round.
            with partitioner.context():
                text = trainer._train.lower(state, partitioner.shard_batch(batch)).compile().as_text()
            bodies = set(re.findall(r"body=%?([\w.-]+)", text))
            reductions = {True: [], False: []}
            for block in text.split("\n\n"):
                inside = (re.findall(r"%?([\w.-]+)", block) or [""])[0] in bodies
                reductions[inside] += [line for line in block.splitlines() if " all-reduce(" in line]
            assert any("f32[736," in line for line in reductions[False])
            results_of = [line.split(" all-reduce(")[0].split(" = ")[1] for line in reductions[True]]
            assert not [result for result in results_of if re.search(r"\[\d", result)], results_of
    np.testing.assert_allclose(results[1:], [results[0]] * 3, rtol=1e-5)
    try:
        PjitPartitioner(num_partitions=8, devices=jax.devices()).param_shardings(
            {"x": np.ones((9,))}, {"x_axes": AxisMetadata(("vocab",))}
        )
    except ValueError as error:
        assert "size 9 cannot be cut into 8 parts" in str(error), error
    else:
        raise AssertionError("9 rows on 8 devices")
    print("same")
"""


@pytest.mark.parametrize("model", ["bag", pytest.param("metro", marks=pytest.mark.slow)])
def test_every_layout_of_eight_devices_gives_the_same_losses(model):
    """With dropout and, for METRO, the generator's draws; in a process of its own, which has eight devices."""
    code = textwrap.dedent(ON_EIGHT_DEVICES)
    paths = [str(pathlib.Path(__file__).parents[2])]
    code = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    # The compiler's optimisations take longer than the steps.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, "-c", code, model], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip().endswith("same"), done.stderr[-2000:]


def test_axes_metadata_is_what_t5x_expects():
    shardings = PjitPartitioner(devices=jax.devices()[:1]).param_shardings(
        {"a": {"kernel": jnp.ones((4, 4))}}, {"a": {"kernel_axes": AxisMetadata(("embed", "mlp"))}}
    )
    assert shardings["a"]["kernel"].spec == PartitionSpec("fsdp", "model")
