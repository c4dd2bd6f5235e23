"""Ids of whole words, kept: words come again and again, and their pieces (nearly) never depend on their surroundings.

A line is answered by joining what is kept for its whitespace-separated tokens. Some lines are encoded as a whole:

* Those in which a contraction is joined across a blank (spec 9.2, step 4), as in "dogs' s".
* Those with a literal "▁", or a character that the model's normaliser turns into a blank inside a word.
* Those with a user-defined piece, which SentencePiece scores by rules of its own.
* Those with a word of which two segmentations are nearly as good as each other. SentencePiece adds up float32 scores
  from the start of the text, so that rounding, and with it the better one, depends on what stands before. `SLACK` has
  the arithmetic: the best segmentation of what is kept leads by more than the largest rounding error.

Models without the default options, or with pieces that cross a blank, have all their lines encoded as a whole
(`keeps_words_apart`).
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from metro_jax.text import word_table
from metro_jax.text.ascii_words import ascii_words
from metro_jax.text.ids import NUM_SPECIAL, UNK
from metro_jax.text.lattice import BLANK, Lattice
from metro_jax.text.normalizer import normalize_tokens
from metro_jax.text.varints import pack_varints
from metro_jax.text.vocabulary import Vocabulary

#: Built-in rules: single characters and combining sequences, none with a blank in it (a test reads their tables).
NORMALIZERS = frozenset({"nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"})

# The pieces of a token of n characters and of the blank before it add up to -SCORE_PER_CHARACTER (n + 1) at least. So
# the sums over a line of 1300 characters stay below 2^14, where float32 has steps of 2^-10. A path through a word of n
# characters has at most n additions, each off by half a step, and two paths are compared: n steps. In lines of about
# half as many characters the sums and the steps are half as large, and so on: levels 1 to 4.
MAX_TEXT = np.array([1300, 681, 340, 169, 84, -1])  # characters of a line, by level; the last level is in no line
SCORE_PER_CHARACTER = 12.0  # less than one token in a hundred thousand has a lower score
SLACK = 2.0**-10  # of level 0; half of that for each one more

TOKENS, LINES, NEW = 1 << 16, 1 << 14, 1 << 14  # tokens, lines and new tokens looked at together
MAX_TOKENS = (1 << 20) - NEW  # kept: a million, 32 MB of slots
MAX_STORE = 1 << 26  # bytes of long tokens and of their ids; a million tokens of prose take 15 MB

# In tokens that are never kept: blanks, half characters, the one character that grows when it is lower-cased, and NUL.
_UNFIT = re.compile(f"[{BLANK}\ud800-\udfffİ\0]")


@dataclasses.dataclass(frozen=True)
class PackedLines:
    """Ids of lines as protocol buffers write them (seven bits a byte), one line after the other."""

    packed: np.ndarray  # uint8
    sizes: np.ndarray  # int64, bytes of each line
    counts: np.ndarray  # int64, ids of each line, with the one at its end
    blank: np.ndarray  # bool, lines of nothing but whitespace


class WordCache:
    """Packed ids of the whitespace-separated tokens of raw text."""

    def __init__(
        self, vocabulary: Vocabulary, lower: bool, encode: Callable[[list[str]], list[list[int]]], end: int
    ) -> None:
        """`encode` gives the ids of raw texts, `end` is the id put after every line (below 128: one byte)."""
        self._processor, self._lower, self._encode, self._end = vocabulary.processor, lower, encode, end
        self.usable = keeps_words_apart(vocabulary)
        if self.usable:
            self._lattice = Lattice(vocabulary, -1 if vocabulary.unknown_needs_lookup else UNK)
        self._tokens, self._values = np.empty(TOKENS, np.uint64), np.empty(NEW, np.uint64)
        self._lines = np.empty((LINES, word_table.LINE_COLUMNS), np.int64)
        self._new = np.empty((NEW, word_table.TOKEN_COLUMNS), np.int64)
        self._forget()

    def _forget(self) -> None:
        self.kept, self._full = 0, 0  # tokens, and bytes of the store that are full
        self._slots, self._store = np.zeros((1 << 16, 2), np.uint64), np.empty(1 << 20, np.uint8)

    def encode_lines(self, text: bytes, *, skip_blank: bool = False) -> PackedLines:
        """The packed ids of the lines of a text (UTF-8), which line feeds end, each with its end.

        With `skip_blank` lines of whitespace have no ids, not even the one at the end.
        """
        data, place, parts = np.frombuffer(text, np.uint8), 0, []
        while place < len(data):
            place, part = self._block(data, place, skip_blank)
            parts.append(part)
        columns = zip(*parts, strict=True) if parts else [[np.zeros(0, kind)] for kind in (np.uint8, int, int, bool)]
        return PackedLines(*(np.concatenate(column) for column in columns))

    def _block(self, data: np.ndarray, place: int, skip_blank: bool) -> tuple[int, tuple[np.ndarray, ...]]:
        """The lines from a place on, as many as are looked at together: where they end, and what PackedLines holds."""
        self._make_room()
        longest = MAX_TEXT[0] if self.usable else -1
        place, line_count, token_count, new_count = word_table.scan(
            data, place, longest, self._slots, self._store, self._tokens, self._lines, self._new
        )
        if new_count:
            self._learn(data, self._new[:new_count])
        tokens, lines = self._tokens[:token_count], self._lines[:line_count]
        sizes, counts = np.empty((2, line_count), np.int64)
        word_table.measure(tokens, self._values, lines, MAX_TEXT, sizes, counts)
        states = lines[:, word_table.STATE]
        rest = self._whole(data, lines, np.flatnonzero(states == word_table.WHOLE), sizes, counts)
        packed = word_table.join(tokens, lines, self._store, sizes, rest, self._end, skip_blank)
        blank = states == word_table.BLANK
        ends = np.where(blank, not skip_blank, True)
        return place, (packed, sizes + ends, counts + ends, blank)

    def _whole(
        self, data: np.ndarray, lines: np.ndarray, which: np.ndarray, sizes: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        """The packed ids of the lines that are encoded as a whole; fills in their sizes and counts."""
        places = lines[which][:, [word_table.LINE_BEGIN, word_table.LINE_END]].tolist()
        rows = self._encode([_text(data, begin, end) for begin, end in places])
        packed = [pack_varints(row) for row in rows]
        sizes[which] = [len(part) for part in packed]
        counts[which] = [len(row) for row in rows]
        return np.frombuffer(b"".join(packed), np.uint8)

    def _make_room(self) -> None:
        """For NEW tokens in the table. When it is full, those stay that were found again while they were in it."""
        if self.kept > MAX_TOKENS or self._full > MAX_STORE:
            self._move(len(self._slots), used_only=True)
            if self.kept > MAX_TOKENS // 2 or self._full > MAX_STORE // 2:  # it would be full again too soon
                self._forget()
        if len(self._slots) < 2 * (self.kept + NEW):
            self._move(2 * len(self._slots), used_only=False)

    def _move(self, size: int, used_only: bool) -> None:
        """Into a table with so many slots."""
        slots, store = np.zeros((size, 2), np.uint64), np.empty_like(self._store) if used_only else self._store
        self.kept, full = word_table.move(self._slots, self._store, used_only, slots, store)
        self._slots, self._store, self._full = slots, store, full if used_only else self._full

    def _learn(self, data: np.ndarray, new: np.ndarray) -> None:
        """Finds the ids of new tokens."""
        surfaces, ends, done = ascii_words(data, new, self._lower)
        plain = np.flatnonzero(done)
        self._keep(data, new, plain, surfaces, ends[plain], new[plain, word_table.TOKEN_LENGTH], None)
        others = np.flatnonzero(~done)
        if others.size:
            spans = new[others][:, [word_table.TOKEN_BEGIN, word_table.TOKEN_LENGTH]].tolist()
            tokens = [_text(data, begin, begin + length) for begin, length in spans]
            found = [surface if surface is None else surface.encode() for surface in self._surfaces(tokens)]
            ends = np.cumsum([len(surface or b"") for surface in found])
            fit = np.array([surface is not None for surface in found])
            characters = np.array([len(token) for token in tokens])
            surfaces = np.frombuffer(b"".join(surface or b"" for surface in found), np.uint8)
            self._keep(data, new, others, surfaces, ends, characters, fit)

    def _keep(self, data: np.ndarray, new: np.ndarray, rows: np.ndarray, surfaces: np.ndarray, ends: np.ndarray,
              characters: np.ndarray, fit: np.ndarray | None) -> None:  # fmt: skip
        """Segments the words of these new tokens and keeps their ids; those that are not fit are in no line."""
        lowest = -SCORE_PER_CHARACTER * (characters + 1)
        segments = self._lattice.segment(surfaces, np.append(0, ends), lowest, SLACK, word_table.LEVELS)
        needed = self._full + int(new[rows, word_table.TOKEN_LENGTH].sum()) + len(segments.packed)
        if needed > len(self._store):
            self._store = np.concatenate([self._store, np.empty(needed, np.uint8)])
        levels = segments.levels if fit is None else np.where(fit, segments.levels, word_table.LEVELS)
        self._full = word_table.learn(data, new, rows, segments.packed, segments.ends, segments.counts, levels,
                                      self._slots, self._store, self._full, self._values)  # fmt: skip
        self.kept += len(rows)

    def _surfaces(self, tokens: list[str]) -> list[str | None]:
        """The words of tokens as the model's own normaliser leaves them, a blank before each; nothing may be left.

        None for tokens that are never kept, and for those with a word that is several words then.
        """
        fit = [not _UNFIT.search(token) for token in tokens]
        normalized = iter(
            normalize_tokens([token for token, good in zip(tokens, fit, strict=True) if good], self._lower)
        )
        texts = [next(normalized).split() if good else None for good in fit]
        words = list(dict.fromkeys(word for text in texts if text for word in text))
        surfaces = dict(zip(words, self._processor.normalize(words), strict=True)) if words else {}
        return [None if text is None else _joined([surfaces[word] for word in text]) for text in texts]


def _joined(surfaces: list[str]) -> str | None:
    """Words after each other; None when one of them is several words."""
    if any(BLANK in surface[1:] for surface in surfaces):
        return None
    return "".join(surfaces).replace(BLANK, " ")


def _text(data: np.ndarray, begin: int, end: int) -> str:
    return data[begin:end].tobytes().decode("utf-8", "surrogatepass")


def keeps_words_apart(vocabulary: Vocabulary) -> bool:
    """Whether the ids of a text are those of its words, rounding apart (see the top of this file)."""
    settings = vocabulary.settings
    return (
        settings.unigram
        and settings.normalizer in NORMALIZERS
        and settings.dummy_prefix
        and settings.squeeze_blanks
        and settings.escape_blanks
        and not settings.blank_as_suffix
        and not settings.byte_fallback
        and BLANK in vocabulary.ids  # otherwise unknown text runs on across blanks
        and not any(BLANK in piece[1:] for piece in vocabulary.pieces[NUM_SPECIAL : vocabulary.first_sentinel])
    )
