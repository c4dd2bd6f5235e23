"""The best segmentation of a word by a unigram model, and how far it leads over the second best, for many words at once.

SentencePiece tells the best one alone; asking it for two costs several times as much as both here.
"""

import dataclasses

import numpy as np
from numba import types

from metro_jax.text.jit import BYTES, kernel
from metro_jax.text.vocabulary import Vocabulary

BLANK = "▁"
UNKNOWN_PENALTY = 10.0  # SentencePiece scores an unknown character this much below the worst piece
NO_PIECE, USER_DEFINED = -1, -2  # where a trie has no piece, and one that the lattice cannot score
_ROOM = 256  # of a node in a trie: one place for each byte
_TRIES = 64  # places looked at for the children of a node before they go to the end

_INT32, _INT64 = types.int32[::1], types.int64[::1]
_TRIE = types.int32[:, ::1]


@dataclasses.dataclass(frozen=True)
class Segments:
    """Packed ids of many strings, one after the other; `sure` where the segmentation leads by enough."""

    packed: np.ndarray  # uint8
    ends: np.ndarray  # int64, in `packed`, of each string
    counts: np.ndarray  # int64, ids of each string
    sure: np.ndarray  # bool


class Lattice:
    """The pieces of a unigram model with their scores and ids."""

    def __init__(self, vocabulary: Vocabulary, unknown_id: int) -> None:
        """Only unigram models have the scores that this needs. A negative `unknown_id`: words with unknown text are
        never sure."""
        processor = vocabulary.processor
        indices = list(range(processor.get_piece_size()))
        names: list[str] = processor.id_to_piece(indices)
        scores: list[float] = processor.get_score(indices)
        excluded = zip(
            processor.is_control(indices), processor.is_unused(indices), processor.is_unknown(indices), strict=True
        )
        pieces = sorted(
            (name.replace(BLANK, " ").encode(), index)
            for index, name, no in zip(indices, names, excluded, strict=True)
            if not any(no) and " " not in name
        )
        order = np.array([index for _, index in pieces])
        self._scores = np.array(scores, np.float64)[order]
        ids = np.arange(len(indices)) if vocabulary.renumber is None else np.array(vocabulary.renumber)
        self._ids = ids[order].astype(np.int64)
        # The scores of all others are logarithms of probabilities.
        values = np.where(self._scores >= 0.0, USER_DEFINED, np.arange(len(order))).astype(np.int32)
        bounds = np.cumsum([0, *(len(name) for name, _ in pieces)])
        self.trie = _build(np.frombuffer(b"".join(name for name, _ in pieces), np.uint8), bounds, values)
        self._unknown, self._unknown_id = float(self._scores.min()) - UNKNOWN_PENALTY, unknown_id

    def segment(self, surfaces: np.ndarray, bounds: np.ndarray, lowest: np.ndarray, slack: float) -> Segments:
        """The ids of strings of words, as the model's own normaliser leaves them, each with a blank before it.

        String i is `surfaces[bounds[i] : bounds[i + 1]]` (bytes). It is sure when the best segmentation of each word of
        n characters leads by more than n `slack`, when their scores add up to `lowest[i]` or more, and when there is no
        user-defined piece in it.
        """
        return Segments(
            *_segment(
                surfaces, bounds, lowest, slack, self.trie, self._scores, self._ids, self._unknown, self._unknown_id
            )
        )


@kernel(types.int32[:, ::1](BYTES, _INT64, _INT32))
def _build(names, bounds, values):
    """A double-array trie of sorted names: rows of base, parent and value; node 0 is the root.

    The child of node n for byte b is row base(n) + b if the parent there is n (Aoe 1989). `values[i]` is for name i.
    """
    nodes = np.full((4 * _ROOM, 3), -1, np.int32)
    nodes[0, 1] = 0  # taken
    free, end = 1, 1  # no place before `free` is free, all from `end` on are
    # To do: node, its first and last name, and how many of their bytes lead to it. No more wait than there are names.
    waiting = np.empty((len(values) + 1, 4), np.int64)
    waiting[0] = 0, 0, len(values), 0
    left = 1
    children = np.empty(_ROOM, np.int64)
    firsts = np.empty(_ROOM + 1, np.int64)
    while left:
        left -= 1
        node, first, last, depth = waiting[left]
        if first < last and bounds[first + 1] - bounds[first] == depth:
            nodes[node, 2] = values[first]
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
        while nodes[free, 1] >= 0:
            free += 1
        place, tries = free, 0  # of the first child
        while True:
            if place + 2 * _ROOM > len(nodes):
                larger = np.full((2 * len(nodes), 3), -1, np.int32)
                larger[: len(nodes)] = nodes
                nodes = larger
            fits = place >= children[0]
            for child in children[:count]:
                fits = fits and nodes[place - children[0] + child, 1] < 0
            if fits:
                break
            tries += 1
            place = place + 1 if tries < _TRIES else max(place + 1, end)
        base = place - children[0]
        nodes[node, 0] = base
        for number in range(count):
            nodes[base + children[number], 1] = node
            end = max(end, base + children[number] + 1)
            waiting[left] = base + children[number], firsts[number], firsts[number + 1], depth + 1
            left += 1
    return nodes


