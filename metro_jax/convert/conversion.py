"""A checkpoint of one format to another: what `metro-jax convert` does."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from metro_jax.convert.apply import check_dtype, watched
from metro_jax.convert.errors import ConversionError
from metro_jax.convert.fairseq import write_fairseq_checkpoint
from metro_jax.convert.folders import check_file_free, check_free, complete_file, complete_folder
from metro_jax.convert.hub import save_hub_folder
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.orbax_checkpoint import PREFIX, write_orbax
from metro_jax.convert.rules import flatten
from metro_jax.convert.settings import CONFIG_FILE, write_settings
from metro_jax.convert.source import TOKENIZER_FILES, VOCABULARY, Source
from metro_jax.text.config import AUTO_MAP
from metro_jax.text.tokenizer import MetroTokenizer

FORMS = ("hub", "jax", "fairseq")
FAIRSEQ_FILE = "model.pt"
STEP = 0  # of a checkpoint that no training wrote


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was written.

    Args:
        path: the folder or file asked for.
        parameters: how many the destination holds, tied ones once.
        notes: what did not come along, and what was assumed.
    """

    path: pathlib.Path
    parameters: int
    notes: tuple[str, ...]


def convert(
    source: Source,
    destination: str | pathlib.Path,
    to: str,
    *,
    dtype: str = "stored",
    vocabulary: str | pathlib.Path | None = None,
    overwrite: bool = False,
    tick: Callable[[int], None] = lambda size: None,
) -> Conversion:
    """Writes a checkpoint in another format; the destination appears when it is complete, or not at all.

    Args:
        to: "hub": a folder; "jax": a model folder with checkpoint_0, for training and `MetroT0`; "fairseq": a `.pt`
            file, or a folder with model.pt and the vocabulary.
        dtype: "stored" keeps the number types; "float32", "float16", "bfloat16".
        vocabulary: folder with sp.model and dict.txt, for sources that bring none.
        overwrite: replace a checkpoint that is there.
        tick: is told the bytes of every tensor that was read.

    Raises:
        ConversionError: something does not fit, with all misfits listed; nothing was written.
        OSError: the disk is full, or the like; nothing is left behind.
    """
    destination = pathlib.Path(destination)
    if to not in FORMS:
        raise ConversionError(f"to={to!r} is not known; choose one of {', '.join(FORMS)}")
    check_dtype(dtype, "stored")
    alone = to == "fairseq" and destination.suffix == ".pt"
    (check_file_free if alone else check_free)(destination, overwrite)
    tokenizer, notes = _tokenizer(source, None if vocabulary is None else pathlib.Path(vocabulary))
    params = watched(source.params, dtype, tick)
    config, pretraining = source.config, source.pretraining
    if to == "hub":
        written = save_hub_folder(destination, config, params, tokenizer, "stored", overwrite=overwrite)
        left = sorted({"generator", "rtd_head"} & set(params))
        if left:
            notes.append(f"left out, because a Hub model has no place for them: {', '.join(left)}")
        return Conversion(destination, written.parameters, (*notes, *written.notes))
    if to == "jax":
        with complete_folder(destination, overwrite=overwrite) as building:
            write_orbax(building / f"{PREFIX}_{STEP}", params)
            if tokenizer is not None:
                tokenizer.save_pretrained(building)
            write_settings(building / CONFIG_FILE, config, pretraining)
        return Conversion(destination, _count(params), tuple(notes))
    sentinels = 512 if tokenizer is None else tokenizer.sentinels
    if alone:
        with complete_file(destination, overwrite=overwrite) as building:
            write_fairseq_checkpoint(building, config, params, pretraining, sentinels=sentinels)
        if tokenizer is not None:
            notes.append("one .pt file has no room for the vocabulary: name a folder as destination to take it along")
        return Conversion(destination, _count(params), tuple(notes))
    with complete_folder(destination, overwrite=overwrite) as building:
        if tokenizer is not None:
            tokenizer.save_pretrained(building)
        write_fairseq_checkpoint(building / FAIRSEQ_FILE, config, params, pretraining, sentinels=sentinels)
    return Conversion(destination, _count(params), tuple(notes))


def _count(params: Mapping[str, Any]) -> int:
    return sum(leaf.size for leaf in _parts(params))


def _parts(params: Mapping[str, Any]) -> list[LazyTensor]:
    return [part for leaf in flatten(params).values() for part in getattr(leaf, "parts", (leaf,))]


def total_bytes(source: Source) -> int:
    """What `tick` is told in all when everything is read once."""
    return sum(part.nbytes for part in _parts(source.params))


# -- vocabulary


class TokenizerFiles:
    """The tokenizer of a checkpoint, to be copied; the files stay as they are but for the code they name."""

    def __init__(self, folder: pathlib.Path, vocab_size: int) -> None:
        self.folder = folder
        tokenizer = MetroTokenizer.from_pretrained(folder)
        if tokenizer.vocab_size != vocab_size and not (folder / "tokenizer_config.json").exists():
            # Vocabulary files alone do not say how many sentinels follow; the token matrix does.
            sentinels = len(tokenizer.sentinel_ids) + vocab_size - tokenizer.vocab_size
            if sentinels >= 0:
                tokenizer = MetroTokenizer.from_pretrained(folder, n_sentinel_tokens=sentinels)
        if tokenizer.vocab_size != vocab_size:
            raise ConversionError(
                f"{folder}: this vocabulary has {tokenizer.vocab_size} ids, the model {vocab_size}; take the "
                "files that it was trained with (--vocab)"
            )
        self.tokenizer = tokenizer

    @property
    def sentinels(self) -> int:
        return len(self.tokenizer.sentinel_ids)

    def save_pretrained(self, folder: pathlib.Path) -> None:
        """Writes the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)
        for name in TOKENIZER_FILES:
            path = self.folder / name
            if not path.is_file():
                continue
            if name == "tokenizer_config.json":
                settings = json.loads(path.read_text(encoding="utf-8")) | {"auto_map": AUTO_MAP}
                text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
                (folder / name).write_text(text, encoding="utf-8")
            else:
                (folder / name).write_bytes(path.read_bytes())


def _tokenizer(source: Source, given: pathlib.Path | None) -> tuple[TokenizerFiles | None, list[str]]:
    notes = list(source.notes)
    folder = given or source.vocabulary
    if folder is None:
        notes.append(
            f"no vocabulary ({', '.join(VOCABULARY)}) beside the source, so none was written; "
            "give one with --vocab FOLDER"
        )
        return None, notes
    return TokenizerFiles(folder, source.config.vocab_size), notes
