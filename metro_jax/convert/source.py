"""Any checkpoint, recognised by its content: a Hub folder, a fairseq checkpoint, or one of our own.

What is opened has its parameters in metro_jax layout and numbering, each read when it is used, so that a conversion
holds one of them at a time.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from metro_jax.convert.apply import check_params
from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.fairseq import fairseq_rules, fairseq_sizes, fairseq_to_params, split_fairseq
from metro_jax.convert.fairseq_config import is_config_class
from metro_jax.convert.hub import HUB_RULES, hub_to_params
from metro_jax.convert.lazy import LazyStack, LazyTensor
from metro_jax.convert.orbax_checkpoint import find_checkpoint, read_orbax
from metro_jax.convert.pickle_reader import read_torch
from metro_jax.convert.rules import Rule, Sizes, config_fields, flatten, nest
from metro_jax.convert.settings import find_settings, read_settings
from metro_jax.convert.tensors import WEIGHTS, open_file, open_tensors, read_json, state_dict
from metro_jax.convert.torch_zip import check_present
from metro_jax.model.config import MetroConfig, PretrainingConfig

VOCABULARY = ("sp.model", "dict.txt")
TOKENIZER_FILES = (*VOCABULARY, "tokenizer_config.json", "special_tokens_map.json")


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Args:
        form: "hub", "jax" (ours) or "fairseq".
        path: the folder or file that was recognised.
        files: what holds the weights.
        params: the tree, with lazy leaves in the number types that are stored.
        vocabulary: the folder with the tokenizer's files; None where the checkpoint has none.
        notes: what a careful reader would want to know.
    """

    form: str
    path: pathlib.Path
    files: tuple[pathlib.Path, ...]
    config: MetroConfig
    pretraining: PretrainingConfig | None
    params: dict[str, Any]
    vocabulary: pathlib.Path | None
    notes: tuple[str, ...] = ()

    def rules(self) -> tuple[Rule, ...]:
        """The table that says which parameters there are."""
        return HUB_RULES if self.pretraining is None else fairseq_rules(self.pretraining)


def open_checkpoint(path: str | pathlib.Path, config: str | pathlib.Path | None = None) -> Source:
    """Recognises and opens a checkpoint; names and shapes of all tensors are checked, values are read when used.

    Args:
        config: the settings of one of our checkpoints where nothing beside it tells them (see `settings`).

    Raises:
        MissingFileError: nothing there, or something of it is missing.
        TensorMismatchError: missing, unknown or misshapen tensors, all listed.
        ConversionError: of no known format, damaged, unsafe.
    """
    path = pathlib.Path(path)
    given = None if config is None else pathlib.Path(config)
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such file or folder")
    ours = find_checkpoint(path)
    if ours is not None:
        return _open_ours(ours, given)
    if given is not None:
        raise ConversionError(f"--config {config} is for checkpoints of metro_jax; {path} brings its own settings")
    if path.is_dir():
        return _open_folder(path)
    return _open_file(path)


def load_model(path: str | pathlib.Path) -> tuple[MetroConfig, dict[str, Any], pathlib.Path]:
    """What inference needs of a checkpoint: configuration, the main model's parameters in float32, vocabulary folder.

    Raises:
        MissingFileError: the checkpoint is not there, or brings no vocabulary.
        ConversionError: as of `open_checkpoint`.
    """
    source = open_checkpoint(path)
    if source.vocabulary is None:
        raise MissingFileError(
            f"{path}: no vocabulary ({', '.join(VOCABULARY)}) beside the weights; make a folder that has both with "
            f"`metro-jax convert {path} FOLDER --to hub --vocab VOCABULARY_FOLDER`"
        )
    params = {
        name: np.asarray(leaf, np.float32)
        for name, leaf in flatten(source.params).items()
        if not name.startswith(("generator/", "rtd_head/"))
    }
    # Who answers texts hides pads by a mask, as the Hub form does (spec 2.6).
    return source.config.replace(padding="hub"), nest(params), source.vocabulary


def _open_folder(folder: pathlib.Path) -> Source:
    if any((folder / name).exists() for name in WEIGHTS):
        tensors, files = open_tensors(folder)
        return _open_tensors(folder, tensors, files)
    fairseq = sorted(folder.glob("*.pt"))
    if len(fairseq) == 1:
        return _open_file(fairseq[0])
    if fairseq:
        raise ConversionError(
            f"{folder}: holds {len(fairseq)} checkpoints ({', '.join(path.name for path in fairseq[:5])}); name one"
        )
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise MissingFileError(
        f"{folder}: no checkpoint in it; expected {', '.join(WEIGHTS)}, a complete checkpoint_<step> folder, or a "
        f"fairseq .pt file, found {names}"
    )


def _open_file(path: pathlib.Path) -> Source:
    """A fairseq checkpoint, or a file of weights whose names tell the format."""
    if path.name.endswith(".index.json"):
        tensors, files = open_tensors(path)
        return _open_tensors(path.parent, tensors, files)
    with open(check_present(path), "rb") as file:
        torch = file.read(2) == b"PK"
    if not torch:
        return _open_tensors(path.parent, open_file(path), [path])
    root = read_torch(path, records=is_config_class)
    if type(root) is dict and type(root.get("model")) is dict:
        return _open_fairseq(path, *split_fairseq(path, root))
    return _open_tensors(path.parent, state_dict(path, root), [path])


