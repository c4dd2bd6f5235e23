"""fairseq checkpoints: every way of sharing, both directions, and how far their configurations can be trusted."""

import json

import numpy as np
import pytest

from metro_jax.convert.errors import ConversionError, TensorMismatchError, UnsafePickleError
from metro_jax.convert.fairseq import (
    fairseq_rules,
    fairseq_to_params,
    params_to_fairseq,
    read_fairseq_checkpoint,
)
from metro_jax.convert.fairseq_config import metro_config_to_fairseq
from metro_jax.convert.hub import hub_to_params, params_to_hub
from metro_jax.convert.rules import flatten, nest, sizes_of
from metro_jax.convert.tensors import open_tensors
from metro_jax.model.config import PretrainingConfig

from . import torch_files
from .conftest import CONFIG, random_params
from .test_hub import assert_equal
from .test_rules import PRETRAINING
from .torch_files import Call, Global

MAIN = CONFIG.replace(padding="training")


def checkpoint(pretraining, seed=0):
    """Parameters and state dict of the small model."""
    params = random_params(fairseq_rules(pretraining), sizes_of(MAIN) | {"G": pretraining.generator_layers}, seed)
    return params, params_to_fairseq(MAIN, params, pretraining)


@pytest.mark.parametrize("pretraining", PRETRAINING, ids=lambda p: f"{p.sharing}.{p.rtd_head}")
def test_there_and_back_is_bit_equal(pretraining):
    params, tensors = checkpoint(pretraining)
    for cfg in (metro_config_to_fairseq(MAIN, pretraining), {"model": metro_config_to_fairseq(MAIN, pretraining)}):
        config, found, back = fairseq_to_params(tensors, cfg)
        assert (config, found) == (MAIN, pretraining)
        assert_equal(back, params)


@pytest.mark.parametrize("pretraining", PRETRAINING, ids=lambda p: f"{p.sharing}.{p.rtd_head}")
def test_sharing_is_seen_in_the_tensors(pretraining):
    params, tensors = checkpoint(pretraining)
    config, found, back = fairseq_to_params(tensors)
    assert found == pretraining
    assert config == MAIN.replace(max_positions=MAIN.position_rows - 2, relative_attention_max_distance=128)
    assert_equal(back, params)


def test_the_main_model_alone():
    pretraining = PretrainingConfig(generator_layers=2)
    params, tensors = checkpoint(pretraining)
    main = {name: value for name, value in params.items() if name not in ("generator", "rtd_head")}
    config, found, back = fairseq_to_params(tensors, {}, main_only=True)
    assert found is None
    assert config.num_encoder_layers == MAIN.num_encoder_layers
    assert_equal(back, main)
    alone = {name: value for name, value in tensors.items() if not name.startswith(("generator.", "rtd_head."))}
    assert_equal(fairseq_to_params(alone)[2], main)
    assert set(params_to_fairseq(MAIN, main)) == set(alone)


