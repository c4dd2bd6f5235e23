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

import functools
import re
from collections.abc import Callable, Sequence

from metro_jax.text.ids import NUM_SPECIAL
from metro_jax.text.lattice import BLANK, Lattice
from metro_jax.text.normalizer import normalize
from metro_jax.text.vocabulary import Vocabulary

#: Built-in rules: single characters and combining sequences, none with a blank in it (a test reads their tables).
NORMALIZERS = frozenset({"nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"})

# A token's score is at least -SCORE_PER_CHARACTER for each of its characters and the blank after it: sums over a text
# of MAX_TEXT characters stay below 2^14, where float32 has steps of 2^-10. A path through a word of n characters has at
# most n additions, each off by half a step, and two paths are compared: n steps.
MAX_TEXT = 2000
SCORE_PER_CHARACTER = 8.0  # less than one token in a thousand has a lower score
SLACK = 2.0**-10

MAX_TOKENS = 1 << 18  # in each of the two stores; about 100 MB together
MAX_LENGTH = 64  # longer tokens hardly come twice

# Learning a token takes as long as joining it saves on some 40 bytes of ids. So much must have been joined before
# another one is learnt, beyond the first ones: a list of names or numbers would cost more than it ever saves.
COST = 40
FIRST_TOKENS = 20_000
NEW = b"new"  # in the place of packed ids; told apart by identity

# An apostrophe that the normaliser might join to the next token. "_" ends a word there: it is cut off as punctuation.
_JOINED = re.compile(r"['’‘´]\s+(?:[smdtSMDT]|ll|re|ve|LL|RE|VE)(?![^\W_])")


class WordCache:
    """Packed ids of the whitespace-separated tokens of raw text."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        lower: bool,
        encode: Callable[[str], list[int]],
        pack: Callable[[Sequence[int]], bytes],
    ) -> None:
        """`encode` gives the ids of a normalised text, `pack` the bytes that stand for ids and can be joined."""
        self._lower, self._encode, self._pack = lower, encode, pack
        self._vocabulary = vocabulary
        self._lattice = Lattice(vocabulary)
        self._tokens: dict[str, bytes | None] = {}  # None: needs the text around it
        self._words: dict[str, tuple[bytes, float] | None] = {}  # packed ids and score by normalised word
        self._credit = COST * FIRST_TOKENS  # bytes joined and not yet spent on learning

    @functools.cached_property
    def _usable(self) -> bool:
        return keeps_words_apart(self._vocabulary)

    def find(self, texts: Sequence[str]) -> list[bytes | None]:
        """The packed ids of raw texts; None for those that have to be encoded as a whole."""
        if not self._usable:
            return [None] * len(texts)
        rows = list(map(self._join, texts))
        saved = sum(len(row) for row in rows if row)
        self._credit = min(self._credit + saved, COST * FIRST_TOKENS)
        for index, row in enumerate(rows):
            if row is NEW:
                learnt = self._learn_from(texts[index])
                rows[index] = self._join(texts[index]) if learnt else None
        return [None if row is NEW else row for row in rows]  # NEW: there was no room for all tokens of this text

    def _join(self, text: str) -> bytes | None:
        """The packed ids of a raw text; None when it has to be encoded as a whole, NEW when a token is not known."""
        if len(text) > MAX_TEXT or (("'" in text or not text.isascii()) and _JOINED.search(text)):
            return None
        try:
            return b"".join(map(self._tokens.__getitem__, text.split()))  # type: ignore[arg-type]
        except KeyError:
            return NEW
        except TypeError:  # one of them is None
            return None

    def _learn_from(self, text: str) -> bool:
        """Whether all tokens of a text are known afterwards."""
        fresh = {token for token in text.split() if token not in self._tokens}
        for token in fresh:
            if self._credit < COST or len(token) > MAX_LENGTH:
                return False
            if len(self._tokens) >= MAX_TOKENS:  # refilling costs less than to remember what was used when
                self._tokens.clear()
                self._words.clear()
            self._credit -= COST
            self._tokens[token] = self._pack_token(token)
        return True

    def _pack_token(self, token: str) -> bytes | None:
        if BLANK in token:
            return None
        packed, score = [], 0.0
        plain = token.isascii() and token.isalpha()  # a shortcut: what the normaliser does with most tokens
        words = [token.lower() if self._lower else token] if plain else normalize(token, self._lower).split()
        for word in words:
            if word not in self._words:
                self._words[word] = self._segment(word)
            known = self._words[word]
            if known is None:
                return None
            packed.append(known[0])
            score += known[1]
        return b"".join(packed) if score >= -SCORE_PER_CHARACTER * (len(token) + 1) else None

    def _segment(self, word: str) -> tuple[bytes, float] | None:
        """Packed ids and score of a normalised word, or None where the ids could depend on the text before it."""
        surface = self._lattice.surface(word)
        if surface is None:
            return None
        pieces, score, lead = self._lattice.best(surface)
        if lead <= len(surface) * SLACK:
            return None
        try:
            ids = [self._vocabulary.ids[piece.replace(" ", BLANK)] for piece in pieces]
        except KeyError:  # unknown characters, which SentencePiece joins
            ids = self._encode(word)
        return self._pack(ids), score


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
