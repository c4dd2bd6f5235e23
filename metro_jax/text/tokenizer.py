"""METRO's tokenizer: text to token ids in metro_jax numbering and back (spec 9.3, 9.4)."""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from metro_jax.text import config as config_lib
from metro_jax.text import vocabulary as vocabulary_lib
from metro_jax.text.config import TokenizerConfig, VocabularyError
from metro_jax.text.ids import BOS, EOS, NUM_SPECIAL, PAD, SPECIAL_PIECES, UNK
from metro_jax.text.normalizer import normalize

if TYPE_CHECKING:
    from metro_jax.text.word_cache import PackedLines, WordCache

__all__ = ["MetroTokenizer", "VocabularyError"]

_SPECIAL = re.compile("(" + "|".join(re.escape(piece) for piece in SPECIAL_PIECES) + ")")
_FINGERPRINT_VERSION = b"metro_jax text 1"  # to be raised when the same files come to mean other ids

# In this order (spec 9.4).
_CLEAN_UP = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {contraction}", contraction) for contraction in ("n't", "'m", "'s", "'ve", "'re")),
)


class MetroTokenizer:
    """Turns text into token ids and back; ids are in metro_jax numbering (padding 0, `<s>` 1, `</s>` 2, unknown 3).

    `encode` is the tokenizer of the Hub models, for prompts and choices; `training_ids` is the one that made their
    training data. They differ in special strings inside the text and in text that normalises to nothing (spec 9.3).
    """

    def __init__(
        self, model: bytes, dictionary: bytes, config: TokenizerConfig | None = None, *, source: str = ""
    ) -> None:
        """Build from the contents of sp.model and dict.txt; `source` is the folder VocabularyErrors name."""
        self.config = config or TokenizerConfig()
        self._model = model
        self._dictionary = dictionary
        self._vocabulary = vocabulary_lib.Vocabulary(model, dictionary, self.config.n_sentinel_tokens, source)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        lower: bool | None = None,
        n_sentinel_tokens: int | None = None,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> "MetroTokenizer":
        """Read sp.model, dict.txt and, if there is one, tokenizer_config.json; arguments go before the settings read.

        Raises FileNotFoundError when a vocabulary file is missing, VocabularyError when a file cannot be used.
        """
        path = pathlib.Path(folder)
        model = vocabulary_lib.read_file(path, vocabulary_lib.MODEL_NAME)
        dictionary = vocabulary_lib.read_file(path, vocabulary_lib.DICTIONARY_NAME)
        settings = path / config_lib.FILE_NAME
        config = TokenizerConfig()
        if settings.exists():
            config = TokenizerConfig.from_json(vocabulary_lib.read_file(path, settings.name), str(settings))
        config = config.replace(
            lower=lower,
            n_sentinel_tokens=n_sentinel_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )
        return cls(model, dictionary, config, source=str(path))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write sp.model and dict.txt as they were read, tokenizer_config.json and special_tokens_map.json."""
        path = pathlib.Path(folder)
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file, not a folder to write a tokenizer to; choose another name")
        path.mkdir(parents=True, exist_ok=True)
        for name, data in {
            vocabulary_lib.MODEL_NAME: self._model,
            vocabulary_lib.DICTIONARY_NAME: self._dictionary,
            config_lib.FILE_NAME: self.config.to_json(),
            config_lib.SPECIAL_TOKENS_FILE_NAME: self.config.special_tokens_json(),
        }.items():
            vocabulary_lib.write_file(path / name, data)

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the ids: both files, lower, number of sentinels (not the clean-up)."""
        settings = f"lower={self.config.lower} n_sentinel_tokens={self.config.n_sentinel_tokens}".encode()
        digest = hashlib.sha256()
        for part in (_FINGERPRINT_VERSION, self._model, self._dictionary, settings):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    # The numbering

    @property
    def vocab_size(self) -> int:
        """Number of ids: specials, dictionary and sentinels."""
        return len(self._vocabulary.pieces)

    @property
    def pad_id(self) -> int:
        return PAD

    @property
    def bos_id(self) -> int:
        return BOS

    @property
    def eos_id(self) -> int:
        return EOS

    @property
    def unk_id(self) -> int:
        return UNK

    @property
    def sentinel_ids(self) -> range:
        """The ids of `<sen000>`, `<sen001>`, ..."""
        return range(self._vocabulary.first_sentinel, self.vocab_size)

    @property
    def mask_id(self) -> int:
        """The id of `<sen000>`, the mask symbol of pretraining; VocabularyError when there are no sentinels."""
        if not self.sentinel_ids:
            raise VocabularyError(
                "n_sentinel_tokens=0 leaves no mask symbol <sen000>; set it to 1 or more (published: 512)"
            )
        return self.sentinel_ids[0]

    def piece_to_id(self, piece: str) -> int:
        """The id of a piece, a special token or a sentinel; 3 when it is none of them."""
        return self._vocabulary.id_of(piece)

    def id_to_piece(self, token_id: int) -> str:
        """The piece of an id; raises ValueError when it is outside the vocabulary."""
        return self._pieces_of([token_id])[0]

    # Text to ids

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text before look-up, without the added special tokens."""
        return [piece for part in _split_special(text) for piece in self._pieces_of_part(part)]

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """`<s>` text `</s>`, or `<s>` text `</s></s>` pair `</s>`, cut to at most `max_length` ids.

        A single text keeps its first ids; of a pair the longer text is cut first. The special strings `<s>`, `</s>`,
        `<unk>` and `<pad>` in the text become their ids. Raises TypeError for what is not text, ValueError for a
        `max_length` that does not even hold the special tokens (spec 9.4).
        """
        pairs = None if pair is None else [pair]
        return self.encode_batch([text], max_length, pairs=pairs)[0]

    def encode_batch(
        self,
        texts: Iterable[str],
        max_length: int | None = None,
        *,
        pairs: Iterable[str] | None = None,
        num_threads: int = 1,
    ) -> list[list[int]]:
        """`encode` for many texts, faster than one by one; rows are not padded. `num_threads` is for SentencePiece."""
        specials = 2 if pairs is None else 4
        if max_length is not None and max_length < specials:
            raise ValueError(f"max_length={max_length} does not hold the {specials} special tokens; use a larger one")
        room = None if max_length is None else max_length - specials
        rows = self._content_ids(texts, num_threads)
        if pairs is None:
            return [[BOS, *row[:room], EOS] for row in rows]
        pair_rows = self._content_ids(pairs, num_threads)
        if len(rows) != len(pair_rows):
            raise ValueError(f"{len(rows)} texts but {len(pair_rows)} pairs; give one pair for each text")
        cut = [_cut_longest_first(a, b, room) for a, b in zip(rows, pair_rows, strict=True)]
        return [[BOS, *a, EOS, EOS, *b, EOS] for a, b in cut]

    def encode_choice(self, text: str, max_length: int = 256) -> list[int]:
        """The labels of an answer choice: as `encode`, without the leading `<s>` (spec 8.1, step 2)."""
        return self.encode(text, max_length=max_length)[1:]

    def training_ids(self, text: str, *, bos: bool = True, eos: bool = True) -> list[int]:
        """The ids of a text in training data: no special strings are recognised, whitespace alone gives nothing."""
        return self.training_ids_batch([text], bos=bos, eos=eos)[0]

    def training_ids_batch(
        self, texts: Iterable[str], *, bos: bool = True, eos: bool = True, num_threads: int = 1
    ) -> list[list[int]]:
        """`training_ids` for many texts. Targets of finetuning and lines of a corpus have no `<s>` (spec 4.1, 6.1)."""
        rows = self._vocabulary_ids(_checked(texts), num_threads)
        before, after = [BOS] * bos, [EOS] * eos
        return [[*before, *row, *after] for row in rows]

    def training_lines(self, text: bytes, *, skip_blank: bool = False) -> "PackedLines":
        """The rows of `training_ids_batch` without `<s>` for the lines of a text (UTF-8, ended by line feeds), packed.

        What a corpus is prepared with: most lines are joined from what is kept of their words, many times as fast.
        With `skip_blank` lines of whitespace have no ids, not even `</s>`. Raises ImportError where numba is missing.
        """
        return self._words.encode_lines(text, skip_blank=skip_blank)

    @functools.cached_property
    def _words(self) -> "WordCache":
        from metro_jax.text.word_cache import WordCache  # needs numba, and time to load what it compiled

        return WordCache(self._vocabulary, self.config.lower, lambda texts: self._vocabulary_ids(texts, 1), EOS)

    def _content_ids(self, texts: Iterable[str], num_threads: int) -> list[list[int]]:
        """Ids of the Hub's tokenizer without added special tokens."""
        texts = _checked(texts)
        parts = {i: _split_special(text) for i, text in enumerate(texts) if "<" in text and _SPECIAL.search(text)}
        whole = [text for i, text in enumerate(texts) if i not in parts] if parts else texts
        rows = iter(self._vocabulary_ids(whole, num_threads))
        # Pieces are joined by blanks and split on a blank before look-up, so no piece at all is looked up as "" (9.3).
        ids = []
        for index, text in enumerate(texts):
            if index in parts:
                found = (self._pieces_of_part(part) for part in parts[index])
                ids.append([self._vocabulary.id_of(piece) for pieces in found for piece in pieces])
            else:
                ids.append(next(rows) or [UNK] * bool(text))
        return ids

    def _pieces_of_part(self, part: str) -> list[str]:
        """Pieces of a special string, or of text without special strings."""
        if part in SPECIAL_PIECES:
            return [part]
        pieces: list[str] = self._sentencepiece([normalize(part, self.config.lower)], str)[0]
        return " ".join(pieces).split(" ")

    def _vocabulary_ids(self, texts: Sequence[str], num_threads: int) -> list[list[int]]:
        """Ids of texts, special strings read as words."""
        return self._normalized_ids([normalize(text, self.config.lower) for text in texts], num_threads)

    def _normalized_ids(self, normalized: list[str], num_threads: int) -> list[list[int]]:
        """Ids of texts that the normaliser has been through."""
        vocabulary = self._vocabulary
        rows = self._sentencepiece(normalized, int, num_threads)
        if not vocabulary.unknown_needs_lookup and vocabulary.renumber is None:
            return rows
        for index, row in enumerate(rows):
            if vocabulary.unknown_needs_lookup and vocabulary.unknown in row:
                pieces = self._sentencepiece([normalized[index]], str)[0]
                rows[index] = [vocabulary.id_of(piece) for piece in " ".join(pieces).split()]
            elif vocabulary.renumber is not None:
                rows[index] = [vocabulary.renumber[token_id] for token_id in row]
        return rows

    def _sentencepiece(self, normalized: list[str], out_type: type, num_threads: int = 1) -> list[list]:
        try:
            return self._vocabulary.processor.encode(normalized, out_type=out_type, num_threads=num_threads)
        except (RuntimeError, TypeError, UnicodeError):
            _explain_surrogates(normalized)
            raise

    # Ids to text

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True, clean_up: bool | None = None) -> str:
        """The text of a row of ids; case and the original spacing do not come back.

        With `skip_special_tokens` ids 0 to 3 are dropped. `clean_up` closes up punctuation and contractions; None takes
        the tokenizer's setting. Raises ValueError for ids outside the vocabulary, TypeError for what is no row of ids.
        """
        pieces = self._pieces_of(ids, NUM_SPECIAL if skip_special_tokens else 0)
        text = "".join(pieces).replace("▁", " ").strip()
        if self.config.clean_up_tokenization_spaces if clean_up is None else clean_up:
            for spaced, closed in _CLEAN_UP:
                text = text.replace(spaced, closed)
        return text

    def decode_batch(
        self, rows: Iterable[Sequence[int]], skip_special_tokens: bool = True, clean_up: bool | None = None
    ) -> list[str]:
        """`decode` for every row of ids."""
        return [self.decode(row, skip_special_tokens, clean_up) for row in rows]

    def _pieces_of(self, ids: Sequence[int], lowest: int = 0) -> list[str]:
        """The pieces of the ids from `lowest` on."""
        if isinstance(ids, str) or not hasattr(ids, "__iter__"):
            raise TypeError(f"{ids!r} is not a row of token ids; pass a list of integers")
        row: list[int] = ids.tolist() if hasattr(ids, "tolist") else list(ids)  # type: ignore[attr-defined]
        pieces, size = self._vocabulary.pieces, self.vocab_size
        try:
            if any(not 0 <= token_id < size for token_id in row):
                wrong = next(token_id for token_id in row if not 0 <= token_id < size)
                hint = "; replace ignored labels by the padding id 0" if wrong == -100 else ""
                raise ValueError(f"token id {wrong} is outside the vocabulary, 0 to {size - 1}{hint}")
            found = [pieces[token_id] for token_id in row]  # fails for numbers that are not integers
        except TypeError as error:
            raise TypeError(f"{row!r:.60} is not a row of token ids ({error}); pass a list of integers") from error
        return [piece for piece, token_id in zip(found, row, strict=True) if token_id >= lowest]

    # Copies for other processes

    def __reduce__(self) -> tuple:
        return type(self), (self._model, self._dictionary, self.config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, {self.config})"


