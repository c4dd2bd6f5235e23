"""A table of tokens and their packed ids, and the ways through a text with it: kernels over bytes, no Python per line.

A slot of the table is two numbers of 64 bits: the key and the value of a token. The key of a token of at most eight
bytes is the token itself, that of others a hash of it. The value holds, from the lowest bits on:

    32 bits  PAYLOAD: the packed ids of a token of at most eight bytes, if they take at most four bytes. Otherwise the
             place of a record in the store: the token, if it has more than eight bytes, then its packed ids. Of a
             token that is not learnt yet (NEW) its number among the new ones.
     8 bits  SIZE, of the packed ids
     8 bits  COUNT, of the ids
     8 bits  LENGTH, of the token; 0 in an empty slot
     8 bits  LEVEL (how long the line may be, see `word_cache`), USED (it was found again), NEW
"""

import numpy as np

from metro_jax.text.jit import BYTES, helper, kernel, types

MAX_LENGTH = 200  # bytes of a token; longer ones hardly come twice
LEVELS = 5  # a token of this level is in no line of which the ids could be joined
BLANK, WORDS, WHOLE = 0, 1, 2  # a line of whitespace, one to be joined from its tokens, one to be encoded as a whole
LINE_BEGIN, LINE_END, CHARACTERS, FIRST_TOKEN, LAST_TOKEN, STATE = range(6)  # columns of lines
LINE_COLUMNS = 6
TOKEN_BEGIN, TOKEN_LENGTH, SLOT = range(3)  # columns of new tokens
TOKEN_COLUMNS = 3

_ORDINARY, _SPACE, _LINE_FEED, _INSIDE, _PERHAPS_SPACE = range(5)
#: What a byte is: `_INSIDE` a character, or the first one of a character that may be whitespace.
_KINDS = np.zeros(256, np.uint8)
_KINDS[[ord(_c) for _c in map(chr, range(128)) if _c.isspace()]] = _SPACE
_KINDS[ord("\n")] = _LINE_FEED
_KINDS[0x80:0xC0] = _INSIDE
_KINDS[[0xC2, 0xE1, 0xE2, 0xE3]] = _PERHAPS_SPACE

_KEY, _VALUE = 0, 1  # columns of slots
_SHORT, _INLINE = 8, 4  # bytes of a token that is its own key, and of ids in the value
_SIZE, _COUNT, _LENGTH, _LEVEL = (np.uint64(shift) for shift in (32, 40, 48, 56))
_USED, _NEW = np.uint64(1 << 60), np.uint64(1 << 61)
_PAYLOAD, _BYTE, _LOW_LEVEL = np.uint64(0xFFFFFFFF), np.uint64(0xFF), np.uint64(7)
_EMPTY, _ONE, _SEVEN, _EIGHT, _HALF, _LAST_BYTE = (np.uint64(number) for number in (0, 1, 7, 8, 32, 56))
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)  # the lowest and highest bits of bytes
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio (Knuth, TAOCP 6.4)

_SLOTS, _LINES = types.uint64[:, ::1], types.int64[:, ::1]
_UINT8, _INT64, _UINT64 = types.uint8[::1], types.int64[::1], types.uint64[::1]


@helper
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


@helper
def _letter_or_digit(byte):
    """Whether an ASCII character is one."""
    lower = byte | 0x20
    return 0x30 <= byte <= 0x39 or 0x61 <= lower <= 0x7A


@helper
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


@helper
def _apostrophe(data, begin, end):
    """Whether a token ends in an apostrophe or in what becomes one: ' ‘ ’ ´."""
    last = data[end - 1]
    if last == 0x27:
        return True
    if last == 0xB4:
        return end - begin >= 2 and data[end - 2] == 0xC2
    return (last == 0x98 or last == 0x99) and end - begin >= 3 and data[end - 2] == 0x80 and data[end - 3] == 0xE2


@helper
def _field(value, shift):
    """A number of eight bits in a value."""
    return np.int64(value >> shift & _BYTE)


@helper
def _first_slot(key, slots):
    """Where the search for a key begins; the number of slots is a power of two."""
    mixed = (key ^ key >> _HALF) * _SPREAD
    return np.int64(mixed >> _HALF) & (len(slots) - 1)


@helper
def _same(data, begin, other, start, length):
    for place in range(length):  # noqa: SIM110 - numba compiles no generators
        if data[begin + place] != other[start + place]:
            return False
    return True


@helper
def _look_up(data, begin, length, key, slots, store, new, known):
    """The value of a token, and how many new ones there are with it."""
    slot = _first_slot(key, slots)
    while True:
        value = slots[slot, _VALUE]
        if value == _EMPTY:
            new[known, TOKEN_BEGIN], new[known, TOKEN_LENGTH], new[known, SLOT] = begin, length, slot
            value = np.uint64(known) | np.uint64(length) << _LENGTH | _NEW
            slots[slot, _KEY], slots[slot, _VALUE] = key, value
            return value, known + 1
        if slots[slot, _KEY] == key and _field(value, _LENGTH) == length:
            payload = np.int64(value & _PAYLOAD)
            if value & _NEW:
                if length <= _SHORT or _same(data, begin, data, new[payload, TOKEN_BEGIN], length):
                    return value, known
            elif length <= _SHORT or _same(data, begin, store, payload, length):
                if not value & _USED:
                    slots[slot, _VALUE] = value | _USED
                return value, known
        slot = slot + 1 & len(slots) - 1