def test_saved_sizes_and_dropouts_are_not_believed():
    pretraining = PretrainingConfig(generator_layers=2)
    _, tensors = checkpoint(pretraining)
    cfg = {
        "encoder_layers": 2,
        "decoder_layers": 9,
        "encoder_attention_heads": 4,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    config, found, _ = fairseq_to_params(tensors, cfg)
    assert (config.num_encoder_layers, config.num_decoder_layers, config.num_heads) == (3, 2, 3)
    assert (config.dropout_rate, config.attention_dropout_rate) == (0.1, 0.1)
    assert found is not None
    assert found.generator_layers == 2
    config, _, _ = fairseq_to_params(tensors, cfg, main_only=True)
    assert config.dropout_rate == 0.1
    alone = {name: value for name, value in tensors.items() if not name.startswith(("generator.", "rtd_head."))}
    assert fairseq_to_params(alone, {**cfg, "dropout": 0.3})[0].dropout_rate == 0.3


@pytest.mark.parametrize(("said", "meant"), [(True, "token"), ("true", "token"), (False, "none"), ("none", "none")])
def test_the_old_boolean(said, meant):
    _, tensors = checkpoint(PretrainingConfig(generator_layers=1, sharing=meant))
    found = fairseq_to_params(tensors, {"share_generator_discriminator_embed": said, "rtd_head": True})[1]
    assert found is not None
    assert (found.sharing, found.rtd_head) == (meant, "simple")


def test_an_unknown_way_of_sharing():
    _, tensors = checkpoint(PretrainingConfig())
    with pytest.raises(ConversionError, match="did you mean 'token_pos'"):
        fairseq_to_params(tensors, {"share_generator_discriminator_embed": "token_poss"})


def test_tied_tensors_must_agree():
    pretraining = PretrainingConfig(sharing="token_pos_norm", rtd_head="roberta")
    _, tensors = checkpoint(pretraining)
    tied = [
        "decoder.output_projection.weight",
        "generator.lm_head.weight",
        "generator.sentence_encoder.embed_positions.weight",
        "generator.sentence_encoder.layernorm_embedding.bias",
    ]
    changed = tensors | {name: tensors[name] + 1 for name in tied}
    with pytest.raises(ConversionError) as caught:
        fairseq_to_params(changed, {"share_generator_discriminator_embed": "token_pos_norm"})
    assert all(f"{name} differs from encoder." in str(caught.value) for name in tied)


def test_tied_tensors_may_be_stored_once():
    pretraining = PretrainingConfig(sharing="token_pos_norm", rtd_head="roberta", generator_layers=2)
    params, tensors = checkpoint(pretraining)
    once = {
        name: value
        for name, value in tensors.items()
        if name.endswith(".version") or not any(name in rule.copies for rule in fairseq_rules(pretraining))
    }
    assert len(once) < len(tensors)
    _, found, back = fairseq_to_params(once)
    assert found == pretraining
    assert_equal(back, params)


def test_misfits_are_all_listed():
    _, tensors = checkpoint(PretrainingConfig(generator_layers=2))
    del tensors["generator.lm_head.dense.bias"]
    del tensors["generator.sentence_encoder.layers.1.fc1.bias"]
    tensors["decoder.layers.0.self_attn_rel_pos.rel_attn_bias.weight"] = np.zeros((16, 3), np.float32)
    tensors["generator.lm_head.bias"] = tensors["generator.lm_head.bias"][1:]
    with pytest.raises(TensorMismatchError, match="main_only=True") as caught:
        fairseq_to_params(tensors)
    found = caught.value.problems
    assert sorted(found["missing"]) == ["generator.lm_head.dense.bias", "generator.sentence_encoder.layers.1.fc1.bias"]
    assert found["unknown"][0].startswith("decoder.layers.0.self_attn_rel_pos.rel_attn_bias.weight")
    assert found["misshapen"][0].startswith("generator.lm_head.bias")


def test_parameters_of_another_configuration():
    params, _ = checkpoint(PretrainingConfig(generator_layers=2))
    with pytest.raises(TensorMismatchError) as caught:
        params_to_fairseq(MAIN, params, PretrainingConfig(generator_layers=2, sharing="none", rtd_head="roberta"))
    assert "generator/token_embedding" in caught.value.problems["missing"]


# -- .pt files


def write_pt(path, tensors, cfg, **options):
    """A fairseq checkpoint around a state dict."""
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return torch_files.save(
        path, arrays, lambda root: {"args": None, "cfg": cfg, "model": root, "extra_state": {}}, **options
    )


def test_a_saved_run(tmp_path):
    pretraining = PretrainingConfig(generator_layers=2, rtd_head="roberta")
    params, tensors = checkpoint(pretraining)
    cfg = {"task": {"_name": "t"}, "model": metro_config_to_fairseq(MAIN, pretraining)}
    read, read_cfg = read_fairseq_checkpoint(write_pt(tmp_path / "checkpoint_best.pt", tensors, cfg))
    assert read_cfg == cfg
    config, found, back = fairseq_to_params(read, read_cfg)
    assert (config, found) == (MAIN, pretraining)
    assert_equal(back, params)


def test_namespaces_and_omegaconf_are_read_as_data(tmp_path):
    def node(kind, state):
        return Call(Global("omegaconf.dictconfig", kind), (), state)

    any_node = Call(Global("omegaconf.nodes", "AnyNode"), (), {"_val": 77, "_metadata": Global("typing", "Any")})
    enum = Call(Global("fairseq.dataclass.constants", "Choices"), ("value",))
    model = Call(
        Global("argparse", "Namespace"), (), {"encoder_rp_max_dist": any_node, "choice": enum, "list": [1, (2,)]}
    )
    cfg = node(
        "DictConfig", {"_content": {"model": model, "task": node("ListConfig", {"_content": [1]})}, "_parent": None}
    )
    _, tensors = checkpoint(PretrainingConfig())
    read, read_cfg = read_fairseq_checkpoint(write_pt(tmp_path / "x.pt", tensors, cfg))
    assert read_cfg == {"model": {"encoder_rp_max_dist": 77, "choice": "value", "list": [1, [2]]}, "task": [1]}
    assert fairseq_to_params(read, read_cfg)[0].relative_attention_max_distance == 77


def test_a_configuration_cannot_run_anything(tmp_path):
    for attack in (Call(Global("os", "system"), ("true",)), Call(Global("builtins", "eval"), ("1",))):
        path = write_pt(tmp_path / "x.pt", {"w": np.ones(2)}, {"model": attack})
        with pytest.raises(UnsafePickleError, match=f"{attack.function.module}.{attack.function.name}"):
            read_fairseq_checkpoint(path)


def test_a_configuration_that_contains_itself(tmp_path):
    itself = torch_files.Raw(b"}q\x01X\x05\x00\x00\x00modelh\x01s")
    with pytest.raises(ConversionError, match="deep"):
        read_fairseq_checkpoint(write_pt(tmp_path / "x.pt", {"w": np.ones(2)}, itself))


def test_other_files_are_told_apart(tmp_path):
    path = torch_files.save(tmp_path / "x.pt", {"w": np.ones(2)})
    with pytest.raises(ConversionError, match="expected a dict with `model`"):
        read_fairseq_checkpoint(path)


# -- golden


def model_files(golden_dir):
    for path in sorted((golden_dir / "fairseq_tiny").glob("model.*.safetensors")):
        name = path.name.removeprefix("model.").removesuffix(".safetensors")
        yield name, open_tensors(path)[0], json.loads((path.parent / f"cfg.{name}.json").read_text())


@pytest.mark.golden
def test_golden_round_trips(golden_dir):
    for name, tensors, cfg in model_files(golden_dir):
        config, pretraining, params = fairseq_to_params(tensors, cfg)
        assert pretraining is not None
        assert name == f"{pretraining.rtd_head}.{pretraining.sharing}"
        assert config.position_rows == cfg["max_positions"] + 2
        assert fairseq_to_params(tensors)[1] == pretraining
        back = params_to_fairseq(config, params, pretraining)
        assert set(back) == set(tensors)
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(back[key], np.asarray(tensor), err_msg=f"{name}: {key}")


@pytest.mark.golden
def test_golden_finetuned_is_the_hub_model(golden_dir):
    folder = golden_dir / "fairseq_tiny"
    tensors, _ = open_tensors(folder / "finetuned.safetensors")
    config, pretraining, params = fairseq_to_params(tensors, json.loads((folder / "finetuned.cfg.json").read_text()))
    assert pretraining is None
    expected, _ = open_tensors(golden_dir / "hub_tiny" / "pytorch_model.bin")
    converted = params_to_hub(config, params, dtype="float16")
    assert set(converted) == set(expected)
    for name, tensor in expected.items():
        assert converted[name].dtype == tensor.dtype
        np.testing.assert_array_equal(converted[name], np.asarray(tensor), err_msg=name)
    hub_config, hub_params, _ = hub_to_params(
        expected, json.loads((golden_dir / "hub_tiny" / "config.json").read_text())
    )
    assert config == hub_config.replace(padding="training")
    halves = nest({path: value.astype(np.float16).astype(np.float32) for path, value in flatten(params).items()})
    assert_equal(halves, hub_params)
    back = params_to_fairseq(config, params)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], np.asarray(tensor), err_msg=name)
