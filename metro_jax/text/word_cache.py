"""Ids of whole words, kept: words come again and again, and their pieces (nearly) never depend on their surroundings.

A text is answered by joining what is kept for its whitespace-separated tokens. Some texts have to be encoded as a whole:

* Those in which a contraction is joined across a blank (spec 9.2, step 4), as in "dogs' s".
* Those with a literal "▁", or a character that the model's normaliser turns into a blank inside a word.
* Those with a user-defined piece, which SentencePiece scores by rules of its own.
* Those with a word of which two segmentations are nearly as good as each other. SentencePiece adds up float32 scores
  from the start of the text, so that rounding, and with it the better one, depends on what stands before. `SLACK` has
  the arithmetic: the best segmentation of what is kept leads by more than the largest rounding error.

Models without the default options, or with pieces that cross a blank, get no cache (`keeps_words_apart`).
"""

import array
import math
import re
from collections.abc import Callable

from metro_jax.text.ids import NUM_SPECIAL
from metro_jax.text.normalizer import normalize
from metro_jax.text.vocabulary import Vocabulary

BLANK = "▁"
ABSENT = 1.0  # stands for the score of what no piece begins with
UNKNOWN_PENALTY = 10.0  # SentencePiece scores an unknown character this much below the worst piece
#: Built-in rules: single characters and combining sequences, none with a blank in it (a test reads their tables).
NORMALIZERS = frozenset({"nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"})

# A token's score is at least -SCORE_PER_CHARACTER for each of its characters and the blank after it. So sums over a text
# of MAX_TEXT characters stay below 2^14, where float32 has steps of 2^-10. A path through a word of n characters has at
# most n additions, each off by half a step, and two paths are compared: n steps.
MAX_TEXT = 2000
SCORE_PER_CHARACTER = 8.0  # less than one token in a thousand has a lower score
SLACK = 2.0**-10

MAX_TOKENS = 1 << 17  # in each of the two stores; about 50 MB together
MAX_LENGTH = 64  # longer tokens hardly come twice

# An apostrophe that the normaliser might join to the next token. "_" ends a word there: it is cut off as punctuation.
_JOINED = re.compile(r"['’‘´]\s+(?:[smdtSMDT]|ll|re|ve|LL|RE|VE)(?![^\W_])")


class WordCache(dict[str, bytes | None]):
    """Packed ids of the whitespace-separated tokens of raw text; None for a token that needs the text around it."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        lower: bool,
        encode: Callable[[str], list[int]],
        pack: Callable[[list[int]], bytes],
    ) -> None:
        """`encode` gives the ids of a normalised text, `pack` the bytes that stand for ids and can be joined."""
        super().__init__()
        self._lower, self._encode, self._pack = lower, encode, pack
        self._usable = keeps_words_apart(vocabulary)
        self._lattice = Lattice(vocabulary)
        self._words: dict[str, tuple[list[int], float] | None] = {}  # ids and score by normalised word

    def clear(self) -> None:
        """Forgets every word."""
        super().clear()
        self._words.clear()

    def find(self, text: str) -> bytes | None:
        """The packed ids of a raw text, or None when it has to be encoded as a whole."""
        if not self._usable or len(text) > MAX_TEXT:
            return None
        if ("'" in text or not text.isascii()) and _JOINED.search(text):
            return None
        try:
            return b"".join(map(self.__getitem__, text.split()))  # type: ignore[arg-type]
        except TypeError:  # one of them is None
            return None

    def __missing__(self, token: str) -> bytes | None:
        if len(token) > MAX_LENGTH:
            return None
        kept = self._keep(token)
        if len(self) >= MAX_TOKENS:  # refilling costs less than to remember what was used when
            super().clear()
        self[token] = kept
        return kept

    def _keep(self, token: str) -> bytes | None:
        if BLANK in token:
            return None
        packed, score = [], 0.0
        for word in normalize(token, self._lower).split():
            known = self._words.get(word, ())
            if known == ():
                if len(self._words) >= MAX_TOKENS:
                    self._words.clear()
                known = self._words[word] = self._segment(word)
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


class Lattice:
    """The segmentations of single words by a unigram model."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Reads the scores of the pieces when they are first needed."""
        self._processor = vocabulary.processor
        self._scores: dict[str, float | None] = {}  # of the pieces; None: the beginning of longer ones only
        self._user_defined: list[str] = []
        self._unknown = 0.0

    def _read(self) -> None:
        processor = self._processor
        indices = list(range(processor.get_piece_size()))
        names = [name.replace(BLANK, " ") for name in processor.id_to_piece(indices)]
        scores: list[float] = processor.get_score(indices)
        unusable = map(any, zip(processor.is_control(indices), processor.is_unused(indices), processor.is_unknown(indices)))
        pieces = {name: score for name, score, no in zip(names, scores, unusable, strict=True) if not no}
        beginnings = {name[:end] for name in pieces for end in range(1, len(name))}
        self._scores = dict.fromkeys(beginnings) | pieces
        self._unknown = min(pieces.values()) - UNKNOWN_PENALTY
        # The scores of all others are logarithms of probabilities.
        self._user_defined = [name for name, score in pieces.items() if score >= 0.0]

    def surface(self, word: str) -> str | None:
        """A normalised word as the model's own normaliser leaves it, a blank before it (nothing at all may be left).

        None when that is several words, or when a user-defined piece is in it.
        """
        if not self._scores:
            self._read()
        surface: str = self._processor.normalize(word)
        if BLANK in surface[1:] or any(piece in surface for piece in self._user_defined):
            return None
        return surface.replace(BLANK, " ")  # what is plain ASCII is faster to cut

    def best(self, surface: str) -> tuple[float, float]:
        """The score of the best segmentation, and its lead over the second best (infinite if there is none)."""
        find, unknown, length = self._scores.get, self._unknown, len(surface)
        best, second = [-math.inf] * (length + 1), [-math.inf] * (length + 1)
        best[0] = 0.0
        for start in range(length):
            first, other = best[start], second[start]
            for end in range(start + 1, length + 1):
                score = find(surface[start:end], ABSENT)
                if score is None:
                    if end > start + 1:
                        continue
                    score = unknown
                elif score == ABSENT:
                    if end > start + 1:
                        break
                    score = unknown
                total = first + score
                if total > best[end]:
                    runner_up = other + score
                    second[end] = runner_up if runner_up > best[end] else best[end]
                    best[end] = total
                elif total > second[end]:
                    second[end] = total
        return best[length], best[length] - second[length]


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


def pack_varints(ids: list[int]) -> bytes:
    """Ids as protocol buffers write them: seven bits a byte, the lowest first."""
    packed = bytearray()
    for token_id in ids:
        while token_id > 127:
            packed.append(token_id & 127 | 128)
            token_id >>= 7
        packed.append(token_id)
    return bytes(packed)
