"""The lead of the best segmentation over the second best, against all segmentations and against SentencePiece."""

import random

import numpy as np
import pytest

from metro_jax.data.prepare.vocabulary import train_vocabulary
from metro_jax.text import lattice
from metro_jax.text.lattice import Lattice
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.trie import Trie


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


def test_best_and_lead_are_those_of_all_segmentations(vocabulary):
    processor = vocabulary.processor
    pieces = {processor.id_to_piece(i).replace("▁", " "): processor.get_score(i) for i in range(4, len(processor))}
    unknown = min(pieces.values()) - lattice.UNKNOWN_PENALTY
    generator = random.Random(5)
    surfaces = [" " + "".join(generator.choices("abcdéxç", k=generator.randint(0, 11))) for _ in range(600)]
    best, lead = Lattice(vocabulary).best([*surfaces, ""])
    for surface, first, ahead in zip(surfaces, best, lead, strict=False):
        expected = sorted(scores_of_all_segmentations(surface, pieces, unknown), reverse=True)
        assert first == pytest.approx(expected[0], abs=1e-9)
        assert ahead == pytest.approx(expected[0] - expected[1] if len(expected) > 1 else np.inf, abs=1e-9)
    assert (best[-1], lead[-1]) == (0.0, np.inf)  # nothing has one segmentation


def test_words_do_not_depend_on_each_other(vocabulary, monkeypatch):
    monkeypatch.setattr(lattice, "WORDS", 7)
    generator = random.Random(6)
    surfaces = [" " + "".join(generator.choices("abcdéx", k=generator.randint(0, 40))) for _ in range(100)]
    search = Lattice(vocabulary)
    together = search.best(surfaces)
    alone = [search.best([surface]) for surface in surfaces]
    np.testing.assert_array_equal(together, np.hstack(alone))


@pytest.mark.parametrize("size", ["32k", "64k"])
def test_best_is_the_score_of_what_sentencepiece_answers(vocab_dir, size):
    vocabulary = MetroTokenizer.from_pretrained(vocab_dir / size)._vocabulary
    search, processor = Lattice(vocabulary), vocabulary.processor
    words = [p.lower() for p in ("kettle", "the", "unthinkable", "x86-64", "zzzq", "ééé", "floating-point", "a")]
    best, lead = search.best([surface for surface in search.surfaces(words) if surface])
    expected = [sum(processor.get_score(processor.encode(word))) for word in words]
    np.testing.assert_allclose(best, expected, atol=1e-4)
    assert (lead > 0).all()


def test_trie_knows_its_strings_and_their_beginnings():
    generator = random.Random(7)
    strings = sorted({"".join(generator.choices("ab▁é漢", k=generator.randint(1, 6))) for _ in range(500)})
    trie = Trie(strings)
    beginnings = {string[:end] for string in strings for end in range(1, len(string) + 1)}
    assert trie.nodes == len(beginnings) + 1
    for text in ["".join(generator.choices("ab▁é漢z", k=6)) for _ in range(300)]:
        node, classes = np.zeros(1, np.int32), trie.classes(text)
        for end in range(1, 7):
            node = trie.children(node, classes[end - 1 : end])
            assert bool(node[0]) == (text[:end] in beginnings)
            if text[:end] in strings:
                assert trie.ends[strings.index(text[:end])] == node[0]
            if not node[0]:
                break
