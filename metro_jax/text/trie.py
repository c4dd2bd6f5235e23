"""A trie of strings that many places of a text go down at once: NumPy arrays, no loop over characters in Python."""

from collections.abc import Sequence

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio (Knuth, TAOCP 6.4): spreads keys evenly
_ROOM = 4  # slots of the hash table for each key: few keys meet another one
_LARGEST = 0x10FFFF  # code point


class Trie:
    """Nodes are numbered from the root, 0; 0 also stands for `no such node`, since nothing leads to the root.

    `ends[i]` is the node where the i-th string ends, `depth` the length of the longest one.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        """The strings must differ from each other and from the empty one."""
        lengths = np.array([len(string) for string in strings])
        flat = code_points("".join(strings))
        characters, classes = np.unique(flat, return_inverse=True)
        self._class = np.zeros(_LARGEST + 1, np.int32)  # 0: a character of none of the strings
        self._class[characters] = np.arange(1, len(characters) + 1)
        self._classes = len(characters) + 1
        self.depth = int(lengths.max())
        table = np.zeros((len(strings), self.depth), np.int64)
        table[np.arange(self.depth) < lengths[:, None]] = classes + 1
        self.ends = np.zeros(len(strings), np.int64)
        keys, self.nodes = [], 1
        for column in range(self.depth):
            longer = np.flatnonzero(lengths > column)
            found, which = np.unique(self.ends[longer] * self._classes + table[longer, column], return_inverse=True)
            self.ends[longer] = self.nodes + which
            self.nodes += len(found)
            keys.append(found)
        self._fill(np.concatenate(keys))  # node n + 1 is where key n leads

    def _fill(self, keys: np.ndarray) -> None:
        """Puts the steps into the hash table; a key whose place is taken moves on to the next free one."""
        bits = max(1, (len(keys) * _ROOM - 1).bit_length())
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._keys, self._values = np.zeros(1 << bits, np.int64), np.zeros(1 << bits, np.int32)
        places, left = self._place(keys), np.arange(len(keys))
        while left.size:
            free = left[self._keys[places[left]] == 0]
            self._keys[places[free]] = keys[free]  # of several keys for one place the last one gets it
            self._values[places[free]] = free + 1
            gone = self._keys[places[left]] == keys[left]
            self._values[places[left[gone]]] = left[gone] + 1
            left = left[~gone]
            places[left] = places[left] + 1 & self._mask

    def _place(self, keys: np.ndarray) -> np.ndarray:
        return ((keys.astype(np.uint64) * _MULTIPLIER) >> self._shift).astype(np.int64)

    def classes(self, text: str) -> np.ndarray:
        """What `children` takes for characters."""
        return self._class[code_points(text)]

    def children(self, nodes: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """The nodes that characters lead to from nodes; 0 where no string goes on like that."""
        keys = nodes.astype(np.int64) * self._classes + classes
        places = self._place(keys)
        found = self._keys[places]
        missed = np.flatnonzero((found != keys) & (found != 0))
        while missed.size:
            places[missed] = places[missed] + 1 & self._mask
            found[missed] = self._keys[places[missed]]
            missed = missed[(found[missed] != keys[missed]) & (found[missed] != 0)]
        return self._values[places]  # 0 in a free place


def code_points(text: str) -> np.ndarray:
    """The characters as numbers."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
