"""The best segmentation of words by a unigram model, and how far it leads over the second best.

SentencePiece tells the best one alone; asking it for two costs several times as much as both here.
"""

import dataclasses

import numpy as np

from metro_jax.text.jit import BYTES, helper, kernel, types
from metro_jax.text.vocabulary import Vocabulary

BLANK = "▁"
UNKNOWN_PENALTY = 10.0  # SentencePiece scores an unknown character this much below the worst piece
NO_PIECE, USER_DEFINED = -1, -2  # where a trie has no piece, and one that the lattice cannot score
_ROOM = 256  # of a node in a trie: one place for each byte
_TRIES = 16  # places looked at for the children of a node before they go to the end

_INT32, _INT64, _FLOAT64 = types.int32[::1], types.int64[::1], types.float64[::1]
_BASE, _PARENT, _PIECE = range(3)  # columns of a trie
_TRIE = types.int32[:, ::1]


@dataclasses.dataclass(frozen=True)
class Segments:
    """Packed ids of many strings, one after the other."""

    packed: np.ndarray  # uint8
    ends: np.ndarray  # int64, in `packed`, of each string
    counts: np.ndarray  # int64, ids of each string
    levels: np.ndarray  # int64, by how much the segmentation leads


class Lattice:
    """The pieces of a unigram model with their scores and ids."""

    def __init__(self, vocabulary: Vocabulary, unknown_id: int) -> None:
        """Only unigram models have the scores that this needs. With a negative `unknown_id` strings with unknown text
        get no ids."""
        processor = vocabulary.processor
        indices = list(range(processor.get_piece_size()))
        names: list[str] = processor.id_to_piece(indices)
        scores: list[float] = processor.get_score(indices)
        excluded = zip(
            processor.is_control(indices), processor.is_unused(indices), processor.is_unknown(indices), strict=True
        )
        usable = [index for index, no in zip(indices, excluded, strict=True) if not any(no) and " " not in names[index]]
        surfaces = "\n".join([names[index] for index in usable]).replace(BLANK, " ").encode().split(b"\n")
        by_name = sorted(range(len(surfaces)), key=surfaces.__getitem__)
        order, surfaces = np.array(usable)[by_name], [surfaces[place] for place in by_name]
        self._scores = np.array(scores, np.float64)[order]
        ids = np.arange(len(indices)) if vocabulary.renumber is None else np.array(vocabulary.renumber)
        self._ids = ids[order].astype(np.int64)
        # The scores of all others are logarithms of probabilities.
        values = np.where(self._scores >= 0.0, USER_DEFINED, np.arange(len(order))).astype(np.int32)
        bounds = np.cumsum([0, *map(len, surfaces)])
        self.trie = _build(np.frombuffer(b"".join(surfaces), np.uint8), bounds, values)
        self._unknown, self._unknown_id = float(self._scores.min()) - UNKNOWN_PENALTY, unknown_id

    def segment(
        self, surfaces: np.ndarray, bounds: np.ndarray, lowest: np.ndarray, slack: float, levels: int
    ) -> Segments:
        """The ids of strings of words, as the model's own normaliser leaves them, each with a blank before it.

        String i is `surfaces[bounds[i] : bounds[i + 1]]` (bytes). Its level is 0 when the best segmentation of
        each of its words of n characters leads by more than n `slack`, 1 when by more than half of that, and so on. It
        is `levels`, and there are no ids, when the lead is smaller still, when the scores add up to less than
        `lowest[i]`, or when there is a user-defined piece.
        """
        model = self.trie, self._scores, self._ids, self._unknown, self._unknown_id
        return Segments(*_segment(surfaces, bounds, lowest, slack, levels, *model))


@kernel(types.int32[:, ::1](BYTES, _INT64, _INT32))
def _build(names, bounds, values):
    """A double-array trie of sorted names: rows of base, parent and piece; node 0 is the root.

    The child of node n for byte b is row base(n) + b if the parent there is n (Aoe 1989). `values[i]` is for name i.
    """
    nodes = np.full((4 * _ROOM, 3), -1, np.int32)
    nodes[0, _PARENT] = 0  # taken
    free, end = _ROOM, _ROOM  # from `_ROOM` on no place before `free` is free, and all from `end` on are
    # To do: node, its first and last name, and how many of their bytes lead to it. No more wait than there are names.
    waiting = np.zeros((len(values) + 1, 4), np.int64)
    waiting[0, 2] = len(values)
    left = 1
    children = np.empty(_ROOM, np.int64)
    firsts = np.empty(_ROOM + 1, np.int64)
    while left:
        left -= 1
        node, first, last, depth = waiting[left, 0], waiting[left, 1], waiting[left, 2], waiting[left, 3]
        if first < last and bounds[first + 1] - bounds[first] == depth:
            nodes[node, _PIECE] = values[first]
            first += 1
        count, before = 0, -1
        for name in range(first, last):
            byte = names[bounds[name] + depth]
            if byte != before:
                children[count], firsts[count] = byte, name
                before = byte
                count += 1
        if count == 0:
            continue
        firsts[count] = last
        while nodes[free, _PARENT] >= 0:
            free += 1
        place, tries = free, 0  # of the first child
        while True:
            if place + 2 * _ROOM > len(nodes):
                larger = np.full((2 * len(nodes), 3), -1, np.int32)
                for row in range(len(nodes)):
                    for column in range(3):
                        larger[row, column] = nodes[row, column]
                nodes = larger
            fits = place >= children[0]
            for child in children[:count]:
                fits = fits and nodes[place - children[0] + child, _PARENT] < 0
            if fits:
                break
            tries += 1
            place = place + 1 if tries < _TRIES else max(place + 1, end)
        base = place - children[0]
        nodes[node, _BASE] = base
        for number in range(count):
            nodes[base + children[number], _PARENT] = node
            end = max(end, base + children[number] + 1)
            waiting[left, 0], waiting[left, 1] = base + children[number], firsts[number]
            waiting[left, 2], waiting[left, 3] = firsts[number + 1], depth + 1
            left += 1
    return nodes


