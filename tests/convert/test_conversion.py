"""Every format to every other and back, bit for bit; destinations that are complete or not there."""

import json
import pathlib

import numpy as np
import pytest

from metro_jax.convert.conversion import convert, total_bytes
from metro_jax.convert.errors import ConversionError, FolderExistsError, TensorMismatchError
from metro_jax.convert.fairseq import fairseq_rules, write_fairseq_checkpoint
from metro_jax.convert.hub import HUB_RULES, params_to_hub, save_hub_folder
from metro_jax.convert.hub_config import metro_config_to_hub
from metro_jax.convert.rules import flatten, sizes_of
from metro_jax.convert.source import load_model, open_checkpoint
from metro_jax.convert.tensors import open_tensors
from metro_jax.text.tokenizer import MetroTokenizer

from . import torch_files
from .conftest import CONFIG, random_params
from .test_rules import PRETRAINING

VOCABULARY = pathlib.Path(__file__).parent.parent / "text" / "data"
VOCABULARY_SIZE = MetroTokenizer.from_pretrained(VOCABULARY).vocab_size
WITH_VOCABULARY = CONFIG.replace(vocab_size=VOCABULARY_SIZE)
FORMS = ("hub", "jax", "fairseq")


def assert_same(a, b):
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for path, leaf in a.items():
        x, y = np.asarray(leaf), np.asarray(b[path])
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.view(f"u{x.itemsize}"), y.view(f"u{y.itemsize}"), err_msg=path)


def listing(folder):
    """Everything below a folder; what Orbax keeps has names drawn at random."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(name for name in names if "/state/" not in name)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Hub folder as published: float16, four copies, a vocabulary, a tokenizer config with code of its own."""
    folder = tmp_path_factory.mktemp("model") / "model"
    params = random_params(HUB_RULES, sizes_of(WITH_VOCABULARY))
    save_hub_folder(folder, WITH_VOCABULARY, params, MetroTokenizer.from_pretrained(VOCABULARY))
    (folder / "model.safetensors").unlink()
    torch_files.save(folder / "pytorch_model.bin", params_to_hub(WITH_VOCABULARY, params))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "of_another_tool": 1}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("first", FORMS)
def test_any_way_round_is_bit_equal(model, tmp_path, first):
    source = open_checkpoint(model)
    convert(source, tmp_path / first, first)
    between = open_checkpoint(tmp_path / first)
    assert between.form == first
    assert between.config.replace(padding="hub") == source.config
    assert_same(between.params, source.params)
    for second in FORMS:
        convert(between, tmp_path / f"{first}_{second}", second)
        result = open_checkpoint(tmp_path / f"{first}_{second}")
        assert result.form == second
        assert_same(result.params, source.params)
        for name in ("sp.model", "dict.txt"):
            assert (result.vocabulary / name).read_bytes() == (model / name).read_bytes()
        # The original's code, whatever the source named; settings of others travel along.
        settings = json.loads((result.vocabulary / "tokenizer_config.json").read_text())
        code = "gonglinyuan/metro_t0pp_basepp--tokenization_fairseq_t5.FairseqT5Tokenizer"
        assert settings["auto_map"] == {"AutoTokenizer": [code, None]}
        assert (settings["of_another_tool"], settings["n_sentinel_tokens"]) == (1, 16)
    tensors, _ = open_tensors(tmp_path / f"{first}_hub")
    original, _ = open_tensors(model)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(np.asarray(tensor), np.asarray(original[name]))
    config = json.loads((tmp_path / f"{first}_hub" / "config.json").read_text())
    assert config == metro_config_to_hub(WITH_VOCABULARY)
    assert config["relative_attention_max_distance"] == 77
    assert all("gonglinyuan/metro_t0pp_basepp--" in code for code in config["auto_map"].values())


