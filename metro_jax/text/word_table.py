"""A table of tokens and their packed ids, and the ways through a text with it: kernels over bytes, no Python per line.

A record of `store` is LENGTH (of the token), SIZE (of its packed ids), COUNT (of ids) and FLAGS, a byte each, then the
token, then its ids. A slot of `slots` is empty (0) or holds 32 bits of the token's hash, and 32 bits that say where its
record begins, plus 1. A slot whose token is not learnt yet says, with the highest of these 32 bits set, which one it is.
"""

import numpy as np
from numba import njit, types

from metro_jax.text.jit import BYTES, kernel

HEADER = 4  # bytes of a record before the token
MAX_LENGTH = 200  # bytes of a token; longer ones hardly come twice
ODD, USED = 1, 2  # flags: ids depend on what stands before; was found again
BLANK, WORDS, WHOLE = 0, 1, 2  # a line of whitespace, one to be joined from its tokens, one to be encoded as a whole
LINE_BEGIN, LINE_END, FIRST_TOKEN, LAST_TOKEN, STATE = range(5)  # columns of lines
LINE_COLUMNS = 5
TOKEN_BEGIN, TOKEN_LENGTH, SLOT = range(3)  # columns of new tokens
TOKEN_COLUMNS = 3

_ORDINARY, _SPACE, _LINE_FEED, _INSIDE, _PERHAPS_SPACE = range(5)
#: What a byte is: `_INSIDE` a character, or the first one of a character that may be whitespace.
_KINDS = np.zeros(256, np.uint8)
_KINDS[[ord(_c) for _c in map(chr, range(128)) if _c.isspace()]] = _SPACE
_KINDS[ord("\n")] = _LINE_FEED
_KINDS[0x80:0xC0] = _INSIDE
_KINDS[[0xC2, 0xE1, 0xE2, 0xE3]] = _PERHAPS_SPACE

# FNV-1a over the bytes (Fowler, Noll, Vo), then spread over all bits (Knuth, TAOCP 6.4: 2^64 by the golden ratio).
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_SPREAD, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
_LOW, _NEW = np.uint64(0xFFFFFFFF), np.uint64(0x80000000)
_ONE, _EMPTY = np.uint64(1), np.uint64(0)

_SLOTS, _LINES = types.uint64[::1], types.int64[:, ::1]
_INT32, _INT64, _UINT8 = types.int32[::1], types.int64[::1], types.uint8[::1]


@njit(error_model="numpy")
def _space(data, place):
    """Length of the whitespace character (beyond ASCII) at a place, 0 if there is none."""
    first = data[place]
    if place + 1 >= len(data):
        return 0
    second = data[place + 1]
    if first == 0xC2:
        return 2 if second == 0x85 or second == 0xA0 else 0
    if place + 2 >= len(data):
        return 0
    third = data[place + 2]
    if first == 0xE1:
        return 3 if second == 0x9A and third == 0x80 else 0  # U+1680
    if first == 0xE3:
        return 3 if second == 0x80 and third == 0x80 else 0  # U+3000
    if second == 0x81:
        return 3 if third == 0x9F else 0  # U+205F
    # U+2000 to U+200A, U+2028, U+2029, U+202F
    return 3 if second == 0x80 and (third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF) else 0


@njit(error_model="numpy")
def _letter_or_digit(byte):
    """Whether an ASCII character is one."""
    lower = byte | 0x20
    return 0x30 <= byte <= 0x39 or 0x61 <= lower <= 0x7A


@njit(error_model="numpy")
def _joins(data, begin, end):
    """Whether the normaliser might join this token to an apostrophe at the end of the one before."""
    first = data[begin] | 0x20
    if first == ord("s") or first == ord("m") or first == ord("d") or first == ord("t"):
        return begin + 1 == end or not _letter_or_digit(data[begin + 1])
    if begin + 1 == end:
        return False
    second = data[begin + 1] | 0x20
    if (first == ord("l") and second == ord("l")) or ((first == ord("r") or first == ord("v")) and second == ord("e")):
        return begin + 2 == end or not _letter_or_digit(data[begin + 2])
    return False


@njit(error_model="numpy")
def _apostrophe(data, begin, end):
    """Whether a token ends in an apostrophe or in what becomes one: ' ‘ ’ ´."""
    last = data[end - 1]
    if last == 0x27:
        return True
    if last == 0xB4:
        return end - begin >= 2 and data[end - 2] == 0xC2
    return (last == 0x98 or last == 0x99) and end - begin >= 3 and data[end - 2] == 0x80 and data[end - 3] == 0xE2


