"""Segmentations and their leads, against all segmentations and against SentencePiece."""

import itertools
import random
import types

import numpy as np
import pytest

from metro_jax.data.prepare.vocabulary import train_vocabulary
from metro_jax.text import lattice
from metro_jax.text.ids import UNK
from metro_jax.text.lattice import Lattice
from metro_jax.text.tokenizer import MetroTokenizer

from .test_word_cache import read


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    generator = random.Random(3)
    words = ["".join(generator.choices("abcdé", k=generator.randint(1, 7))) for _ in range(300)]
    folder = tmp_path_factory.mktemp("lattice")
    train_vocabulary([" ".join(generator.choices(words, k=9)) for _ in range(400)], folder, 256, 128)
    return MetroTokenizer.from_pretrained(folder)._vocabulary


def scores_of_all_segmentations(surface: str, scores: dict[str, float], unknown: float) -> list[float]:
    """Every way to cut a word into pieces; single characters that are none stand alone."""
    if not surface:
        return [0.0]
    found = []
    for end in range(1, len(surface) + 1):
        score = scores.get(surface[:end], unknown if end == 1 else None)
        if score is not None:
            found += [score + rest for rest in scores_of_all_segmentations(surface[end:], scores, unknown)]
    return found


def segment(vocabulary, surfaces: list[str], slack: float, levels: int = 1, lowest: float = -1e9) -> lattice.Segments:
    """The segments of strings of words."""
    encoded = [surface.encode() for surface in surfaces]
    bounds = np.cumsum([0, *map(len, encoded)])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    return Lattice(vocabulary, UNK).segment(data, bounds, np.full(len(surfaces), lowest), slack, levels)


def rows(segments: lattice.Segments) -> list[list[int]]:
    """The ids of each string."""
    bounds = [0, *segments.ends.tolist()]
    return [read(segments.packed[begin:end].tobytes()) for begin, end in itertools.pairwise(bounds)]


def test_leads_are_those_of_all_segmentations(vocabulary):
    processor = vocabulary.processor
    pieces = {processor.id_to_piece(i).replace("▁", " "): processor.get_score(i) for i in range(4, len(processor))}
    unknown = min(pieces.values()) - lattice.UNKNOWN_PENALTY
    generator = random.Random(5)
    surfaces = [" " + "".join(generator.choices("abcdéxç", k=generator.randint(0, 11))) for _ in range(600)]
    leads = []
    for surface in surfaces:
        best = sorted(scores_of_all_segmentations(surface, pieces, unknown), reverse=True)
        leads.append((best[0] - best[1] if len(best) > 1 else np.inf) / len(surface))
    for slack in (0.0, 0.01, 0.1, 0.5, 1.0):
        expected = [0 if lead > slack else 1 if lead > slack / 2 else 2 if lead > slack / 4 else 3 for lead in leads]
        found = segment(vocabulary, surfaces, slack, levels=3)
        assert found.levels.tolist() == expected
        assert all(count == 0 for count, level in zip(found.counts, expected, strict=True) if level == 3)


def test_lowest_is_the_sum_of_the_scores(vocabulary):
    processor = vocabulary.processor
    words = ["abc", "dé", "aabb"]
    score = sum(processor.get_score(token_id) for word in words for token_id in processor.encode(word))
    surface = "".join(f" {word}" for word in words)
    assert segment(vocabulary, [surface], 0.0, lowest=score - 1e-3).levels.tolist() == [0]
    assert segment(vocabulary, [surface], 0.0, lowest=score + 1e-3).levels.tolist() == [1]


def test_ids_are_those_of_sentencepiece(vocabulary):
    generator = random.Random(6)
    surfaces = [
        "".join(" " + "".join(generator.choices("abcdéxç漢", k=generator.randint(1, 40))) for _ in range(count % 4))
        for count in range(400)
    ]
    found = segment(vocabulary, surfaces, 2.0**-14)
    expected = vocabulary.processor.encode([surface[1:] for surface in surfaces])
    if vocabulary.renumber is not None:
        expected = [[vocabulary.renumber[token_id] for token_id in row] for row in expected]
    assert found.levels.mean() < 0.1
    for row, level, theirs in zip(rows(found), found.levels, expected, strict=True):
        assert row == ([] if level else theirs)


@pytest.mark.parametrize("size", ["32k", "64k"])
def test_ids_are_those_of_sentencepiece_with_the_published_vocabularies(vocab_dir, size):
    vocabulary = MetroTokenizer.from_pretrained(vocab_dir / size)._vocabulary
    words = ["kettle", "the", "unthinkable", "x86-64", "zzzq", "ééé", "floating-point", "a", "漢字"]
    found = segment(vocabulary, [f" {word}" for word in words], 2.0**-10)
    assert (found.levels == 0).all()
    assert rows(found) == vocabulary.processor.encode(words)


def test_trie_leads_to_every_name_and_to_nothing_else():
    generator = random.Random(7)
    names = sorted({bytes(generator.choices(b"ab\xc3\xff\0 ", k=generator.randint(1, 6))) for _ in range(2000)})
    bounds = np.cumsum([0, *map(len, names)])
    trie = lattice._build(np.frombuffer(b"".join(names), np.uint8), bounds, np.arange(len(names), dtype=np.int32))
    known = {name: value for value, name in enumerate(names)}
    beginnings = {name[:end] for name in names for end in range(1, len(name) + 1)}
    for text in [bytes(generator.choices(b"ab\xc3\xff\0 z", k=7)) for _ in range(3000)]:
        node = 0
        for end in range(1, 8):
            base = trie[node, lattice._BASE]
            child = base + text[end - 1]
            there = base >= 0 and trie[child, lattice._PARENT] == node
            assert there == (text[:end] in beginnings)
            if not there:
                break
            node = child
            assert trie[node, lattice._PIECE] == known.get(text[:end], lattice.NO_PIECE)


def test_unknown_text_without_an_id_gets_none(vocabulary):
    data = np.frombuffer(b" ab xyz", np.uint8)
    for unknown, levels in ((UNK, [0, 0]), (-1, [0, 1])):
        found = Lattice(vocabulary, unknown).segment(data, np.array([0, 3, 7]), np.full(2, -1e9), 2.0**-20, 1)
        assert found.levels.tolist() == levels


def test_words_with_user_defined_pieces_get_no_ids(vocabulary):
    processor = vocabulary.processor
    piece = next(i for i in range(4, len(processor)) if processor.id_to_piece(i) == "b")

    class WithUserDefined:
        """The same model, but for one piece of score 0."""

        def __getattr__(self, attribute):
            return getattr(processor, attribute)

        def get_score(self, indices):
            return [0.0 if index == piece else processor.get_score(index) for index in indices]

    other = types.SimpleNamespace(processor=WithUserDefined(), renumber=vocabulary.renumber)
    assert (segment(other, [" abc", " b", " ac b"], 2.0**-10, levels=5).levels == 5).all()
    assert (segment(other, [" ac", " dd"], 2.0**-10, levels=5).levels < 5).all()
