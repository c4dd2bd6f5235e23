"""Words kept by the tokenizer: texts joined from them have the ids of SentencePiece on the whole text."""

import dataclasses
import itertools
import json

import pytest

from metro_jax.data.prepare.vocabulary import train_vocabulary
from metro_jax.text import word_cache
from metro_jax.text.model_file import ModelSettings
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.varints import pack_varints

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
    monkeypatch.setattr(word_cache, "LEARNING", 0)


def ids(tokenizer: MetroTokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of training by way of kept words."""
    return [read(tokenizer.training_varints([text])) for text in texts]


def packed(tokenizer: MetroTokenizer, texts: list[str]) -> bytes:
    """The same ids as SentencePiece has them for whole texts."""
    return pack_varints(itertools.chain.from_iterable(tokenizer.training_ids_batch(texts, bos=False)))


def encoded_whole(tokenizer: MetroTokenizer, texts: list[str]) -> list[str]:
    """The texts that are not joined from kept words."""
    whole: list[str] = []
    tokenizer._words.join(texts, lambda rest: whole.extend(rest) or [b""] * len(rest))  # type: ignore[func-returns-value]
    return whole


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


@pytest.mark.parametrize("lower", [True, False])
def test_equals_the_plain_reading(trained, lower, eager):
    tokenizer = MetroTokenizer.from_pretrained(trained, lower=lower)
    slow = plain.Tokenizer(trained, lower, tokenizer.config.n_sentinel_tokens)
    texts = [*TORTURE, *encodable(random_texts(seed=7, count=3000)), *texts_with_special_strings(seed=8, count=500)]
    expected = [slow.training_ids(text)[1:] for text in texts]
    for _ in range(2):  # learnt, and known
        assert ids(tokenizer, texts) == expected
    assert read(tokenizer.training_varints(texts)) == list(itertools.chain.from_iterable(expected))
    # Many of these texts have characters that the small model does not know.
    assert len(encoded_whole(tokenizer, texts)) < 0.8 * len(texts)


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
        assert tokenizer.training_varints(batch) == packed(tokenizer, batch)
    assert len(encoded_whole(tokenizer, texts)) < 0.5 * len(texts)


def test_a_tie_is_never_kept(vocab_dir, eager):
    tokenizer = MetroTokenizer.from_pretrained(vocab_dir / "32k")
    tie = "-" * 33  # pieces of dashes that can change places
    assert encoded_whole(tokenizer, [tie, f"the {tie}", "the kettle"]) == [tie, f"the {tie}"]


def test_plain_ascii_is_what_the_rules_leave(trained, vocab_dir):
    # The shortcut of Lattice.surfaces rests on this.
    characters = [chr(code) for code in range(33, 127) if chr(code) == chr(code).lower()]
    for folder in (trained, vocab_dir / "32k"):
        processor = MetroTokenizer.from_pretrained(folder)._vocabulary.processor
        assert [processor.normalize(c) for c in characters] == [f"{word_cache.BLANK}{c}" for c in characters]


def test_stores_are_bounded(trained, eager, monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_TOKENS", 50)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    texts = [f"kettle{number} lamp" for number in range(400)]
    for text in texts:
        assert tokenizer.training_varints([text]) == packed(tokenizer, [text])
        assert max(len(tokenizer._words._tokens), len(tokenizer._words._older)) <= 52
        assert len(tokenizer._words._words) <= 52


def test_what_is_used_outlives_what_is_not(trained, eager, monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_TOKENS", 50)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    learnt: list[str] = []
    learn = tokenizer._words._learn
    monkeypatch.setattr(tokenizer._words, "_learn", lambda tokens: learnt.extend(tokens) or learn(tokens))
    for number in range(400):
        tokenizer.training_varints([f"sea{number} lamp"])
    assert learnt.count("lamp") == 1
    assert len(learnt) == 401


def test_text_of_new_tokens_is_encoded_as_a_whole(trained):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    names = [f"k{number}e l{number}p" for number in range(50)]
    assert encoded_whole(tokenizer, [*names, *["the sea"] * 5]) == [*names, *["the sea"] * 5]
    assert encoded_whole(tokenizer, ["the sea"]) == []  # they came often enough to pay
    assert tokenizer.training_varints(names) == packed(tokenizer, names)
    assert encoded_whole(tokenizer, ["the the the the the sea sea sea lamp lamp"]) == []  # one in ten is new


def test_learning_in_bulk_is_learning_one_by_one(trained):
    together, alone = (MetroTokenizer.from_pretrained(trained)._words for _ in range(2))
    tokens = list(dict.fromkeys(token for text in TORTURE for token in text.split() if len(token) < 65))
    together._learn(tokens)
    for token in tokens:
        alone._learn([token])
    assert together._tokens == alone._tokens


def test_lower_case_is_no_longer_than_the_text():
    # MAX_TEXT counts characters of raw text; the one character that grows is never kept.
    assert [c for c in map(chr, range(0x110000)) if len(c.lower()) > 1] == ["İ"]
    assert word_cache._UNFIT.search("xİ")


def test_models_that_let_words_touch_get_no_cache(trained):
    vocabulary = MetroTokenizer.from_pretrained(trained)._vocabulary
    assert word_cache.keeps_words_apart(vocabulary)
    for change in ({"unigram": False}, {"byte_fallback": True}, {"blank_as_suffix": True}, {"normalizer": ""}):
        vocabulary.settings = dataclasses.replace(ModelSettings(normalizer="nmt_nfkc"), **change)
        assert not word_cache.keeps_words_apart(vocabulary)