@njit(error_model="numpy")
def _same(data, begin, other, start, length):
    for place in range(length):
        if data[begin + place] != other[start + place]:
            return False
    return True


@njit(error_model="numpy")
def _find(data, begin, length, mixed, slots, store, new):
    """The slot of a token, or the empty one where it would go."""
    mask = len(slots) - 1
    slot = np.int64(mixed >> _HALF) & mask
    tag = mixed & _LOW
    while True:
        content = slots[slot]
        if content == _EMPTY:
            return slot
        if content >> _HALF == tag:
            low = content & _LOW
            if low & _NEW:
                row = np.int64(low & ~_NEW) - 1
                if new[row, TOKEN_LENGTH] == length and _same(data, begin, data, new[row, TOKEN_BEGIN], length):
                    return slot
            else:
                record = np.int64(low) - 1
                if store[record] == length and _same(data, begin, store, record + HEADER, length):
                    return slot
        slot = slot + 1 & mask


@njit(error_model="numpy")
def _look_up(data, begin, length, mixed, slots, store, new, known):
    """The number of a token for `tokens` (see `scan`), and how many new ones there are with it."""
    slot = _find(data, begin, length, mixed, slots, store, new)
    low = slots[slot] & _LOW
    if low == _EMPTY:
        new[known, TOKEN_BEGIN], new[known, TOKEN_LENGTH], new[known, SLOT] = begin, length, slot
        known += 1
        slots[slot] = (mixed & _LOW) << _HALF | _NEW | np.uint64(known)
        return -known, known
    if low & _NEW:
        return -np.int64(low & ~_NEW), known
    record = np.int64(low) - 1
    if not store[record + 3] & USED:
        store[record + 3] |= USED
    return record, known


@kernel(
    types.UniTuple(types.int64, 4)(BYTES, types.int64, types.int64, _SLOTS, _UINT8, _INT32, _LINES, types.int64[:, ::1])
)
def scan(data, place, longest, slots, store, tokens, lines, new):
    """Reads lines from a place on, as many as there is room for in the arrays, and looks their tokens up.

    Fills `lines` (columns above), `tokens` (where the record of each begins; -1 - i for the new one number i) and `new`.
    Lines of more than `longest` characters have no tokens. Returns the place where it stopped and how many of the three
    there are. There is room for a line when `longest` tokens fit.
    """
    count_lines = count_tokens = known = 0
    size = len(data)
    while place < size and count_lines < len(lines):
        if count_tokens + longest + 1 > len(tokens) or known + longest + 1 > len(new):
            break
        begin, first, inside, state, quoted = place, count_tokens, 0, BLANK, False
        while place < size and data[place] != 0x0A:
            kind = _KINDS[data[place]]
            if kind == _SPACE:
                place += 1
                continue
            if kind == _PERHAPS_SPACE:
                width = _space(data, place)
                if width:
                    place += width
                    inside += width - 1
                    continue
            start, mixed = place, _BASIS
            while place < size:
                byte = data[place]
                kind = _KINDS[byte]
                if kind != _ORDINARY:
                    if kind <= _LINE_FEED or (kind == _PERHAPS_SPACE and _space(data, place)):
                        break
                    inside += kind == _INSIDE
                mixed = (mixed ^ np.uint64(byte)) * _PRIME
                place += 1
            length = place - start
            if length > MAX_LENGTH or place - begin - inside > longest or (quoted and _joins(data, start, place)):
                state = WHOLE
                break
            state = WORDS
            quoted = _apostrophe(data, start, place)
            mixed = (mixed ^ (mixed >> _HALF)) * _SPREAD
            tokens[count_tokens], known = _look_up(data, start, length, mixed, slots, store, new, known)
            count_tokens += 1
        while place < size and data[place] != 0x0A:
            place += 1
        if state == WHOLE:
            count_tokens = first
        elif place - begin - inside > longest and state == WORDS:  # whitespace at the end
            state, count_tokens = WHOLE, first
        lines[count_lines, LINE_BEGIN], lines[count_lines, LINE_END] = begin, place
        lines[count_lines, FIRST_TOKEN], lines[count_lines, LAST_TOKEN] = first, count_tokens
        lines[count_lines, STATE] = state
        count_lines += 1
        place += 1  # the line feed
    return min(place, size), count_lines, count_tokens, known