def _open_tensors(folder: pathlib.Path, tensors: Mapping[str, LazyTensor], files: list[pathlib.Path]) -> Source:
    """A flat dict of tensors: fairseq's names, or the Hub's with a config.json beside them."""
    if any(name.startswith(("encoder.layers.", "decoder.layers.")) for name in tensors):
        beside = files[0].with_name(files[0].name.split(".")[0] + ".cfg.json")
        return _open_fairseq(files[0], tensors, read_json(beside) if beside.is_file() else {})
    raw = read_json(folder / "config.json")
    what = str(files[0] if len(files) == 1 else folder)
    config, params, notes = hub_to_params(tensors, raw, dtype="stored", what=what, lazy=True)
    if "relative_attention_max_distance" not in raw:
        notes = (*notes, "config.json says no relative_attention_max_distance: 128, the default of the Hub's code")
    return Source("hub", folder, tuple(files), config, None, params, _vocabulary(folder), notes)


def _open_fairseq(path: pathlib.Path, tensors: Mapping[str, LazyTensor], cfg: Mapping[str, Any]) -> Source:
    config, pretraining, params = fairseq_to_params(tensors, cfg, dtype="stored", lazy=True)
    return Source("fairseq", path, (path,), config, pretraining, params, _vocabulary(path.parent))


def _vocabulary(*folders: pathlib.Path) -> pathlib.Path | None:
    return next((folder for folder in folders if all((folder / name).is_file() for name in VOCABULARY)), None)


# -- checkpoints of our own


def _open_ours(folder: pathlib.Path, given: pathlib.Path | None) -> Source:
    params, rest = read_orbax(folder)
    settings = read_settings(given) if given is not None else find_settings(folder)
    flat = flatten(params)
    pretraining = _pretraining(flat, settings.pretraining)
    rules = fairseq_rules(pretraining)
    sizes = _solve(rules, flat)
    config = _config(folder, sizes, settings.model, settings.source)
    if pretraining is not None:
        pretraining = pretraining.replace(generator_layers=sizes.get("G", 0))
    check_params(rules, fairseq_sizes(config, pretraining), params, str(folder))
    params = _by_layer(rules, flat)
    notes = [f"settings from {settings.source}"]
    if rest:
        notes.append(f"left behind, because only training uses them: {', '.join(rest)}")
    vocabulary = _vocabulary(folder, folder.parent)
    return Source("jax", folder, (folder,), config, pretraining, params, vocabulary, tuple(notes))


def _by_layer(rules: tuple[Rule, ...], flat: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with stacked leaves divided into layers; of what was read, one stack is kept for its next layer."""
    kept: dict[str, np.ndarray] = {}

    def read(path: str, layer: int) -> np.ndarray:
        if path not in kept:
            kept.clear()
            kept[path] = np.asarray(flat[path])
        return kept[path][layer]

    def stack(path: str) -> LazyStack:
        leaf = flat[path]
        layers = range(leaf.shape[0])
        return LazyStack(
            [LazyTensor(leaf.shape[1:], leaf.dtype, partial(read, path, i), (leaf.identity, i)) for i in layers]
        )

    return nest({rule.param: stack(rule.param) if rule.layers else flat[rule.param] for rule in rules})


def _pretraining(flat: Mapping[str, Any], said: Mapping[str, Any]) -> PretrainingConfig | None:
    """What the branches of the tree show of generator and RTD head; the objective is as said."""
    if not any(path.startswith(("generator/", "rtd_head/")) for path in flat):
        return None
    own = (
        "generator/token_embedding",
        "generator/encoder/position_embedding",
        "generator/encoder/embedding_norm/scale",
    )
    sharing = ("none", "token", "token_pos", "token_pos_norm")[sum(path not in flat for path in own)]
    head = "roberta" if any(path.startswith("rtd_head/dense/") for path in flat) else "simple"
    return PretrainingConfig(**{**said, "sharing": sharing, "rtd_head": head})


def _solve(rules: tuple[Rule, ...], flat: Mapping[str, Any]) -> Sizes:
    """Size of every letter, as most of the parameters say."""
    votes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for rule in rules:
        letters = ([rule.layers] if rule.layers else []) + rule.param_axes.split()
        shape = tuple(flat[rule.param].shape) if rule.param in flat else ()
        if len(shape) == len(letters):
            for letter, size in zip(letters, shape, strict=True):
                votes[letter][size] += 1
    return {letter: counts.most_common(1)[0][0] for letter, counts in votes.items()}


def _config(folder: pathlib.Path, sizes: Sizes, said: Mapping[str, Any], source: pathlib.Path) -> MetroConfig:
    missing = set("VPdfBhLD") - set(sizes)
    if missing:
        raise ConversionError(f"{folder}: not a METRO model: no parameter of it has the expected axes")
    shown = config_fields(sizes)
    different = [
        f"{name}={said[name]!r}, but the arrays say {size}"
        for name, size in shown.items()
        if said.get(name, size) != size
    ]
    if different:
        raise ConversionError(f"{source} is not of the model in {folder}: {'; '.join(different)}")
    try:
        return MetroConfig(**{**said, **shown})
    except (ValueError, TypeError) as error:
        raise ConversionError(f"{source}: not the settings of a model ({error})") from error
