"""The vocabulary files sp.model and dict.txt: reading, checking that they fit, numbering their pieces (spec 9.1)."""

import difflib
import functools
import io
import os
import pathlib
import tempfile

from sentencepiece import SentencePieceProcessor

from metro_jax.text.config import VocabularyError
from metro_jax.text.ids import NUM_SPECIAL, SPECIAL_PIECES, UNK
from metro_jax.text.model_file import ModelSettings, read_settings

MODEL_NAME = "sp.model"
DICTIONARY_NAME = "dict.txt"
_SAME_CHECKPOINT = f"take {MODEL_NAME} and {DICTIONARY_NAME} from the same checkpoint"


class Vocabulary:
    """A SentencePiece model with the METRO numbering of its pieces: specials, lines of dict.txt, sentinels.

    `processor` is the model; `pieces` maps id to piece, `ids` piece to id, `first_sentinel` is the id of `<sen000>`.
    `renumber` maps a SentencePiece id to a METRO id; it is None when the two agree, as in every published vocabulary.
    `unknown` is the SentencePiece id of unknown text; `unknown_needs_lookup` tells whether such text can have an id.
    """

    def __init__(self, model: bytes, dictionary: bytes, n_sentinel_tokens: int, source: str) -> None:
        """Read the contents of the two files; `source` names their folder in errors (VocabularyError)."""
        self.processor = load_model(model, os.path.join(source, MODEL_NAME))
        self._model = model
        lines = parse_dictionary(dictionary, os.path.join(source, DICTIONARY_NAME))
        sentinels = [f"<sen{number:03d}>" for number in range(n_sentinel_tokens)]
        self.pieces = [*SPECIAL_PIECES, *lines, *sentinels]
        self.first_sentinel = NUM_SPECIAL + len(lines)
        self.ids = {piece: index for index, piece in enumerate(self.pieces)}
        if len(self.ids) != len(self.pieces):
            raise VocabularyError(
                f"{os.path.join(source, DICTIONARY_NAME)} has pieces that are names of sentinels "
                f"({_some(set(lines) & set(sentinels))}); sentinels follow the dictionary and must not be in it"
            )
        self.unknown = self.processor.unk_id()
        # Unknown text comes back as its surface, which is looked up too. The model's own pieces never come back in that
        # way, and the other names only if they consist of characters that are no pieces.
        known = {piece for piece in lines if len(piece) == 1}
        self.unknown_needs_lookup = any(known.isdisjoint(name) for name in [*SPECIAL_PIECES, *sentinels])
        self.renumber = self._fit(lines, source)

    @functools.cached_property
    def settings(self) -> ModelSettings:
        """Those of the model that decide how text falls into words. Only who keeps words waits for them to be read."""
        return read_settings(self._model)

    def _fit(self, lines: list[str], source: str) -> list[int] | None:
        """The renumbering of SentencePiece ids; VocabularyError when model and dictionary hold different pieces."""
        indices = list(range(self.processor.get_piece_size()))
        names: list[str] = self.processor.id_to_piece(indices)
        control: list[bool] = self.processor.is_control(indices)
        emitted = {index: names[index] for index in indices if not control[index] and index != self.unknown}
        foreign = set(lines) - set(emitted.values())
        lacking = set(emitted.values()) - set(lines)
        if foreign or lacking:
            reasons = []
            if foreign:
                reasons.append(f"{len(foreign)} of its {len(lines)} pieces are unknown to the model: {_some(foreign)}")
            if lacking:
                reasons.append(f"{len(lacking)} of the model's {len(emitted)} pieces are missing: {_some(lacking)}")
            raise VocabularyError(
                f"{os.path.join(source, DICTIONARY_NAME)} does not fit {os.path.join(source, MODEL_NAME)}: "
                f"{'; '.join(reasons)}; {_SAME_CHECKPOINT}"
            )
        renumber = [self.ids[emitted[index]] if index in emitted else UNK for index in indices]
        agree = self.unknown == UNK and all(renumber[index] == index for index in emitted)
        return None if agree else renumber

    def id_of(self, piece: str) -> int:
        """The id of a piece; anything that is not in the dictionary is id 3."""
        return self.ids.get(piece, UNK)


def load_model(data: bytes, source: str) -> SentencePieceProcessor:
    """The SentencePiece model in `data`; VocabularyError naming `source` when it is none."""
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
        if processor.get_piece_size() == 0:
            raise RuntimeError("it has no pieces")
    except RuntimeError as error:
        hint = (
            " (it looks like a Git LFS pointer: fetch the file itself)"
            if data.startswith(b"version https://git-lfs")
            else ""
        )
        raise VocabularyError(
            f"{source} ({len(data)} bytes) is not a SentencePiece model{hint}: {error}; {_SAME_CHECKPOINT}"
        ) from error
    return processor


def parse_dictionary(data: bytes, source: str) -> list[str]:
    """The pieces of a dict.txt in order; a line is a piece, a blank and a count (spec 9.1).

    Raises VocabularyError naming `source` and the line when the file is no such list or repeats a piece.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{source} is not UTF-8 text: {error}; {_SAME_CHECKPOINT}") from error
    first_seen = {piece: f"special token {index}" for index, piece in enumerate(SPECIAL_PIECES)}
    pieces = []
    # Only line feeds and carriage returns end a line: str.splitlines would also cut at pieces such as U+0085.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        piece, _, count = line.rstrip().rpartition(" ")
        if not piece or not (count.isascii() and count.isdigit()):
            raise VocabularyError(
                f"{source}, line {number}: {line.rstrip()!r:.80} is not a piece, a blank and a count; "
                f"{_SAME_CHECKPOINT}"
            )
        if piece in first_seen:
            raise VocabularyError(
                f"{source}, line {number}: piece {piece!r} was already {first_seen[piece]}, "
                f"so the ids after it would be wrong; {_SAME_CHECKPOINT}"
            )
        first_seen[piece] = f"on line {number}"
        pieces.append(piece)
    if not pieces:
        raise VocabularyError(f"{source} is empty; {_SAME_CHECKPOINT}")
    return pieces


def read_file(folder: pathlib.Path, name: str) -> bytes:
    """The bytes of a file of a vocabulary folder; FileNotFoundError or VocabularyError says what is there instead."""
    path = folder / name
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist; {_whats_there(folder)}") from error
    except OSError as error:
        raise VocabularyError(f"{path} cannot be read: {error.strerror}; make it a readable file") from error


def write_file(path: pathlib.Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _whats_there(folder: pathlib.Path) -> str:
    """The part of a message that says what the folder, or else its parent, holds."""
    need = f"a tokenizer folder holds {MODEL_NAME} and {DICTIONARY_NAME}"
    if folder.is_dir():
        names = sorted(entry.name for entry in folder.iterdir())
        return f"{need}, this one holds {_some(names) if names else 'nothing'}"
    if folder.exists():
        return f"{need}, and {folder} is not a folder"
    siblings = sorted(entry.name for entry in folder.parent.iterdir()) if folder.parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, siblings, n=3)
    return f"{need}, and there is no folder {folder}" + (f"; did you mean {', '.join(near)}?" if near else "")


def _some(names: object) -> str:
    """The first few of many names."""
    ordered = sorted(names)  # type: ignore[call-overload]
    shown = ", ".join(repr(name) for name in ordered[:5])
    return f"{shown}, ..." if len(ordered) > 5 else shown