@pytest.mark.parametrize("pretraining", PRETRAINING, ids=lambda p: f"{p.sharing}.{p.rtd_head}")
def test_generator_and_head_survive_in_every_sharing_mode(tmp_path, pretraining):
    sizes = sizes_of(CONFIG) | {"G": pretraining.generator_layers}
    config = CONFIG.replace(padding="training")
    params = random_params(fairseq_rules(pretraining), sizes)
    write_fairseq_checkpoint(tmp_path / "checkpoint_last.pt", config, params, pretraining, dtype="float32")
    source = open_checkpoint(tmp_path)
    assert (source.form, source.config, source.pretraining) == ("fairseq", config, pretraining)
    convert(source, tmp_path / "ours", "jax")
    ours = open_checkpoint(tmp_path / "ours")
    assert (ours.form, ours.config, ours.pretraining) == ("jax", config, pretraining)
    assert_same(ours.params, params)
    convert(ours, tmp_path / "again.pt", "fairseq")
    again = open_checkpoint(tmp_path / "again.pt")
    assert again.pretraining == pretraining
    assert_same(again.params, params)
    written = convert(ours, tmp_path / "hub", "hub")
    assert any("left out" in note and "generator, rtd_head" in note for note in written.notes)
    assert_same(
        open_checkpoint(tmp_path / "hub").params, {k: params[k] for k in ("token_embedding", "encoder", "decoder")}
    )


@pytest.mark.parametrize("to", FORMS)
def test_number_types(model, tmp_path, to):
    source = open_checkpoint(model)
    for dtype in ("float32", "bfloat16"):
        convert(source, tmp_path / dtype, to, dtype=dtype)
        leaves = flatten(open_checkpoint(tmp_path / dtype).params)
        assert {str(leaf.dtype) for leaf in leaves.values()} == {dtype}
    with pytest.raises(ConversionError, match="did you mean 'float16'"):
        convert(source, tmp_path / "x", to, dtype="float61")
    with pytest.raises(ConversionError, match="choose one of hub, jax, fairseq"):
        convert(source, tmp_path / "x", "tensorflow")
    assert not (tmp_path / "x").exists()


def test_every_byte_is_counted_once(model, tmp_path):
    source = open_checkpoint(model)
    seen = []
    convert(source, tmp_path / "ours", "jax", tick=seen.append)
    assert sum(seen) == total_bytes(source) == sum(2 * np.asarray(x).size for x in flatten(source.params).values())


def test_vocabulary_of_another_model_or_none(tmp_path, params, config):
    save_hub_folder(tmp_path / "bare", config, params)
    bare = open_checkpoint(tmp_path / "bare")
    notes = convert(bare, tmp_path / "out", "hub").notes
    assert any("give one with --vocab" in note for note in notes)
    with pytest.raises(ConversionError, match=f"this vocabulary has {VOCABULARY_SIZE} ids, the model 23"):
        convert(bare, tmp_path / "x", "jax", vocabulary=VOCABULARY)
    with pytest.raises(FileNotFoundError, match=r"sp\.model"):
        convert(bare, tmp_path / "x", "jax", vocabulary=tmp_path)
    assert not (tmp_path / "x").exists()


def test_sentinels_are_counted_where_the_files_do_not_say(tmp_path):
    folder = tmp_path / "vocab"
    folder.mkdir()
    for name in ("sp.model", "dict.txt"):
        (folder / name).write_bytes((VOCABULARY / name).read_bytes())
    config = WITH_VOCABULARY.replace(vocab_size=VOCABULARY_SIZE + 3)
    save_hub_folder(tmp_path / "bare", config, random_params(HUB_RULES, sizes_of(config)))
    convert(open_checkpoint(tmp_path / "bare"), tmp_path / "out", "hub", vocabulary=folder)
    assert len(MetroTokenizer.from_pretrained(tmp_path / "out").sentinel_ids) == 16 + 3


