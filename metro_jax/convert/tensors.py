"""Opens the weights of a Hub-format folder, or one file of weights: names to arrays that are read when used.

In a folder, in this order: `model.safetensors`; `model.safetensors.index.json` with its shards; `pytorch_model.bin`;
`pytorch_model.bin.index.json` with its shards. An index is `{"metadata": {...}, "weight_map": {tensor name: file}}`;
the files lie beside it. A single file is recognised by its content, not by its name.
"""

import json
import pathlib
from typing import Any

from metro_jax.convert.errors import ConversionError, MissingFileError, TensorMismatchError
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.pickle_reader import read_torch
from metro_jax.convert.safetensors_file import read_safetensors
from metro_jax.convert.torch_zip import check_present

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def open_tensors(path: str | pathlib.Path) -> tuple[dict[str, LazyTensor], list[pathlib.Path]]:
    """Tensors of a folder or a single file, and the files they come from.

    Raises:
        MissingFileError: no such path, no weights in the folder, or a shard is missing.
        ConversionError: damaged, unsafe (see `pickle_reader`), or an index that does not fit its files.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        if path.name.endswith(".index.json"):
            return _open_sharded(check_present(path))
        return open_file(path), [path]
    for name in WEIGHTS:
        if (path / name).exists():
            if name.endswith(".index.json"):
                return _open_sharded(path / name)
            return open_file(path / name), [path / name]
    raise MissingFileError(f"{path}: holds no weights; expected one of {', '.join(WEIGHTS)}")


def open_file(path: pathlib.Path) -> dict[str, LazyTensor]:
    """One file of weights, safetensors or a torch state dict."""
    with open(check_present(path), "rb") as file:
        head = file.read(16)
    # safetensors: 8 bytes of length, then JSON. Anything else is torch's, or torch's reader says what it is instead.
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)
    return state_dict(path, read_torch(path))


def state_dict(path: pathlib.Path, root: Any) -> dict[str, LazyTensor]:
    """What a torch file holds, if it is a flat state dict."""
    if type(root) is not dict:
        raise ConversionError(f"{path}: holds a {type(root).__name__}, not a state dict (names to tensors)")
    others = [
        f"{name!r}: a {type(value).__name__}" for name, value in root.items() if not isinstance(value, LazyTensor)
    ]
    if others or any(type(name) is not str for name in root):
        raise ConversionError(
            f"{path}: not a flat state dict; these entries are not tensors: {'; '.join(others)[:2000]}. "
            "A fairseq checkpoint is read by `read_fairseq_checkpoint`"
        )
    return root


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file whose top level is an object."""
    try:
        value = json.loads(check_present(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def shard_names(index: pathlib.Path, weight_map: Any) -> list[str]:
    """The files that an index names, each once; only plain names beside the index are accepted."""
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConversionError(f"{index}: has no weight_map; expected tensor names with the file each lies in")
    names = sorted(set(map(str, weight_map.values())))
    outside = [name for name in names if not _is_plain_name(name)]
    if outside:
        raise ConversionError(
            f"{index}: refused shard names that are not plain file names beside the index: "
            f"{', '.join(map(repr, outside[:20]))}"
        )
    return names


def _open_sharded(index: pathlib.Path) -> tuple[dict[str, LazyTensor], list[pathlib.Path]]:
    weight_map = read_json(index).get("weight_map")
    names = shard_names(index, weight_map)
    assert isinstance(weight_map, dict)
    files = {name: index.parent / name for name in names}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise MissingFileError(f"{index}: shards are missing: {', '.join(missing)}; download them as well")
    shards = {name: open_file(file) for name, file in files.items()}
    problems = {
        "missing": [f"{name} (said to be in {file})" for name, file in weight_map.items() if name not in shards[file]],
        "unused": [
            f"{name} (in {file}, not in the index)"
            for file, tensors in shards.items()
            for name in tensors
            if weight_map.get(name) != file
        ],
    }
    if any(problems.values()):
        raise TensorMismatchError(
            str(index), problems, "Index and shards are of different checkpoints; download them again."
        )
    return {name: shards[file][name] for name, file in weight_map.items()}, list(files.values())


def _is_plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", ":", "\0"))