@helper
def _step(place, after, score, piece, best, second, begins, pieces):
    """Goes from a place to the one after a piece, if that is the best way there or the second best."""
    first, runner_up = best[place] + score, second[place] + score
    if first > best[after]:
        # The second best ends as the best one does or as another one.
        second[after] = max(best[after], runner_up)
        best[after], begins[after], pieces[after] = first, place, piece
    else:  # with two best ones the second is as good as they are
        second[after] = max(second[after], first)


@helper
def _search(surfaces, begin, length, trie, scores, unknown, best, second, begins, pieces):
    """Finds the ways through a word; its number of characters, or -1 when it has a user-defined piece."""
    for place in range(length + 1):
        best[place] = second[place] = -np.inf
    best[0] = 0.0
    characters = 0
    for place in range(length):
        byte = surfaces[begin + place]
        if byte & 0xC0 == 0x80:
            continue  # inside a character
        characters += 1
        width = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        alone = False  # whether the character is a piece
        node, after = 0, place
        while after < length and trie[node, _BASE] >= 0:
            child = trie[node, _BASE] + np.int64(surfaces[begin + after])
            if trie[child, _PARENT] != node:
                break
            node, after = child, after + 1
            piece = trie[node, _PIECE]
            if piece == USER_DEFINED:
                return -1
            if piece >= 0:
                alone = alone or after == place + width
                _step(place, after, scores[piece], piece, best, second, begins, pieces)
        if not alone:  # a single character can always stand alone
            _step(place, min(place + width, length), unknown, NO_PIECE, best, second, begins, pieces)
    return characters


@helper
def _write(length, begins, pieces, ids, unknown_id, packed, size):
    """Writes the ids of the best way through a word; how many they are, and the size of `packed` with them.

    The number is -1 when there is unknown text and no id for it.
    """
    place, following = length, -1
    while place > 0:  # turns the way round: from the begin of each piece to the end
        before, begins[place] = begins[place], following
        following, place = place, before
    place, was_unknown, count = following, False, 0
    while place >= 0:
        piece, place = pieces[place], begins[place]
        if piece < 0 and unknown_id < 0:
            return -1, size
        if piece < 0 and was_unknown:
            continue  # a run of unknown characters is one id
        was_unknown = piece < 0
        number = unknown_id if piece < 0 else ids[piece]
        while number > 127:
            packed[size] = number & 127 | 128
            number >>= 7
            size += 1
        packed[size] = number
        size += 1
        count += 1
    return count, size


@kernel(
    types.Tuple((types.uint8[::1], _INT64, _INT64, _INT64))(
        BYTES, _INT64, _FLOAT64, types.float64, types.int64, _TRIE, _FLOAT64, _INT64, types.float64, types.int64
    )
)
def _segment(surfaces, bounds, lowest, slack, no_level, trie, scores, ids, unknown, unknown_id):
    """See `Lattice.segment`."""
    strings = len(bounds) - 1
    packed = np.empty(4 * bounds[strings] + 4, np.uint8)  # no more ids than bytes, none of more than four bytes
    ends, counts, levels = np.zeros(strings, np.int64), np.zeros(strings, np.int64), np.zeros(strings, np.int64)
    longest = 0
    for string in range(strings):
        longest = max(longest, bounds[string + 1] - bounds[string])
    best, second = np.empty(longest + 1), np.empty(longest + 1)
    begins, pieces = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    size = 0
    for string in range(strings):
        begin, end, start = bounds[string], bounds[string + 1], size
        total, count, lead = 0.0, 0, np.inf
        while begin < end:
            stop = begin + 1
            while stop < end and surfaces[stop] != 0x20:
                stop += 1
            length = stop - begin
            characters = _search(surfaces, begin, length, trie, scores, unknown, best, second, begins, pieces)
            more = -1
            if characters > 0:
                more, size = _write(length, begins, pieces, ids, unknown_id, packed, size)
            if more < 0:
                lead = 0.0
                break
            total += best[length]
            count += more
            lead = min(lead, (best[length] - second[length]) / characters)  # for each character
            begin = stop
        level = 0
        while level < no_level and (lead <= slack or total < lowest[string]):
            lead *= 2.0
            level += 1
        if level == no_level:
            size, count = start, 0
        ends[string], counts[string], levels[string] = size, count, level
    return packed[:size].copy(), ends, counts, levels
