"""Recipes without data and devices."""

import numpy as np
import pytest

from metro_jax.training.batches import Batches
from metro_jax.training.errors import UserError
from metro_jax.training.partitioning import DataLayout
from metro_jax.training.plan import recipe as recipes

TINY = ["MetroConfig.vocab_size = 736", "MetroConfig.d_model = 16", "MetroConfig.num_heads = 2", "BATCH_SIZE = 4"]


@pytest.mark.parametrize("pack", [False, True])
def test_features_are_those_of_the_real_batches(data, pack):
    recipe = recipes.load("quickstart_pretrain", [*TINY, f"PACK = {pack}"])
    batches = Batches(recipe.dataset, DataLayout(0, 1, True), recipe.model.FEATURE_CONVERTER_CLS, 1)
    expected = {name: (x.shape, np.dtype(x.dtype)) for name, x in batches.features.items()}
    assert {name: (x.shape, np.dtype(x.dtype)) for name, x in recipe.features().items()} == expected


def test_mesh_sizes():
    assert recipes.mesh_sizes("data=16, fsdp=8,model=1") == {"data": 16, "fsdp": 8, "model": 1}
    for wrong in ("dat=2", "data", "fsdp=0"):
        with pytest.raises(ValueError, match="data=16,fsdp=8"):
            recipes.mesh_sizes(wrong)


def test_a_mesh_that_is_not_the_topologys_is_refused():
    import jax

    recipe = recipes.load("quickstart_pretrain", TINY)
    devices = [jax.devices()[0]] * 8
    assert dict(recipe.partitioner(devices, {"fsdp": 2}).mesh.shape) == {"data": 4, "fsdp": 2, "model": 1}
    with pytest.raises(ValueError, match="data=4 would be"):
        recipe.partitioner(devices, {"data": 3, "fsdp": 2})


def test_a_mesh_that_the_torus_does_not_have_is_explained(monkeypatch):
    def refuse(shape, devices):
        raise NotImplementedError("Failed to find assignment")

    recipe = recipes.load("quickstart_pretrain", TINY)
    monkeypatch.setattr("metro_jax.training.partitioning.mesh_utils.create_device_mesh", refuse)
    chip = type("Chip", (), {"platform": "tpu"})()
    with pytest.raises(ValueError, match="fsdp=2 cannot be laid onto this torus"):
        recipe.partitioner([chip] * 4, {"fsdp": 2})


def test_bindings_are_checked_like_training_checks_them():
    with pytest.raises(UserError, match="did you mean"):
        recipes.load("quickstart_pretrain", ["MetroConfig.rematt = 'full'"])
