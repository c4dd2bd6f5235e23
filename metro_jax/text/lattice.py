"""How far the best segmentation of a word by a unigram model leads over the second best, for many words at once.

SentencePiece tells the best one alone; asking it for two costs several times as much as the search here.
"""

from collections.abc import Sequence

import numpy as np

from metro_jax.text.trie import Trie
from metro_jax.text.vocabulary import Vocabulary

BLANK = "▁"
UNKNOWN_PENALTY = 10.0  # SentencePiece scores an unknown character this much below the worst piece
WORDS = 2048  # searched together: their table stays in the processor's cache
SHORT = 16  # longer words, few, are searched apart: a table is as long as its longest word


class Lattice:
    """The pieces of a unigram model with their scores."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Only unigram models have the scores that this needs."""
        self._processor = processor = vocabulary.processor
        indices = list(range(processor.get_piece_size()))
        names: list[str] = processor.id_to_piece(indices)
        scores: list[float] = processor.get_score(indices)
        excluded = zip(
            processor.is_control(indices), processor.is_unused(indices), processor.is_unknown(indices), strict=True
        )
        pieces = {
            name.replace(BLANK, " "): score
            for name, score, no in zip(names, scores, excluded, strict=True)
            if not any(no)
        }
        self._unknown = min(pieces.values()) - UNKNOWN_PENALTY
        # The scores of all others are logarithms of probabilities.
        self._user_defined = [name for name, score in pieces.items() if score >= 0.0]
        self._trie = Trie(list(pieces))
        self._scores = np.full(self._trie.nodes, -np.inf, np.float32)  # by node; no piece ends at most of them
        self._scores[self._trie.ends] = list(pieces.values())

    def surfaces(self, words: Sequence[str]) -> list[str | None]:
        """Normalised words as the model's own normaliser leaves them, a blank before each (nothing at all may be left).

        None for those that are several words then, and for those with a user-defined piece in them.
        """
        surfaces: list[str | None] = [f" {word}" for word in words]
        # All built-in rules leave lower-case printable ASCII as it is.
        odd = [
            i for i, word in enumerate(words) if not (word.isascii() and word.isprintable() and word == word.lower())
        ]
        if odd:
            for index, surface in zip(odd, self._processor.normalize([words[i] for i in odd]), strict=True):
                surfaces[index] = None if BLANK in surface[1:] else surface.replace(BLANK, " ")
        for piece in self._user_defined:
            surfaces = [None if surface is None or piece in surface else surface for surface in surfaces]
        return surfaces

    def best(self, surfaces: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The scores of the best segmentations and their leads over the second best (infinite if there is none)."""
        lengths = np.array([len(surface) for surface in surfaces], np.int64)
        best, second = np.zeros(len(surfaces)), np.full(len(surfaces), -np.inf)
        order = np.argsort(lengths, kind="stable")
        for group in np.split(order, [np.searchsorted(lengths[order], SHORT, "right")]):
            for start in range(0, len(group), WORDS):
                block = group[start : start + WORDS]
                if lengths[block].any():
                    best[block], second[block] = self._search([surfaces[int(i)] for i in block], lengths[block])
        return best, best - second

    def _search(self, surfaces: list[str], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scores of the best and of the second best segmentation; the shortest words come first."""
        words, longest = len(surfaces), int(lengths[-1])
        scores = self._piece_scores(surfaces, lengths, longest)
        best, second = np.full((2, longest + 1, words), -np.inf)
        best[0] = 0.0
        for end, first in enumerate(np.searchsorted(lengths, np.arange(1, longest + 1)), 1):  # shorter words are done
            begins = slice(max(0, end - len(scores)), end)
            pieces = scores[: end - begins.start, end - 1, first:][::-1]  # the longest, which begins first, first
            firsts, seconds = best[begins, first:] + pieces, second[begins, first:] + pieces
            best[end, first:] = top = firsts.max(axis=0)
            at_top = firsts == top
            # The runner-up ends as the best one does or as another one; with two best ones it is as good as they are.
            np.copyto(firsts, seconds, where=at_top)
            several = np.add.reduce(at_top.view(np.int8), axis=0, dtype=np.int8) > 1
            second[end, first:] = np.where(several, top, firsts.max(axis=0))
        at_end = lengths, np.arange(words)
        return best[at_end], second[at_end]

    def _piece_scores(self, surfaces: list[str], lengths: np.ndarray, longest: int) -> np.ndarray:
        """The score of the piece of length n + 1 that ends with character e of word w at [n, e, w]; -inf: no piece."""
        words, depth = len(surfaces), min(self._trie.depth, longest)
        inside = np.arange(longest)[:, None] < lengths
        classes = np.zeros((longest + depth, words), np.int32)  # nothing goes on beyond the end of a word
        classes[:longest].T[inside.T] = self._trie.classes("".join(surfaces))
        classes = classes.ravel()
        scores = np.full((depth, longest, words), -np.inf, np.float32)
        begins = np.flatnonzero(inside)
        nodes = np.zeros(len(begins), np.int32)
        for step, of_length in enumerate(scores):
            ends = begins + step * words
            nodes = self._trie.children(nodes, classes[ends])
            alive = np.flatnonzero(nodes)
            begins, nodes = begins[alive], nodes[alive]
            of_length.ravel()[ends[alive]] = self._scores[nodes]
        # A single character can always stand alone.
        scores[0][inside & np.isinf(scores[0])] = self._unknown
        return scores
