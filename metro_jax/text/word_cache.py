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

import array
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

MAX_TOKENS = 1 << 18  # in each of the three stores; about 100 MB together
COST = 8  # of keeping a token, in tokens encoded by SentencePiece
SAMPLE = 8  # of texts with new tokens, one in so many is learnt from where more than a quarter of the texts are such
SIGHTINGS = 2  # of a token in texts with many new ones, before it is kept
MAX_LENGTH = 64  # longer tokens hardly come twice
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
        pack: Callable[[list[int]], bytes],
    ) -> None:
        """`encode` gives the ids of a normalised text, `pack` the bytes that stand for ids and can be joined."""
        self._lower, self._encode, self._pack = lower, encode, pack
        self._usable = keeps_words_apart(vocabulary)
        self._lattice = Lattice(vocabulary)
        self._tokens: dict[str, bytes | None] = {}  # None: needs the text around it
        self._words: dict[str, tuple[bytes, float] | None] = {}  # packed ids and score by normalised word
        self._sightings: dict[str, int] = {}  # of tokens that are not kept

    def clear(self) -> None:
        """Forgets every word."""
        self._tokens.clear()
        self._words.clear()
        self._sightings.clear()

    def find(self, texts: Sequence[str]) -> list[bytes | None]:
        """The packed ids of raw texts; None for those that have to be encoded as a whole."""
        if not self._usable:
            return [None] * len(texts)
        rows = list(map(self._join, texts))
        new = [index for index, row in enumerate(rows) if row is NEW]
        # Where many texts hold something new, looking at a few of them is enough to find what comes again.
        step = 1 if 4 * len(new) <= len(texts) else SAMPLE
        for place, index in enumerate(new):
            learnt = place % step == 0 and self._learn_from(texts[index])
            row = self._join(texts[index]) if learnt else None
            rows[index] = None if row is NEW else row  # NEW once more: there was no room for all its tokens
        return rows

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
        """Whether all tokens of this text are known afterwards.

        To keep a token costs as much as to encode sixteen. Where few are new that is won back at once; where many are
        (a beginning, a list of names), only those are kept that came several times before.
        """
        tokens = text.split()
        fresh = [token for token in tokens if token not in self._tokens]
        if len(fresh) * COST <= len(tokens) and max(map(len, fresh), default=0) <= MAX_LENGTH:
            self._learn(fresh)
            return True
        sightings = self._sightings
        if len(sightings) > MAX_TOKENS:
            sightings.clear()
        often = []
        for token in fresh:
            sightings[token] = count = sightings.get(token, 0) + 1
            if count == SIGHTINGS and len(token) <= MAX_LENGTH:
                often.append(token)
        self._learn(often)
        return False

    def _learn(self, tokens: Sequence[str]) -> None:
        """Keeps tokens."""
        if len(self._tokens) + len(tokens) > MAX_TOKENS:  # refilling costs less than to remember what was used when
            self.clear()
        for token in tokens:
            self._tokens[token] = self._ids_of(token)

    def _ids_of(self, token: str) -> bytes | None:
        if BLANK in token:
            return None
        packed, score = [], 0.0
        for word in normalize(token, self._lower).split():
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
        score, lead = self._lattice.best(surface)
        return (self._pack(self._encode(word)), score) if lead > len(surface) * SLACK else None


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


def _make_room(store: dict | set) -> None:
    """Empties a store that is full: refilling costs less than a bookkeeping of what was used when."""
    if len(store) >= MAX_TOKENS:
        store.clear()


def pack_words(ids: list[int]) -> bytes:
    """Ids as 32-bit numbers, for `unpack_words`."""
    return array.array("I", ids).tobytes()


def unpack_words(packed: bytes) -> list[int]:
    """The ids of joined `pack_words`."""
    return memoryview(packed).cast("I").tolist()


@functools.cache
def _varint(token_id: int) -> bytes:
    packed = bytearray()
    while token_id > 127:
        packed.append(token_id & 127 | 128)
        token_id >>= 7
    return bytes([*packed, token_id])


def pack_varints(ids: list[int]) -> bytes:
    """Ids as protocol buffers write them: seven bits a byte, the lowest first."""
    return b"".join(map(_varint, ids))