@kernel(
    types.int64(
        BYTES, types.int64[:, ::1], _INT64, _UINT8, _INT64, _INT64, types.boolean[::1], _SLOTS, _UINT8, types.int64, _INT32
    )
)
def learn(data, new, rows, packed, ends, counts, sure, slots, store, size, records):
    """Puts the new tokens with these rows into the store, of which `size` bytes are full; returns how many are then.

    Their ids are in `packed` up to `ends`; those that are not `sure` become odd. `records` is told where each begins.
    """
    begin = 0
    for index in range(len(rows)):
        row = rows[index]
        end = ends[index]
        source, length, slot = new[row, TOKEN_BEGIN], new[row, TOKEN_LENGTH], new[row, SLOT]
        odd = not sure[index] or end - begin > 255 or counts[index] > 255
        width = 0 if odd else end - begin
        store[size], store[size + 1], store[size + 2], store[size + 3] = length, width, 0, ODD
        if not odd:
            store[size + 2], store[size + 3] = counts[index], 0
        records[row] = size
        slots[slot] = (slots[slot] >> _HALF) << _HALF | np.uint64(size + 1)
        size += HEADER
        for place in range(length):
            store[size + place] = data[source + place]
        size += length
        for place in range(width):
            store[size + place] = packed[begin + place]
        size += width
        begin = end
    return size


@kernel(types.UniTuple(types.int64, 2)(_UINT8, types.int64, types.boolean, _SLOTS, _UINT8))
def move(store, size, all_of_them, slots, to):
    """Moves the tokens of a store into an empty table; without `all_of_them` those that were found again since they
    were put in or last moved in this way. Returns the number of tokens and the bytes they take."""
    mask = len(slots) - 1
    count = place = record = 0
    while record < size:
        length = np.int64(store[record])
        end = record + HEADER + length + np.int64(store[record + 1])
        if all_of_them or store[record + 3] & USED:
            mixed = _BASIS
            for index in range(record + HEADER, record + HEADER + length):
                mixed = (mixed ^ np.uint64(store[index])) * _PRIME
            mixed = (mixed ^ (mixed >> _HALF)) * _SPREAD
            slot = np.int64(mixed >> _HALF) & mask
            while slots[slot] != _EMPTY:
                slot = slot + 1 & mask
            slots[slot] = (mixed & _LOW) << _HALF | np.uint64(place + 1)
            for index in range(end - record):
                to[place + index] = store[record + index]
            if not all_of_them:
                to[place + 3] &= ~USED & 255
            place += end - record
            count += 1
        record = end
    return count, place


@kernel(types.void(_INT32, _INT32, _LINES, _UINT8, _INT64, _INT64))
def measure(tokens, records, lines, store, sizes, counts):
    """Bytes and number of the ids of each line; lines with an odd token become whole ones. New tokens are learnt."""
    for line in range(len(lines)):
        size = count = 0
        if lines[line, STATE] == WORDS:
            for index in range(lines[line, FIRST_TOKEN], lines[line, LAST_TOKEN]):
                record = np.int64(tokens[index])
                if record < 0:
                    record = np.int64(records[-record - 1])
                    tokens[index] = record
                if store[record + 3] & ODD:
                    lines[line, STATE] = WHOLE
                    size = count = 0
                    break
                size += np.int64(store[record + 1])
                count += np.int64(store[record + 2])
        sizes[line], counts[line] = size, count


@kernel(_UINT8(_INT32, _LINES, _UINT8, _INT64, BYTES, types.int64, types.boolean))
def join(tokens, lines, store, sizes, rest, end, blank):
    """The packed ids of lines with `end` after each: those of their tokens, and `rest` for whole lines, `sizes` bytes.

    Lines of whitespace have nothing but the end, and with `blank` not even that.
    """
    total = len(lines)
    for line in range(len(lines)):
        total += sizes[line]
    packed = np.empty(total, np.uint8)
    place = begin = 0
    for line in range(len(lines)):
        state = lines[line, STATE]
        if state == WHOLE:
            for index in range(sizes[line]):
                packed[place + index] = rest[begin + index]
            place += sizes[line]
            begin += sizes[line]
        elif state == WORDS:
            for index in range(lines[line, FIRST_TOKEN], lines[line, LAST_TOKEN]):
                record = np.int64(tokens[index])
                source = record + HEADER + np.int64(store[record])
                for byte in range(np.int64(store[record + 1])):
                    packed[place + byte] = store[source + byte]
                place += np.int64(store[record + 1])
        if state != BLANK or not blank:
            packed[place] = end
            place += 1
    return packed[:place]