@helper
def _fold(folded, word):
    """A hash of words that were folded before and of one more."""
    return (folded ^ word ^ folded >> _HALF) * _SPREAD


@helper
def _token(data, place):
    """The end of the token that begins at a place, its key, and how many of its bytes are inside characters.

    Takes eight bytes at a time. The bit tricks for the first byte below 0x21 are exact up to that byte.
    """
    start, folded, only = np.uint64(place), _EMPTY, _EMPTY
    here = start
    while here + _EIGHT <= np.uint64(len(data)):
        word = np.uint64(data[here])
        for byte in range(1, 8):
            word |= np.uint64(data[here + np.uint64(byte)]) << np.uint64(8 * byte)
        ends = (word - _ONES * np.uint64(0x21) & ~word | word) & _HIGHS
        if ends == _EMPTY:
            folded, only = _fold(folded, word), word
            here += _EIGHT
            continue
        below = ((ends & ~ends + _ONE) >> _SEVEN) - _ONE  # the bits of the bytes before the lowest of these
        count = (below & _ONES) * _ONES >> _LAST_BYTE
        kind = _KINDS[data[here + count]]
        if kind != _SPACE and kind != _LINE_FEED:
            break  # a character beyond ASCII, or one that cannot be seen
        word &= (_ONE << count * _EIGHT) - _ONE
        here += count
        length = here - start
        if length > _EIGHT:
            word = _fold(folded, word)
        elif length == _EIGHT:
            word = only
        return np.int64(here), word, 0
    return _any_token(data, place)


@helper
def _any_token(data, place):
    """`_token` byte by byte, for tokens with any characters and at the end of the data."""
    start, inside, word, folded, only = place, 0, _EMPTY, _EMPTY, _EMPTY
    while place < len(data):
        byte = data[place]
        kind = _KINDS[byte]
        if kind != _ORDINARY:
            if kind <= _LINE_FEED or (kind == _PERHAPS_SPACE and _space(data, place)):
                break
            inside += kind == _INSIDE
        shift = np.uint64(place - start & _SHORT - 1) * _EIGHT
        word |= np.uint64(byte) << shift
        place += 1
        if place - start & _SHORT - 1 == 0:
            folded, only, word = _fold(folded, word), word, _EMPTY
    if place - start > _SHORT:
        word = _fold(folded, word)
    elif place - start == _SHORT:
        word = only
    return place, word, inside


@kernel(types.UniTuple(types.int64, 4)(BYTES, types.int64, types.int64, _SLOTS, _UINT8, _UINT64, _LINES, _LINES))
def scan(data, place, longest, slots, store, tokens, lines, new):
    """Reads lines from a place on, as many as there is room for in the arrays, and looks their tokens up.

    Fills `lines` (columns above), `tokens` (the value of each) and `new` (columns above). Lines of more than `longest`
    characters have no tokens. Returns the place where it stopped and how many of the three there are. There is room for
    a line when `longest` tokens fit.
    """
    count_lines = count_tokens = known = 0
    while place < len(data) and count_lines < len(lines):
        if count_tokens + longest + 1 > len(tokens) or known + longest + 1 > len(new):
            break
        begin, first, inside, state, quoted = place, count_tokens, 0, BLANK, False
        while place < len(data) and data[place] != 0x0A:
            kind = _KINDS[data[place]]
            if kind == _SPACE:
                place += 1
                continue
            width = _space(data, place) if kind == _PERHAPS_SPACE else 0
            if width:
                place += width
                inside += width - 1
                continue
            start = place
            place, key, more = _token(data, start)
            inside += more
            state = WORDS
            if (
                place - start > MAX_LENGTH
                or place - begin - inside > longest
                or (quoted and _joins(data, start, place))
            ):
                state = WHOLE
                break
            quoted = _apostrophe(data, start, place)
            value, known = _look_up(data, start, place - start, key, slots, store, new, known)
            tokens[count_tokens] = value
            count_tokens += 1
        while place < len(data) and data[place] != 0x0A:  # the rest of a line that is encoded as a whole
            place += 1
        characters = place - begin - inside
        if state == WHOLE or (state == WORDS and characters > longest):
            state, count_tokens = WHOLE, first
        lines[count_lines, LINE_BEGIN], lines[count_lines, LINE_END] = begin, place
        lines[count_lines, FIRST_TOKEN], lines[count_lines, LAST_TOKEN] = first, count_tokens
        lines[count_lines, CHARACTERS], lines[count_lines, STATE] = characters, state
        count_lines += 1
        place += 1  # the line feed
    return min(place, len(data)), count_lines, count_tokens, known


