"""Words kept by the tokenizer: texts joined from them have the ids of SentencePiece on the whole text."""

import dataclasses
import json

import pytest

from metro_jax.data.prepare.vocabulary import train_vocabulary
from metro_jax.text import word_cache
from metro_jax.text.model_file import ModelSettings
from metro_jax.text.tokenizer import MetroTokenizer

from . import plain
from .test_normalizer import random_texts
from .test_tokenizer import encodable, texts_with_special_strings

TORTURE = [
    "dogs' s",
    "dogs’ LL be",
    "the dogs' t_ail",
    "' s",
    "'' s ' m",
    "rock 'n' roll' d",
    "it's' re-do",
    "a' \u2028ve x",
    "▁",
    "a▁b ▁ c",
    "x\u200by z",
    "\u200b",
    "a \u200b b",
    "¨ a¨ ¨a",
    "ΑΣ ΑΣ. Σ",
    "İstanbul ǅ ß ﬁ ﬃx",
    "e\u0301 e \u0301x",
    "\u0308a \u0308",
    "½ ² ① ㎏",
    "----- ----- ---",
    "aaaa aaaaaaa aa",
    "!!!!!! ?!?!?!",
    "[MASK] x[MASK]y",
    "<s> </s> <pad>",
    "한국 あ漢 א ع",
    "👩\u200d🚀 😀😀 😀",
    "\ufeffthe kettle",
    "lamp\xa0lamp\x85lamp",
    "“the” ‘kettle’ — lamp–lamp",
    "a" * 200,
    "word " * 900,
    "x' ll " * 3,
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A vocabulary with SentencePiece's built-in rules (that of the other tests has rules of its own)."""
    lines = [f"{a} {b} the {c}, {d}'s {c}." for a in ("it's", "we", "dogs'") for b in ("saw", "took", "re-do")
             for c in ("kettle", "lamp", "sea") for d in ("one", "two", "a ß é", "x-y (z)")]  # fmt: skip
    folder = tmp_path_factory.mktemp("trained")
    train_vocabulary(lines, folder, 128, 80)
    return folder


@pytest.fixture
def eager(monkeypatch):
    """Every token is kept when it is first seen, so that everything possible comes from kept words."""
    monkeypatch.setattr(word_cache, "COST", 0)


def ids(tokenizer: MetroTokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of training by way of kept words."""
    return [read(row) for row in tokenizer.training_varints_batch(texts)]


def read(packed: bytes) -> list[int]:
    """The numbers that a protocol buffer has as these bytes."""
    numbers, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    return numbers


def answered(tokenizer: MetroTokenizer, texts: list[str]) -> float:
    """The share of texts that are joined from kept words."""
    return sum(row is not None for row in tokenizer._words.find(texts)) / len(texts)


@pytest.mark.parametrize("lower", [True, False])
def test_equals_the_plain_reading(trained, lower, eager):
    tokenizer = MetroTokenizer.from_pretrained(trained, lower=lower)
    slow = plain.Tokenizer(trained, lower, tokenizer.config.n_sentinel_tokens)
    texts = [*TORTURE, *encodable(random_texts(seed=7, count=3000)), *texts_with_special_strings(seed=8, count=500)]
    expected = [slow.training_ids(text)[1:] for text in texts]
    for _ in range(2):  # learnt, and known
        assert ids(tokenizer, texts) == expected
    assert answered(tokenizer, texts) > 0.3  # many of these texts have characters that the small model does not know


@pytest.mark.golden
@pytest.mark.parametrize("size", ["32k", "64k"])
def test_reference_strings_word_by_word(golden_dir, vocab_dir, size, eager):
    golden = json.loads((golden_dir / f"tokenizer_{size}.json").read_text(encoding="utf-8"))
    tokenizer = MetroTokenizer.from_pretrained(vocab_dir / golden["vocabulary"], lower=golden["lower"])
    texts = [case["text"] for case in golden["cases"]]
    swapped = [[1 - i if i < 2 else i for i in case["training_ids"]] for case in golden["cases"]]
    assert ids(tokenizer, texts) == [row[1:] for row in swapped]
    texts += TORTURE + encodable(random_texts(seed=9, count=2000))
    pairs = [f"{a} {b}" for a, b in zip(texts, reversed(texts), strict=True)]  # words before other words
    for batch in (texts, pairs, [" ".join(texts[i : i + 9]) for i in range(0, len(texts), 9)]):
        assert ids(tokenizer, batch) == tokenizer.training_ids_batch(batch, bos=False)
    assert answered(tokenizer, texts) > 0.5


def test_a_tie_is_never_kept(vocab_dir, eager):
    tokenizer = MetroTokenizer.from_pretrained(vocab_dir / "32k")
    tie = "-" * 33  # pieces of dashes that can change places
    assert tokenizer._words.find([tie, f"the {tie}"]) == [None, None]
    assert tokenizer._words.find(["the kettle"]) != [None]


def test_plain_ascii_is_what_the_rules_leave(trained, vocab_dir):
    # The shortcuts of Lattice.surface and of WordCache rest on this.
    characters = [chr(code) for code in range(33, 127) if chr(code) == chr(code).lower()]
    for folder in (trained, vocab_dir / "32k"):
        processor = MetroTokenizer.from_pretrained(folder)._vocabulary.processor
        assert [processor.normalize(c) for c in characters] == [f"{word_cache.BLANK}{c}" for c in characters]


def test_stores_are_bounded(trained, eager, monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_TOKENS", 50)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    texts = [f"kettle{number} lamp" for number in range(400)]
    assert ids(tokenizer, texts) == tokenizer.training_ids_batch(texts, bos=False)
    assert len(tokenizer._words._tokens) <= 50
    assert len(tokenizer._words._words) <= 100


def test_learning_is_paid_for(trained, monkeypatch):
    monkeypatch.setattr(word_cache, "FIRST_TOKENS", 2)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    assert None not in tokenizer._words.find(["the kettle"])
    assert tokenizer._words.find(["lamp sea"]) == [None]  # nothing is left to learn with
    tokenizer._words.find(["the kettle"] * word_cache.COST * 2)
    assert None not in tokenizer._words.find(["lamp sea"])


def test_models_that_let_words_touch_get_no_cache(trained):
    vocabulary = MetroTokenizer.from_pretrained(trained)._vocabulary
    assert word_cache.keeps_words_apart(vocabulary)
    for change in ({"unigram": False}, {"byte_fallback": True}, {"blank_as_suffix": True}, {"normalizer": ""}):
        vocabulary.settings = dataclasses.replace(ModelSettings(normalizer="nmt_nfkc"), **change)
        assert not word_cache.keeps_words_apart(vocabulary)
