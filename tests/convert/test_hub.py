"""Hub-format folders: read, written, read again; nothing half-written ever stays."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from metro_jax.convert.errors import ConversionError, FolderExistsError, MissingFileError, TensorMismatchError
from metro_jax.convert.hub import HUB_RULES, hub_to_params, load_hub_folder, params_to_hub, save_hub_folder
from metro_jax.convert.hub_config import metro_config_to_hub
from metro_jax.convert.rules import flatten, nest
from metro_jax.convert.tensors import open_tensors

from . import torch_files

COPIES = HUB_RULES[0].names


def assert_equal(a, b):
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for path, value in a.items():
        assert value.dtype == b[path].dtype
        np.testing.assert_array_equal(value, b[path])


def names_in(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Tokenizer:
    def save_pretrained(self, folder):
        (pathlib.Path(folder) / "sp.model").write_bytes(b"pieces")


class BrokenTokenizer:
    def save_pretrained(self, folder):
        (pathlib.Path(folder) / "sp.model").write_bytes(b"pie")
        raise OSError("no space left")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_written_and_read_is_bit_equal(tmp_path, config, params, dtype):
    written = save_hub_folder(tmp_path / "deep" / "model", config, params, Tokenizer(), dtype)
    read_config, read_params, info = load_hub_folder(tmp_path / "deep" / "model")
    assert read_config == config
    assert_equal(read_params, params)
    assert info.parameters == written.parameters == sum(value.size for value in flatten(params).values())
    assert info.dtypes == (dtype,)
    folder = tmp_path / "deep" / "model"
    assert names_in(folder) == ["config.json", "generation_config.json", "model.safetensors", "sp.model"]
    assert names_in(folder.parent) == ["model"]
    with safe_open(folder / "model.safetensors", "np") as handle:
        assert handle.metadata() == {"format": "pt"}
        assert set(COPIES) & set(handle.keys()) == {"shared.weight"}
    assert json.loads((folder / "config.json").read_text()) == metro_config_to_hub(config)


def test_bfloat16(tmp_path, config, params):
    params = nest(
        {path: value.astype(ml_dtypes.bfloat16).astype(np.float32) for path, value in flatten(params).items()}
    )
    save_hub_folder(tmp_path / "m", config, params, dtype="bfloat16")
    assert_equal(load_hub_folder(tmp_path / "m")[1], params)


def test_stored_half_precision_can_be_kept(tmp_path, config, params):
    save_hub_folder(tmp_path / "m", config, params, dtype="float16")
    read = load_hub_folder(tmp_path / "m", dtype="stored")[1]
    assert {value.dtype for value in flatten(read).values()} == {np.dtype(np.float16)}


def test_generator_and_head_are_left_out(tmp_path, config, params):
    extra = {**params, "generator": {"x": np.ones(3)}, "rtd_head": {"out": {"bias": np.ones(1)}}}
    save_hub_folder(tmp_path / "m", config, extra)
    assert_equal(load_hub_folder(tmp_path / "m")[1], params)


@pytest.mark.parametrize("kept", [COPIES[:1], COPIES[1:2], COPIES[2:3], COPIES[3:], COPIES[1:], COPIES])
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_any_subset_of_the_copies(tmp_path, config, params, kept, form):
    tensors = params_to_hub(config, params)
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items() if name not in COPIES or name in kept}
    (tmp_path / "config.json").write_text(json.dumps(metro_config_to_hub(config)))
    if form.endswith("bin"):
        torch_files.save(tmp_path / form, tensors)
    else:
        save_file(tensors, tmp_path / form)
    assert_equal(load_hub_folder(tmp_path)[1], params)


def test_shared_weight_wins_and_the_others_are_noted(config, params):
    tensors = params_to_hub(config, params)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    _, read, notes = hub_to_params(tensors, metro_config_to_hub(config))
    assert_equal(read, params)
    assert len(notes) == 1
    assert "lm_head.weight" in notes[0]


def test_sizes_come_from_the_tensors(config, params):
    tensors = params_to_hub(config, params, dtype="float32")
    read_config, read, _ = hub_to_params(tensors, {"layer_norm_epsilon": 1e-5, "relative_attention_max_distance": 77})
    assert read_config == config
    assert_equal(read, params)
    assert hub_to_params(tensors, {})[0].relative_attention_max_distance == 128  # where a Hub config is silent
    with pytest.raises(ConversionError, match="num_layers=9, but the tensors say 3"):
        hub_to_params(tensors, {"num_layers": 9})


def test_misfits_are_listed_with_the_folder(tmp_path, config, params):
    tensors = {name: np.ascontiguousarray(x) for name, x in params_to_hub(config, params, copies=False).items()}
    tensors["extra"] = tensors.pop("encoder.pos_embed.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TensorMismatchError) as caught:
        load_hub_folder(tmp_path)
    assert caught.value.problems == {"missing": ["encoder.pos_embed.weight"], "unknown": ["extra"]}
    assert str(tmp_path) in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(MissingFileError, match=r"config\.json"):
        load_hub_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"pytorch_model\.bin"):
        load_hub_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConversionError, match="not valid JSON"):
        load_hub_folder(tmp_path)


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failure", ["tokenizer", "overflow", "missing", "dtype"])
def test_a_failed_save_leaves_nothing_behind(tmp_path, config, params, existing, failure):
    folder = tmp_path / "a" / "b" / "model"
    if existing:
        save_hub_folder(folder, config, params)
    before = sorted(tmp_path.rglob("*"))
    flat, tokenizer, dtype = flatten(params), None, "float16"
    if failure == "tokenizer":
        tokenizer = BrokenTokenizer()
    elif failure == "overflow":
        flat["decoder/layers/mlp_norm/scale"] = flat["decoder/layers/mlp_norm/scale"] + np.float32(1e6)
    elif failure == "missing":
        del flat["token_embedding"]
    else:
        dtype = "float12"
    with pytest.raises((OSError, ConversionError)) as caught:
        save_hub_folder(folder, config, nest(flat), tokenizer, dtype, overwrite=True)
    if failure == "overflow":
        assert "decoder.block.0.layer.2.layer_norm.weight" in str(caught.value)
        assert "bfloat16" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    if existing:
        assert_equal(load_hub_folder(folder)[1], params)


def test_full_folders_are_not_overwritten_unless_told(tmp_path, config, params):
    folder = tmp_path / "model"
    save_hub_folder(folder, config, params)
    other = nest({path: value + 1 for path, value in flatten(params).items()})
    with pytest.raises(FolderExistsError, match="overwrite=True"):
        save_hub_folder(folder, config, other)
    assert_equal(load_hub_folder(folder)[1], params)
    (folder / "pytorch_model.bin").write_bytes(b"old weights")
    save_hub_folder(folder, config, other, overwrite=True)
    assert_equal(load_hub_folder(folder)[1], other)
    assert "pytorch_model.bin" not in names_in(folder)
    assert names_in(tmp_path) == ["model"]


def test_folders_without_a_checkpoint_are_never_replaced(tmp_path, config, params):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderExistsError, match=r"thesis\.tex"):
        save_hub_folder(tmp_path, config, params, overwrite=True)
    with pytest.raises(FolderExistsError, match="is a file"):
        save_hub_folder(tmp_path / "thesis.tex", config, params, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_used(tmp_path, config, params, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="no space"):
        save_hub_folder("model", config, params, BrokenTokenizer())
    assert names_in(tmp_path / "model") == []
    monkeypatch.chdir("model")
    save_hub_folder(".", config, params)
    assert_equal(load_hub_folder(".")[1], params)
    assert names_in(pathlib.Path()) == ["config.json", "generation_config.json", "model.safetensors"]
    assert names_in(tmp_path) == ["model"]


def test_a_link_stays_a_link(tmp_path, config, params):
    (tmp_path / "link").symlink_to("target", target_is_directory=True)
    save_hub_folder(tmp_path / "link", config, params)
    save_hub_folder(tmp_path / "link", config, params, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_equal(load_hub_folder(tmp_path / "target")[1], params)


def hub_folders(golden_dir):
    return [path.parent for path in sorted(golden_dir.glob("*/config.json"))]


@pytest.mark.golden
def test_golden_both_files_give_the_same_parameters(golden_dir):
    for folder in hub_folders(golden_dir):
        config, params, info = load_hub_folder(folder)
        raw = json.loads((folder / "config.json").read_text())
        assert config.vocab_size == raw["vocab_size"]
        tensors, _ = open_tensors(folder / "pytorch_model.bin")
        other_config, other, notes = hub_to_params(tensors, raw)
        assert (other_config, notes) == (config, ())
        assert_equal(other, params)
        assert info.parameters == sum(value.size for value in flatten(params).values())


@pytest.mark.golden
def test_golden_written_and_read_again(golden_dir, tmp_path):
    for i, folder in enumerate(hub_folders(golden_dir)):
        config, params, _ = load_hub_folder(folder)
        save_hub_folder(tmp_path / str(i), config, params, dtype="float16")
        assert load_hub_folder(tmp_path / str(i))[0] == config
        assert_equal(load_hub_folder(tmp_path / str(i))[1], params)
        ours, theirs = open_tensors(tmp_path / str(i))[0], open_tensors(folder / "model.safetensors")[0]
        assert set(ours) == set(theirs)
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(np.asarray(ours[name]), np.asarray(tensor))
        written = json.loads((tmp_path / str(i) / "config.json").read_text())
        reference = json.loads((folder / "config.json").read_text())
        assert set(written) == set(reference) | {"relative_attention_max_distance"}
        changed = {key for key in reference if written[key] != reference[key]}
        assert changed <= {"auto_map"}
