"""seqio's registries, used twice."""

import pytest
import seqio

from metro_jax.data.registry import add_mixture, add_task


def source():
    return seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"])


def test_what_was_registered_here_is_replaced():
    add_task("registry_a", source=source(), output_features={})
    task = add_task("registry_a", source=source(), output_features={})
    assert seqio.TaskRegistry.get("registry_a") is task
    add_mixture("registry_m", [("registry_a", 1.0)])
    mixture = add_mixture("registry_m", [("registry_a", 2.0)])
    assert seqio.MixtureRegistry.get("registry_m") is mixture
    add_task("registry_m", source=source(), output_features={})
    assert "registry_m" not in seqio.MixtureRegistry.names()


def test_what_others_registered_is_not():
    seqio.TaskRegistry.add("registry_theirs", source=source(), output_features={})
    with pytest.raises(ValueError, match="'registry_theirs' is already taken"):
        add_task("registry_theirs", source=source(), output_features={})
    seqio.TaskRegistry.remove("registry_theirs")