@kernel(types.int64(BYTES, _LINES, _INT64, _UINT8, _INT64, _INT64, _INT64, _SLOTS, _UINT8, types.int64, _UINT64))
def learn(data, new, rows, packed, ends, counts, levels, slots, store, size, values):
    """Puts the new tokens with these rows into the table; `values` is told the value of each.

    Their ids are in `packed` up to `ends`. Of the store `size` bytes are full; returns how many are then.
    """
    begin = 0
    for index in range(len(rows)):
        row, end = rows[index], ends[index]
        source, length, width, count, level = new[row, 0], new[row, 1], end - begin, counts[index], levels[index]
        if width > 255 or count > 255:
            width, count, level = 0, 0, LEVELS
        if length <= _SHORT and width <= _INLINE:
            payload = 0
            for place in range(width):
                payload |= np.int64(packed[begin + place]) << 8 * place
        else:
            payload = size
            if length > _SHORT:
                for place in range(length):
                    store[size + place] = data[source + place]
                size += length
            for place in range(width):
                store[size + place] = packed[begin + place]
            size += width
        value = np.uint64(payload) | np.uint64(width) << _SIZE | np.uint64(count) << _COUNT
        values[row] = value | np.uint64(length) << _LENGTH | np.uint64(level) << _LEVEL
        slots[new[row, SLOT], _VALUE] = values[row]
        begin = end
    return size


@helper
def _record_size(value):
    """Bytes that a token has in the store."""
    length, size = _field(value, _LENGTH), _field(value, _SIZE)
    return length + size if length > _SHORT else 0 if size <= _INLINE else size


@kernel(types.UniTuple(types.int64, 2)(_SLOTS, _UINT8, types.boolean, _SLOTS, _UINT8))
def move(slots, store, used_only, new_slots, new_store):
    """Moves a table into an empty one. Returns the number of tokens and the bytes of the new store that are full.

    With `used_only` only the tokens are moved that were found again since they were put in, or last moved in this way;
    otherwise nothing is written to the new store, since the old one goes on.
    """
    count = full = 0
    for slot in range(len(slots)):
        value = slots[slot, _VALUE]
        if value == _EMPTY or (used_only and not value & _USED):
            continue
        if used_only:
            size, payload = _record_size(value), np.int64(value & _PAYLOAD)
            if size:
                for place in range(size):
                    new_store[full + place] = store[payload + place]
                value = value & ~_PAYLOAD | np.uint64(full)
                full += size
            value &= ~_USED
        to = _first_slot(slots[slot, _KEY], new_slots)
        while new_slots[to, _VALUE] != _EMPTY:
            to = to + 1 & len(new_slots) - 1
        new_slots[to, _KEY], new_slots[to, _VALUE] = slots[slot, _KEY], value
        count += 1
    return count, full


@kernel(types.void(_UINT64, _UINT64, _LINES, _INT64, _INT64, _INT64))
def measure(tokens, values, lines, limits, sizes, counts):
    """Bytes and number of the ids of each line. New tokens are learnt, and get their values here.

    Lines with a token of a level of which a line may have at most `limits[level]` characters become whole ones if they
    have more.
    """
    for line in range(len(lines)):
        size, count, level = 0, 0, 0
        if lines[line, STATE] == WORDS:
            for index in range(lines[line, FIRST_TOKEN], lines[line, LAST_TOKEN]):
                value = tokens[index]
                if value & _NEW:
                    value = values[np.int64(value & _PAYLOAD)]
                    tokens[index] = value
                size += _field(value, _SIZE)
                count += _field(value, _COUNT)
                level = max(level, np.int64(value >> _LEVEL & _LOW_LEVEL))
            if lines[line, CHARACTERS] > limits[level]:
                lines[line, STATE] = WHOLE
        sizes[line], counts[line] = size, count


@kernel(_UINT8(_UINT64, _LINES, _UINT8, _INT64, BYTES, types.int64, types.boolean))
def join(tokens, lines, store, sizes, rest, end, skip_blank):
    """The packed ids of lines with `end` after each: those of their tokens, and `rest` for whole lines, `sizes` bytes.

    Lines of whitespace have nothing but the end, and with `skip_blank` not even that.
    """
    total = len(lines) + _INLINE
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
                value = tokens[index]
                payload = np.int64(value & _PAYLOAD)
                size, length = _field(value, _SIZE), _field(value, _LENGTH)
                if length <= _SHORT and size <= _INLINE:
                    for byte in range(_INLINE):  # what is too much is written over
                        packed[place + byte] = payload >> 8 * byte
                else:
                    source = payload + length if length > _SHORT else payload
                    for byte in range(size):
                        packed[place + byte] = store[source + byte]
                place += size
        if state != BLANK or not skip_blank:
            packed[place] = end
            place += 1
    return packed[:place]
