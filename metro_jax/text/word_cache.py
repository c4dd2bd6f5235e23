"""Ids of whole words, kept: words come again and again, and their pieces (nearly) never depend on their surroundings.

A text is answered by joining what is kept for its whitespace-separated tokens. Some texts are encoded as a whole:

* Those in which a contraction is joined across a blank (spec 9.2, step 4), as in "dogs' s".
* Those with a literal "▁", or a character that the model's normaliser turns into a blank inside a word.
* Those with a user-defined piece, which SentencePiece scores by rules of its own.
* Those with a word of which two segmentations are nearly as good as each other. SentencePiece adds up float32 scores
  from the start of the text, so that rounding, and with it the better one, depends on what stands before. `SLACK` has
  the arithmetic: the best segmentation of what is kept leads by more than the largest rounding error.

Models without the default options, or with pieces that cross a blank, get no cache (`keeps_words_apart`).
"""

import collections
import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from metro_jax.text.ids import NUM_SPECIAL
from metro_jax.text.lattice import BLANK, Lattice
from metro_jax.text.normalizer import normalize_tokens
from metro_jax.text.varints import pack_varints, varints
from metro_jax.text.vocabulary import Vocabulary

#: Built-in rules: single characters and combining sequences, none with a blank in it (a test reads their tables).
NORMALIZERS = frozenset({"nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"})

# A word's score is at least -SCORE_PER_CHARACTER for each of its characters and the blank before it. Cutting off
# punctuation makes at most three words of a token: n characters and their blank become 1.5 (n + 1) at most. So the sums
# over a text of MAX_TEXT characters stay below 2^14, where float32 has steps of 2^-10. A path through a word of n
# characters has at most n additions, each off by half a step, and two paths are compared: n steps.
MAX_TEXT = 1300
SCORE_PER_CHARACTER = 8.0  # less than one word in a thousand has a lower score
SLACK = 2.0**-10

MAX_TOKENS = 1 << 18  # in each of the two generations; about 100 MB together
MAX_LENGTH = 64  # longer tokens hardly come twice

# Learning a token takes about as long as encoding LEARNING tokens of a text as a whole. Where more than one token in
# LEARNING is new, as in lists of names or numbers, a batch is encoded as a whole, and learnt is only what it has so
# often that this pays at once.
LEARNING = 5

# An apostrophe that the normaliser might join to the next token. "_" ends a word there: it is cut off as punctuation.
_JOINED = re.compile(r"['’‘´]\s+(?:[smdtSMDT]|ll|re|ve|LL|RE|VE)(?![^\W_])")

# In tokens that are never kept: blanks, half characters, and the one character that grows when it is lower-cased.
_UNFIT = re.compile(f"[{BLANK}\ud800-\udfffİ]")
_END, _ODD = "\0", "\0\0"  # tokens for the end of a text and for a text that is to be encoded as a whole
_GAP = b"\x80"  # in the place of packed ids (half a number): not known, or known to depend on the text around it