def _split_special(text: str) -> list[str]:
    """The special strings of a text and the texts between them, which lose their whitespace towards special strings."""
    parts = _SPECIAL.split(text)
    last = len(parts) - 1
    for index in range(0, last + 1, 2):  # special strings are at the odd places
        if index > 0:
            parts[index] = parts[index].lstrip()
        if index < last:
            parts[index] = parts[index].rstrip()
    return [part for part in parts if part]


def _cut_longest_first(a: list[int], b: list[int], room: int | None) -> tuple[list[int], list[int]]:
    """Cut two rows to `room` ids together, the last ids of the longer one first; of equal ones the second is cut."""
    if room is None or len(a) + len(b) <= room:
        return a, b
    half = room // 2
    if len(a) <= half:
        return a, b[: room - len(a)]
    if len(b) <= half:
        return a[: room - len(b)], b
    return a[: room - half], b[:half]


def _checked(texts: Iterable[str]) -> list[str]:
    """The texts as a list; TypeError naming the first one that is not a string."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"{texts!r:.60} is one text; pass a list of texts, or use the method for one text")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"text {index} of {len(texts)} is {text!r:.60} of type {type(text).__name__}; "
                "pass strings, decode bytes first"
            )
    return texts


def _explain_surrogates(texts: list[str]) -> None:
    """ValueError for the first text that cannot be written as UTF-8, if there is one."""
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text {index} of {len(texts)} has the lone surrogate {text[error.start]!r}, which is not a character "
                f"(position {error.start} after normalisation); decode the input as UTF-8 with errors='replace'"
            ) from error
