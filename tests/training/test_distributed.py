"""When a run joins others."""

import pytest

from metro_jax.training import distributed
from metro_jax.training.gin_utils import parse_flags


def test_what_names_other_processes():
    assert not distributed.describes_itself({})
    assert not distributed.describes_itself({"TPU_WORKER_HOSTNAMES": "localhost"})
    assert distributed.describes_itself({"TPU_WORKER_HOSTNAMES": "one,two"})
    assert distributed.describes_itself({"JAX_COORDINATOR_ADDRESS": "one:1"})


def test_a_part_of_the_flags_is_not_enough():
    values = parse_flags(["train", "--coordinator_address=127.0.0.1:9", "--process_count=2"])
    with pytest.raises(ValueError, match="--process_index: several processes need all of"):
        distributed.initialize(values)


def test_alone_nothing_is_joined(monkeypatch):
    for name in ("TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda **_: pytest.fail("joined"))
    distributed.initialize(parse_flags(["train"]))