class WordCache:
    """Packed ids of the whitespace-separated tokens of raw text."""

    def __init__(
        self, vocabulary: Vocabulary, lower: bool, encode: Callable[[list[str]], list[list[int]]], end: int
    ) -> None:
        """`encode` gives the ids of normalised texts, `end` is the id put after every text."""
        self._vocabulary, self._lower, self._encode, self._end = vocabulary, lower, encode, pack_varints([end])
        self._tokens = self._no_tokens()
        self._older: dict[str, bytes] = {}
        self._words: dict[str, bytes] = {}  # packed ids by normalised word

    def _no_tokens(self) -> dict[str, bytes]:
        return {_END: self._end, _ODD: _GAP}

    @functools.cached_property
    def usable(self) -> bool:
        """Whether words can be kept with this vocabulary."""
        return keeps_words_apart(self._vocabulary)

    @functools.cached_property
    def _lattice(self) -> Lattice:
        return Lattice(self._vocabulary)

    @functools.cached_property
    def _begins(self) -> list[bool]:
        return [piece.startswith(BLANK) for piece in self._vocabulary.pieces]

    def join(self, texts: Sequence[str], whole: Callable[[list[str]], list[bytes]]) -> bytes:
        """The packed ids of raw texts, each with its end; `whole` gives the ids of those that cannot be joined."""
        lines, odd = list(texts), []
        for index, text in enumerate(lines):
            if len(text) > MAX_TEXT or (("'" in text or not text.isascii()) and _JOINED.search(text)) or _END in text:
                odd.append(text)
                lines[index] = _ODD
        tokens = f" {_END} ".join(lines).split()
        tokens.append(_END)
        values = list(map(self._tokens.get, tokens, itertools.repeat(_GAP)))
        gaps = list(_places(values, _GAP))
        if gaps and not self._learn_from([tokens[gap] for gap in gaps], len(tokens)):
            return b"".join([row + self._end for row in whole(list(texts))])
        self._fill(gaps, tokens, values, iter(odd), whole)
        return b"".join(values)

    def _fill(
        self,
        gaps: list[int],
        tokens: list[str],
        values: list[bytes],
        odd: Iterator[str],
        whole: Callable[[list[str]], list[bytes]],
    ) -> None:
        """Puts into the gaps what is known by now; texts with other gaps are encoded as a whole."""
        texts, spans, begin, end = [], [], 0, 0
        for gap in gaps:
            if gap < end:  # in a text that is encoded as a whole already
                continue
            values[gap] = self._tokens.get(tokens[gap], _GAP)
            if values[gap] is not _GAP:
                continue
            begin, end = gap, tokens.index(_END, gap)
            while begin and tokens[begin - 1] != _END:
                begin -= 1
            # The ids of a text are those of its tokens with single blanks between them.
            texts.append(next(odd) if tokens[gap] == _ODD else " ".join(tokens[begin:end]))
            spans.append((begin, end))
        if texts:
            for (begin, end), row in zip(spans, whole(texts), strict=True):
                values[begin:end] = [row, *[b""] * (end - begin - 1)]

    def _learn_from(self, missing: list[str], total: int) -> bool:
        """Learns from the missing ones of `total` tokens; False when the texts had better be encoded as a whole."""
        if len(self._tokens) > MAX_TOKENS:  # what is still used comes back out of the older generation
            self._older, self._tokens = self._tokens, self._no_tokens()
        counts = collections.Counter(missing)
        for token in counts.keys() & self._older.keys():
            self._tokens[token] = self._older[token]
        fresh = [
            token
            for token in counts
            if token not in self._tokens and len(token) <= MAX_LENGTH and (token.isascii() or not _UNFIT.search(token))
        ]
        pays = len(fresh) * LEARNING <= total
        self._learn(fresh if pays else [token for token in fresh if counts[token] >= LEARNING])
        return pays

    def _learn(self, tokens: list[str]) -> None:
        """Finds the ids of tokens that are not known."""
        if not tokens:
            return
        if len(self._words) > MAX_TOKENS:
            self._words.clear()
        normalized = normalize_tokens(tokens, self._lower)
        self._segment([word for word in dict.fromkeys(" ".join(normalized).split()) if word not in self._words])
        for token, text in zip(tokens, normalized, strict=True):
            if " " not in text:
                self._tokens[token] = self._words[text]
            else:
                parts = [self._words[word] for word in text.split()]
                self._tokens[token] = _GAP if _GAP in parts else b"".join(parts)

    def _segment(self, words: list[str]) -> None:
        """Finds the packed ids of normalised words; a gap where they could depend on the text before them."""
        surfaces = self._lattice.surfaces(words)
        self._words.update(zip(words, [b"" if surface == "" else _GAP for surface in surfaces], strict=True))
        words = [word for word, surface in zip(words, surfaces, strict=True) if surface]
        found = [surface for surface in surfaces if surface]
        scores, leads = self._lattice.best(found)
        additions = np.array(list(map(len, found)))
        lengths = np.array(list(map(len, words))) + 1
        sure = (leads > additions * SLACK) & (scores >= -SCORE_PER_CHARACTER * lengths)
        words = list(itertools.compress(words, sure.tolist()))
        self._words.update(zip(words, self._ids_of(words, lengths[sure]), strict=True))

    def _ids_of(self, words: list[str], lengths: np.ndarray) -> Iterator[bytes]:
        """The packed ids of words that do not depend on each other: they are encoded many in a text."""
        texts = np.cumsum(lengths) // (MAX_TEXT // 2)  # of at most MAX_TEXT characters: no word is half as long
        ends = (np.flatnonzero(np.diff(texts, append=-1)) + 1).tolist()
        groups = [words[begin:end] for begin, end in itertools.pairwise([0, *ends])]
        for group, row in zip(groups, self._encode([" ".join(group) for group in groups]), strict=True):
            packed = varints(row)
            places = [place for place, token_id in enumerate(row) if self._begins[token_id]]
            if len(places) == len(group) and places[0] == 0:
                places.append(len(row))
                yield from [b"".join(packed[begin:end]) for begin, end in itertools.pairwise(places)]
            else:  # it cannot be told where a word ends
                yield from [_GAP] * len(group)


def _places(values: list[bytes], value: bytes) -> Iterator[int]:
    """The places of a value in a list."""
    place = -1
    with contextlib.suppress(ValueError):
        while True:
            place = values.index(value, place + 1)
            yield place


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
