"""The normaliser (spec 9.2) for many tokens of plain ASCII characters: what `normalize_tokens` makes of each."""

import string

import numpy as np

from metro_jax.text.jit import BYTES, helper, kernel, types

_BLANK, _TICK, _QUOTE, _DOUBLE = 0x20, ord("`"), ord("'"), ord('"')
_OTHER, _LETTER, _CAPITAL, _DIGIT, _PUNCTUATION = range(5)
#: What a byte is; `_OTHER` stands for bytes that are not printable ASCII.
_KINDS = np.zeros(256, np.uint8)
for _kind, _characters in (
    (_LETTER, string.ascii_lowercase),
    (_CAPITAL, string.ascii_uppercase),
    (_DIGIT, string.digits),
    (_PUNCTUATION, string.punctuation),
):
    _KINDS[[ord(_character) for _character in _characters]] = _kind


@helper
def _ends_word(token, place, size):
    r"""Whether a word ends before a place: `\b` after a letter."""
    return place >= size or (_KINDS[token[place]] == _PUNCTUATION and token[place] != ord("_"))


@helper
def _contraction(token, place, size):
    """Length of the contraction that begins at a place after an apostrophe, 0 if there is none."""
    first = token[place] | 0x20  # in lower case
    if (first == ord("s") or first == ord("m") or first == ord("d") or first == ord("t")) and _ends_word(
        token, place + 1, size
    ):
        return 1
    if place + 1 >= size or not _ends_word(token, place + 2, size):
        return 0
    if _KINDS[token[place]] != _KINDS[token[place + 1]]:  # ll or LL
        return 0
    second = token[place + 1] | 0x20
    if first == ord("l") and second == ord("l"):
        return 2
    return 2 if (first == ord("r") or first == ord("v")) and second == ord("e") else 0


@helper
def _write(token, size, surfaces, place, lower):
    """Writes the words of a token, whose quotes are replaced, each with a blank before it; the place after them."""
    core, tail = 0, size
    while core < size and _KINDS[token[core]] == _PUNCTUATION:
        core += 1
    if core == size:
        core = 0  # punctuation only stays whole
    else:
        while _KINDS[token[tail - 1]] == _PUNCTUATION:
            tail -= 1
    joined = _contraction(token, core, tail) if core and token[core - 1] == _QUOTE else 0
    split = core + joined if joined == 2 and _KINDS[token[core]] == _CAPITAL and core + joined < tail else -1
    for index in range(size):
        if index == 0 or (index == core and not joined) or index in (split, tail):
            surfaces[place] = _BLANK
            place += 1
        byte = token[index]
        surfaces[place] = byte | 0x20 if lower and _KINDS[byte] == _CAPITAL else byte
        place += 1
    return place


@kernel(
    types.Tuple((types.uint8[::1], types.int64[::1], types.boolean[::1]))(BYTES, types.int64[:, ::1], types.boolean)
)
def ascii_words(data, tokens, lower):
    """The words of the tokens `data[begin : begin + length]` (rows of `tokens`: begin and length), each with a blank
    before it, and where those of each token end; last, for which tokens this was possible.

    It is for those of printable ASCII and, without `lower`, of no capitals: all others get no words.
    """
    total, longest = 0, 0
    for index in range(len(tokens)):
        total += 2 * tokens[index, 1] + 1  # a blank before every byte at most
        longest = max(longest, tokens[index, 1])
    surfaces, token = np.empty(total, np.uint8), np.empty(longest, np.uint8)
    ends, done = np.empty(len(tokens), np.int64), np.zeros(len(tokens), np.bool_)
    place = 0
    for index in range(len(tokens)):
        source, end, size, plain = tokens[index, 0], tokens[index, 0] + tokens[index, 1], 0, True
        while source < end:
            byte = data[source]
            kind = _KINDS[byte]
            if kind == _OTHER or (kind == _CAPITAL and not lower):
                plain = False
                break
            source += 1
            if byte in (_TICK, _QUOTE) and source < end and data[source] == byte:
                byte = _DOUBLE
                source += 1
            token[size] = byte
            size += 1
        if plain:
            place = _write(token, size, surfaces, place, lower)
        done[index], ends[index] = plain, place
    return surfaces[:place].copy(), ends, done