@pytest.mark.parametrize("to", ["hub", "jax", "fairseq", "fairseq file"])
def test_what_fails_leaves_nothing_and_what_is_there_stays(model, tmp_path, to, monkeypatch):
    form, _, file = to.partition(" ")
    destination = tmp_path / "deep" / ("model.pt" if file else "model")
    source = open_checkpoint(model)
    leaf = flatten(source.params)["decoder/layers/mlp/wo/kernel"].parts[1]

    def broken():
        raise OSError("no space left on device")

    monkeypatch.setattr(leaf, "_read", broken)
    with pytest.raises((OSError, ConversionError), match="no space left"):
        convert(source, destination, form)
    assert listing(tmp_path) == []
    monkeypatch.undo()
    source = open_checkpoint(model)
    convert(source, destination, form)
    before = listing(tmp_path)
    with pytest.raises(FolderExistsError, match="overwrite=True"):
        convert(source, destination, form)
    convert(source, destination, form, overwrite=True)
    assert listing(tmp_path) == before
    assert_same(open_checkpoint(destination).params, source.params)


def test_what_is_not_a_checkpoint_is_never_replaced(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for form in FORMS:
        with pytest.raises(FolderExistsError, match=r"thesis\.tex"):
            convert(open_checkpoint(model), tmp_path / "mine", form, overwrite=True)
    (tmp_path / "x.pt").mkdir()
    with pytest.raises(FolderExistsError, match="is a folder"):
        convert(open_checkpoint(model), tmp_path / "x.pt", "fairseq")


def test_misfits_are_listed_and_nothing_is_written(model, tmp_path):
    tensors = {name: np.asarray(tensor) for name, tensor in open_tensors(model)[0].items()}
    tensors["surplus.weight"] = tensors.pop("encoder.pos_embed.weight")
    tensors["decoder.first_layer_norm.bias"] = np.zeros(5, np.float16)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text((model / "config.json").read_text())
    torch_files.save(tmp_path / "bad" / "pytorch_model.bin", tensors)
    with pytest.raises(TensorMismatchError) as caught:
        open_checkpoint(tmp_path / "bad")
    assert set(caught.value.problems) == {"missing", "unknown", "misshapen"}


def test_a_converted_model_is_loaded_as_any_other(model, tmp_path):
    convert(open_checkpoint(model), tmp_path / "ours", "jax")
    config, params, vocabulary = load_model(tmp_path / "ours")
    expected_config, expected, _ = load_model(model)
    assert (config, vocabulary) == (expected_config, tmp_path / "ours")
    assert_same(params, expected)


@pytest.mark.golden
def test_golden_finetuned_becomes_the_hub_model(golden_dir, tmp_path):
    """Through the whole of it: the training form's file to a folder, in float16 as the reference writes."""
    convert(open_checkpoint(golden_dir / "fairseq_tiny" / "finetuned.safetensors"), tmp_path / "hub", "hub",
            dtype="float16", vocabulary=golden_dir / "hub_tiny")  # fmt: skip
    made, _ = open_tensors(tmp_path / "hub")
    expected, _ = open_tensors(golden_dir / "hub_tiny" / "model.safetensors")
    assert set(made) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(np.asarray(made[name]), np.asarray(tensor), err_msg=name)
    ours = json.loads((tmp_path / "hub" / "config.json").read_text())
    theirs = json.loads((golden_dir / "hub_tiny" / "config.json").read_text())
    assert {key for key in theirs if ours[key] != theirs[key]} <= {"auto_map"}


@pytest.mark.golden
def test_golden_checkpoints_survive_every_format(golden_dir, tmp_path):
    paths = [golden_dir / "hub_tiny" / "pytorch_model.bin"]
    paths += sorted((golden_dir / "fairseq_tiny").glob("*.safetensors"))
    for i, path in enumerate(paths):
        source = open_checkpoint(path)
        convert(source, tmp_path / f"{i}", "jax")
        convert(open_checkpoint(tmp_path / f"{i}"), tmp_path / f"{i}.pt", "fairseq")
        result = open_checkpoint(tmp_path / f"{i}.pt")
        assert_same(result.params, source.params)
        assert result.pretraining == source.pretraining
        assert result.config.replace(padding="hub") == source.config.replace(padding="hub")