@kernel(
    types.Tuple((types.uint8[::1], _INT64, _INT64, types.boolean[::1]))(
        BYTES, _INT64, types.float64[::1], types.float64, _TRIE, types.float64[::1], _INT64, types.float64, types.int64
    )
)
def _segment(surfaces, bounds, lowest, slack, trie, scores, ids, unknown, unknown_id):
    """See `Lattice.segment`."""
    strings = len(bounds) - 1
    packed = np.empty(4 * (bounds[strings] - bounds[0]), np.uint8)  # no more ids than bytes, none of five bytes
    ends, counts = np.zeros(strings, np.int64), np.zeros(strings, np.int64)
    sure = np.zeros(strings, np.bool_)
    longest = 0
    for string in range(strings):
        longest = max(longest, bounds[string + 1] - bounds[string])
    best, second = np.empty(longest + 1, np.float64), np.empty(longest + 1, np.float64)
    begins, pieces = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    size = 0
    for string in range(strings):
        begin, end = bounds[string], bounds[string + 1]
        fine, total, count, start = True, 0.0, 0, size
        while begin < end and fine:
            stop = begin + 1
            while stop < end and surfaces[stop] != 0x20:
                stop += 1
            length = stop - begin
            best[: length + 1] = -np.inf
            second[: length + 1] = -np.inf
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
                while after < length:
                    child = trie[node, 0] + np.int64(surfaces[begin + after])
                    if trie[node, 0] < 0 or trie[child, 1] != node:
                        break
                    node = child
                    after += 1
                    piece = trie[node, 2]
                    if piece == NO_PIECE:
                        continue
                    if piece == USER_DEFINED:
                        fine = False
                        break
                    alone = alone or after == place + width
                    first, runner_up = best[place] + scores[piece], second[place] + scores[piece]
                    if first > best[after]:
                        # The second best ends as the best one does or as another one.
                        second[after] = max(best[after], runner_up)
                        best[after], begins[after], pieces[after] = first, place, piece
                    else:  # as good as the best one at most
                        second[after] = max(second[after], first)
                if not fine:
                    break
                if not alone:  # a single character can always stand alone
                    after = min(place + width, length)
                    first, runner_up = best[place] + unknown, second[place] + unknown
                    if first > best[after]:
                        second[after] = max(best[after], runner_up)
                        best[after], begins[after], pieces[after] = first, place, -1
                    else:
                        second[after] = max(second[after], first)
            if not fine or not best[length] - second[length] > characters * slack:
                fine = False
                break
            total += best[length]
            # From the end to the beginning: the begin of each piece is where the one before ends.
            place, following = length, -1
            while place > 0:
                before = begins[place]
                begins[place] = following  # turned round
                following, place = place, before
            place, was_unknown = following, False
            while place >= 0:
                piece = pieces[place]
                place = begins[place]
                if piece < 0:
                    if unknown_id < 0:
                        fine = False
                        break
                    if was_unknown:
                        continue  # a run of unknown characters is one id
                    number = unknown_id
                else:
                    number = ids[piece]
                was_unknown = piece < 0
                while number > 127:
                    packed[size] = number & 127 | 128
                    number >>= 7
                    size += 1
                packed[size] = number
                size += 1
                count += 1
            begin = stop
        sure[string] = fine and total >= lowest[string]
        if not sure[string]:
            size, count = start, 0
        ends[string], counts[string] = size, count
    return packed[:size].copy(), ends, counts, sure
