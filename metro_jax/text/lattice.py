"""The best segmentation of a word by a unigram model, and how far it leads over the second best.

SentencePiece tells the best one alone; asking it for two costs several times as much as the search here.
"""

import math

from metro_jax.text.vocabulary import Vocabulary

BLANK = "▁"
ABSENT = 1.0  # stands for the score of what no piece begins with
UNKNOWN_PENALTY = 10.0  # SentencePiece scores an unknown character this much below the worst piece


class Lattice:
    """The pieces of a unigram model with their scores; read from the model when they are first needed."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Only unigram models have the scores that this needs."""
        self._processor = vocabulary.processor
        self._scores: dict[str, float | None] = {}  # of the pieces; None: the beginning of longer ones only
        self._user_defined: list[str] = []
        self._unknown = 0.0

    def _read(self) -> None:
        processor = self._processor
        indices = list(range(processor.get_piece_size()))
        names = [name.replace(BLANK, " ") for name in processor.id_to_piece(indices)]
        scores: list[float] = processor.get_score(indices)
        excluded = zip(
            processor.is_control(indices), processor.is_unused(indices), processor.is_unknown(indices), strict=True
        )
        pieces = {name: score for name, score, no in zip(names, scores, excluded, strict=True) if not any(no)}
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
        if word.isascii() and word.isprintable() and word == word.lower():  # all built-in rules leave this as it is
            surface = f" {word}"
        else:
            surface = self._processor.normalize(word).replace(BLANK, " ")
        if " " in surface[1:] or any(piece in surface for piece in self._user_defined):
            return None
        return surface

    def best(self, surface: str) -> tuple[list[str], float, float]:
        """The best segmentation, its score, and its lead over the second best (infinite if there is none).

        Characters that are no piece stand alone among the pieces.
        """
        find, unknown, length = self._scores.get, self._unknown, len(surface)
        best, second = [-math.inf] * (length + 1), [-math.inf] * (length + 1)
        begins = [0] * (length + 1)  # where the last piece of the best segmentation of a beginning begins
        best[0] = 0.0
        for start in range(length):
            first, other = best[start], second[start]
            for end in range(start + 1, length + 1):
                score = find(surface[start:end], ABSENT)
                if score is None:
                    if end > start + 1:
                        continue
                    score = unknown  # a single character can always stand alone
                elif score == ABSENT:
                    if end > start + 1:
                        break
                    score = unknown
                total = first + score
                if total > best[end]:
                    runner_up = other + score
                    second[end] = runner_up if runner_up > best[end] else best[end]
                    best[end], begins[end] = total, start
                elif total > second[end]:
                    second[end] = total
        pieces, end = [], length
        while end > 0:
            pieces.append(surface[begins[end] : end])
            end = begins[end]
        return pieces[::-1], best[length], best[length] - second[length]
