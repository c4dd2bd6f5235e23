"""What a path holds is seen in its content, whatever it is called."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.fairseq import params_to_fairseq, write_fairseq_checkpoint
from metro_jax.convert.hub import params_to_hub, save_hub_folder
from metro_jax.convert.hub_config import metro_config_to_hub
from metro_jax.convert.source import load_model, open_checkpoint

from . import torch_files
from .test_conversion import assert_same


def contiguous(tensors):
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def test_files_are_recognised_whatever_their_name(tmp_path, config, params):
    hub, fairseq = (
        contiguous(params_to_hub(config, params, dtype="float32")),
        contiguous(params_to_fairseq(config, params)),
    )
    (tmp_path / "config.json").write_text(json.dumps(metro_config_to_hub(config)))
    save_file(hub, tmp_path / "a.pt")
    torch_files.save(tmp_path / "b.safetensors.old", hub)
    save_file(fairseq, tmp_path / "c.bin")
    torch_files.save(tmp_path / "d", fairseq)
    write_fairseq_checkpoint(tmp_path / "e.bin", config, params)
    for name, form in {
        "a.pt": "hub",
        "b.safetensors.old": "hub",
        "c.bin": "fairseq",
        "d": "fairseq",
        "e.bin": "fairseq",
    }.items():
        source = open_checkpoint(tmp_path / name)
        assert source.form == form, name
        assert_same(source.params, params)


def test_the_distance_comes_from_the_configuration_or_is_128(tmp_path, config, params):
    save_hub_folder(tmp_path / "m", config, params)
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    assert open_checkpoint(tmp_path / "m").config.relative_attention_max_distance == 77
    del raw["relative_attention_max_distance"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(raw))
    source = open_checkpoint(tmp_path / "m")
    assert source.config.relative_attention_max_distance == 128
    assert any("no relative_attention_max_distance: 128" in note for note in source.notes)
    saved = {"model": {"encoder_rp_max_dist": 256}}
    tensors = contiguous(params_to_fairseq(config, params))
    torch_files.save(tmp_path / "x.pt", tensors, lambda root: {"model": root, "cfg": saved})
    assert open_checkpoint(tmp_path / "x.pt").config.relative_attention_max_distance == 256


def test_values_are_not_read_to_recognise(tmp_path, config, params):
    """Names and shapes are enough: a damaged tensor is noticed when it is used."""
    path = tmp_path / "pytorch_model.bin"
    tensors = contiguous(params_to_hub(config, params))
    torch_files.save(path, tensors)
    (tmp_path / "config.json").write_text(json.dumps(metro_config_to_hub(config)))
    data = bytearray(path.read_bytes())
    wanted = tensors["decoder.pos_embed.weight"].tobytes()
    data[data.index(wanted)] ^= 1
    path.write_bytes(data)
    source = open_checkpoint(tmp_path)
    with pytest.raises(ConversionError, match="checksum"):
        np.asarray(source.params["decoder"]["position_embedding"])


def test_what_is_not_there(tmp_path, config, params):
    with pytest.raises(MissingFileError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(MissingFileError, match=r"no checkpoint in it.*found readme\.txt"):
        open_checkpoint(tmp_path)
    with pytest.raises(ConversionError, match="not a torch checkpoint"):
        open_checkpoint(tmp_path / "readme.txt")
    torch_files.save(tmp_path / "pytorch_model.bin", contiguous(params_to_hub(config, params)))
    with pytest.raises(MissingFileError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_a_model_without_vocabulary_cannot_answer(tmp_path, config, params):
    save_hub_folder(tmp_path / "m", config, params)
    with pytest.raises(MissingFileError, match=r"no vocabulary \(sp\.model, dict\.txt\).*--to hub --vocab"):
        load_model(tmp_path / "m")
