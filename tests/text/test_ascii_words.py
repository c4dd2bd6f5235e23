"""The normaliser for plain ASCII tokens gives what the normaliser of all tokens gives."""

import itertools
import random

import numpy as np
import pytest

from metro_jax.text.ascii_words import ascii_words
from metro_jax.text.normalizer import normalize_tokens

AWKWARD = [
    *("'s", "'S", "'t,", "'d-x", "'sx", "'s_", "'s_x", "'m)", "('s", "''s", "'''s", "``it''", "`'s", "'", "''", "'''"),
    *("'ll", "'LL", "'lL", "'LLx", "'LL-x", "'RE.", "('VE-y)", "'re", "'ve;", "'Re", "'ll_", "'l", "'r", "'v", "'e"),
    *("dogs'", "dog's", "dogs's", "(a)", "...", "a...", "...a", "x-y", "-x-y-", '"\'s"', "'s's", "'s'", "_a_", "'_s"),
]


def words(tokens: list[str], lower: bool) -> list[list[str] | None]:
    """The words of tokens; None for those that are not done."""
    encoded = [token.encode() for token in tokens]
    lengths = np.array(list(map(len, encoded)))
    spans = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
    surfaces, ends, done = ascii_words(np.frombuffer(b"".join(encoded), np.uint8), spans, lower)
    found = [surfaces[begin:end].tobytes().decode() for begin, end in itertools.pairwise([0, *ends.tolist()])]
    assert all(text.startswith(" ") == good for text, good in zip(found, done, strict=True))
    return [text[1:].split(" ") if good else None for text, good in zip(found, done, strict=True)]


@pytest.mark.parametrize("lower", [True, False])
def test_equals_the_normaliser(lower):
    draw = random.Random(11)
    characters = "'''`\"-._(,sSmdtTlLrReEvVx0"
    tokens = AWKWARD + ["".join(draw.choices(characters, k=draw.randint(1, 9))) for _ in range(20000)]
    tokens += [chr(a) + chr(b) for a in range(33, 127) for b in range(33, 127)]
    expected = [text.split() for text in normalize_tokens(tokens, lower)]
    for token, row, theirs in zip(tokens, words(tokens, lower), expected, strict=True):
        assert row == (theirs if lower or token == token.lower() else None)


def test_only_printable_ascii_is_done():
    tokens = ["é", "a\x07", "x\x7f", "\0", "aé", "“a”", "plain"]
    assert words(tokens, True) == [None] * 6 + [["plain"]]
