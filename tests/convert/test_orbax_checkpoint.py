"""Checkpoints of training: ours are read by it, its are read by us, and what is not one is told apart."""

import weakref

import numpy as np
import pytest

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.orbax_checkpoint import find_checkpoint, read_orbax, write_orbax
from metro_jax.convert.rules import flatten, nest
from metro_jax.convert.settings import write_settings
from metro_jax.convert.source import open_checkpoint
from metro_jax.model.config import PretrainingConfig

from .conftest import CONFIG
from .test_conversion import assert_same


def test_written_and_read_is_bit_equal(tmp_path, params):
    write_orbax(tmp_path / "checkpoint_0", params)
    read, rest = read_orbax(tmp_path / "checkpoint_0")
    assert rest == ()
    assert_same(read, params)


def test_parameters_are_read_one_after_the_other_when_they_are_written(tmp_path):
    """A checkpoint larger than the memory left must never lie in memory as a whole."""
    alive, most = 0, 0

    def died():
        nonlocal alive
        alive -= 1

    def lazy(i):
        def read():
            nonlocal alive, most
            array = np.full((64, 64), i, np.float32)
            weakref.finalize(array, died)
            alive += 1
            most = max(most, alive)
            return array

        return LazyTensor((64, 64), np.dtype(np.float32), read, i)

    write_orbax(tmp_path / "checkpoint_0", {f"w{i}": lazy(i) for i in range(20)})
    assert most <= 3, f"{most} of 20 parameters were in memory at once"
    read, _ = read_orbax(tmp_path / "checkpoint_0")
    assert [float(np.asarray(read[f"w{i}"])[0, 0]) for i in range(20)] == list(range(20))


def test_the_newest_complete_checkpoint_is_meant(tmp_path, params):
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "nowhere") is None
    for step in (5, 30):
        write_orbax(tmp_path / f"checkpoint_{step}", params)
    (tmp_path / "checkpoint_200" / "state").mkdir(parents=True)  # cut short
    (tmp_path / "checkpoint_40.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint_30"
    assert find_checkpoint(tmp_path / "checkpoint_5") == tmp_path / "checkpoint_5"


def test_training_reads_it(tmp_path, params):
    """INITIAL_CHECKPOINT_PATH, as finetuning reads it, into float32."""
    from metro_jax.training.checkpoints import find_checkpoints, restore_params

    halves = nest({path: value.astype(np.float16) for path, value in flatten(params).items()})
    write_orbax(tmp_path / "checkpoint_0", halves)
    (found,) = find_checkpoints(tmp_path)
    restored, left = restore_params(found, params)
    assert left == []
    assert_same(restored, params)


def test_what_training_saves_is_read(tmp_path, params):
    """Its state has moments and a step beside the parameters; its settings lie in config.gin."""
    from metro_jax.training.checkpoints import Checkpointer

    state = {"target": params, "state": {"step": np.int32(7), "mu": params}}
    with Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.save(7, state)
    (tmp_path / "run" / "config.gin").write_text(
        "from metro_jax.model import config\n"
        "DROPOUT_RATE = 0.25\n"
        "MODEL/config.MetroConfig.dropout_rate = %DROPOUT_RATE\n"
        "MODEL/config.MetroConfig.relative_attention_max_distance = 77\n"
        "MODEL/config.MetroConfig.dtype = 'bfloat16'\n"
        "train.model = @models.MetroModel()\n"
    )
    source = open_checkpoint(tmp_path / "run")
    assert source.path == tmp_path / "run" / "checkpoint_7"
    assert source.config == CONFIG.replace(padding="training", dropout_rate=0.25)
    assert any("left behind" in note and "state" in note for note in source.notes)
    assert_same(source.params, params)


def test_arrays_and_settings_that_contradict_each_other(tmp_path, params):
    write_orbax(tmp_path / "checkpoint_0", params)
    with pytest.raises(FileNotFoundError, match=r"neither metro_config\.json nor config\.gin.*--config"):
        open_checkpoint(tmp_path)
    write_settings(tmp_path / "metro_config.json", CONFIG.replace(d_ff=21, num_decoder_layers=3), PretrainingConfig())
    with pytest.raises(ConversionError, match="d_ff=21, but the arrays say 20; num_decoder_layers=3, but"):
        open_checkpoint(tmp_path)
    write_settings(tmp_path / "other.json", CONFIG, None)
    assert open_checkpoint(tmp_path, config=tmp_path / "other.json").config == CONFIG


def test_misfits_are_all_listed(tmp_path, params):
    flat = flatten(params)
    flat["encoder/layers/mlp/wi/bais"] = flat.pop("encoder/layers/mlp/wi/bias")
    flat["decoder/position_embedding"] = flat["decoder/position_embedding"][:-1]
    write_orbax(tmp_path / "checkpoint_0", nest(flat))
    write_settings(tmp_path / "metro_config.json", CONFIG, None)
    with pytest.raises(ConversionError) as caught:
        open_checkpoint(tmp_path)
    for line in ("encoder/layers/mlp/wi/bais", "encoder/layers/mlp/wi/bias", "decoder/position_embedding: shape"):
        assert line in str(caught.value)


def test_other_states_and_damage(tmp_path, params):
    import orbax.checkpoint as ocp
    from orbax.checkpoint import args

    ocp.PyTreeCheckpointer().save(tmp_path / "checkpoint_0" / "state", args=args.PyTreeSave({"x": np.ones(3)}))
    with pytest.raises(ConversionError, match=r"no parameters \(a tree target/\.\.\.\), only x"):
        read_orbax(tmp_path / "checkpoint_0")
    write_orbax(tmp_path / "checkpoint_1", params)
    for path in (tmp_path / "checkpoint_1" / "state").rglob("*"):
        if path.is_file() and path.name == "_METADATA":
            path.write_bytes(b"{")
    with pytest.raises(ConversionError, match="cannot be read"):
        read_orbax(tmp_path / "checkpoint_1")
