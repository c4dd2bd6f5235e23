"""Words kept by the tokenizer: texts joined from them have the ids of SentencePiece on the whole text."""

import dataclasses
import itertools
import json
from pydoc_data.topics import topics

import numpy as np
import pytest

from metro_jax.data.prepare.vocabulary import train_vocabulary
from metro_jax.text import word_cache, word_table
from metro_jax.text.ids import EOS
from metro_jax.text.model_file import ModelSettings
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.word_cache import PackedLines

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


def lines_of(texts: list[str]) -> bytes:
    """Texts as lines; a line feed in one of them is whitespace like any other."""
    return "".join(text.replace("\n", " ") + "\n" for text in texts).encode()


def ids(tokenizer: MetroTokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of training by way of kept words."""
    return rows(tokenizer.training_lines(lines_of(texts)))


def rows(lines: PackedLines) -> list[list[int]]:
    """The ids of each line."""
    bounds = [0, *np.cumsum(lines.sizes).tolist()]
    found = [read(lines.packed[begin:end].tobytes()) for begin, end in itertools.pairwise(bounds)]
    assert bounds[-1] == len(lines.packed)
    assert [len(row) for row in found] == lines.counts.tolist()
    return found


def encoded_whole(tokenizer: MetroTokenizer, texts: list[str]) -> list[str]:
    """The texts that are not joined from kept words."""
    whole: list[str] = []
    words, encode = tokenizer._words, tokenizer._words._encode
    words._encode = lambda rest: whole.extend(rest) or encode(rest)  # type: ignore[func-returns-value]
    tokenizer.training_lines(lines_of(texts))
    words._encode = encode
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
def test_equals_the_plain_reading(trained, lower):
    tokenizer = MetroTokenizer.from_pretrained(trained, lower=lower)
    slow = plain.Tokenizer(trained, lower, tokenizer.config.n_sentinel_tokens)
    texts = [*TORTURE, *encodable(random_texts(seed=7, count=3000)), *texts_with_special_strings(seed=8, count=500)]
    expected = [slow.training_ids(text)[1:] for text in texts]
    for _ in range(2):  # learnt, and known
        assert ids(tokenizer, texts) == expected
    assert [row for text in texts for row in ids(tokenizer, [text])] == expected
    # Many of these texts have characters that the small model does not know.
    assert len(encoded_whole(tokenizer, texts)) < 0.8 * len(texts)


@pytest.mark.golden
@pytest.mark.parametrize("size", ["32k", "64k"])
def test_reference_strings_word_by_word(golden_dir, vocab_dir, size):
    golden = json.loads((golden_dir / f"tokenizer_{size}.json").read_text(encoding="utf-8"))
    tokenizer = MetroTokenizer.from_pretrained(vocab_dir / golden["vocabulary"], lower=golden["lower"])
    texts = [case["text"] for case in golden["cases"]]
    swapped = [[1 - i if i < 2 else i for i in case["training_ids"]] for case in golden["cases"]]
    assert ids(tokenizer, texts) == [row[1:] for row in swapped]
    texts += TORTURE + encodable(random_texts(seed=9, count=2000))
    pairs = [f"{a} {b}" for a, b in zip(texts, reversed(texts), strict=True)]  # words before other words
    for batch in (texts, pairs, [" ".join(texts[i : i + 9]) for i in range(0, len(texts), 9)]):
        assert ids(tokenizer, batch) == tokenizer.training_ids_batch(batch, bos=False)
    assert len(encoded_whole(tokenizer, texts)) < 0.5 * len(texts)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """The manual that Python carries."""
    return [line for text in topics.values() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("size", ["32k", "64k"])
def test_real_prose_with_the_published_vocabularies(vocab_dir, size, sentences):
    tokenizer = MetroTokenizer.from_pretrained(vocab_dir / size)
    assert ids(tokenizer, sentences) == tokenizer.training_ids_batch(sentences, bos=False)
    assert len(encoded_whole(tokenizer, sentences)) < 0.03 * len(sentences)


def test_a_tie_is_never_kept(vocab_dir):
    tokenizer = MetroTokenizer.from_pretrained(vocab_dir / "32k")
    tie = "-" * 33  # pieces of dashes that can change places
    assert encoded_whole(tokenizer, [tie, f"the {tie}", "the kettle"]) == [tie, f"the {tie}"]


def test_a_small_lead_is_good_for_short_lines(trained, monkeypatch):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    search = tokenizer._words._lattice
    segment = search.segment

    def close(*arguments):
        found = segment(*arguments)
        return dataclasses.replace(found, levels=np.full_like(found.levels, 2))

    monkeypatch.setattr(search, "segment", close)
    lines = [" ".join(["sea"] * count) for count in (20, 85, 86)]  # 340 characters at most at level 2
    assert encoded_whole(tokenizer, lines) == lines[2:]


def test_limits_of_lines_keep_the_sums_small():
    # At level n the sums stay below 2^(14 - n): see the comment at MAX_TEXT.
    sums = word_cache.SCORE_PER_CHARACTER * (word_cache.MAX_TEXT + 1)
    assert all(total < 2 ** (14 - level) for level, total in enumerate(sums))
    assert len(sums) == word_table.LEVELS + 1
    assert word_cache.MAX_TEXT[-1] == -1


def test_plain_ascii_is_what_the_rules_leave(trained, vocab_dir):
    # `ascii_words` does without the model's normaliser.
    characters = [chr(code) for code in range(33, 127) if chr(code) == chr(code).lower()]
    for folder in (trained, vocab_dir / "32k"):
        processor = MetroTokenizer.from_pretrained(folder)._vocabulary.processor
        assert [processor.normalize(c) for c in characters] == [f"{word_cache.BLANK}{c}" for c in characters]


def test_lines_of_whitespace(trained):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    text = "the sea\n\n \t\x0b\x0c\x1c\x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\r\nlamp\r\n\n".encode()
    kept, skipped = tokenizer.training_lines(text), tokenizer.training_lines(text, skip_blank=True)
    assert kept.blank.tolist() == skipped.blank.tolist() == [False, True, True, False, True]
    sea, lamp = tokenizer.training_ids_batch(["the sea", "lamp"], bos=False)
    assert rows(kept) == [sea, [EOS], [EOS], lamp, [EOS]]
    assert rows(skipped) == [sea, [], [], lamp, []]
    assert rows(tokenizer.training_lines(b"")) == []
    assert rows(tokenizer.training_lines(b"lamp")) == [lamp]  # the last line feed may be missing


def test_whitespace_is_that_of_python(trained):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    characters = [chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000 and chr(code) != "\n"]
    found = tokenizer.training_lines("\n".join(characters).encode()).blank.tolist()
    assert [c for c, blank in zip(characters, found, strict=True) if blank] == [c for c in characters if c.isspace()]
    between = [f"lamp{c}sea" for c in characters if c.isspace()]
    assert ids(tokenizer, between) == [tokenizer.training_ids("lamp sea", bos=False)] * len(between)


def test_half_characters_are_refused_as_everywhere(trained):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.training_lines("a \ud800".encode("utf-8", "surrogatepass"))


def test_many_blocks_and_growth(trained, monkeypatch):
    for name, value in (("TOKENS", 3000), ("LINES", 40), ("NEW", 2000)):
        monkeypatch.setattr(word_cache, name, value)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    texts = [f"kettle{number} lamp{number}-sea {'x' * (number % 230)} {number}s" for number in range(15000)]
    for batch in (texts, texts[::-1]):
        assert ids(tokenizer, batch) == tokenizer.training_ids_batch(batch, bos=False)
    assert len(tokenizer._words._slots) > 1 << 16  # it has grown


def test_what_is_used_outlives_what_is_not(trained, monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_TOKENS", 50)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    words = tokenizer._words
    for number in range(400):
        texts = [f"sea{number} lamp kettles-and-lamps"]
        assert ids(tokenizer, texts) == tokenizer.training_ids_batch(texts, bos=False)
        assert words.kept <= 50 + 3
    new: list[int] = []
    learn = words._learn
    monkeypatch.setattr(words, "_learn", lambda data, tokens: new.append(len(tokens)) or learn(data, tokens))
    ids(tokenizer, ["lamp", "kettles-and-lamps"])
    assert new == []


def test_long_tokens_fill_the_store(trained, monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_STORE", 3000)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    for number in range(60):
        texts = [f"{number}{'kettle' * 20} lamp"]
        assert ids(tokenizer, texts) == tokenizer.training_ids_batch(texts, bos=False)
        assert tokenizer._words._full <= 3000 + 300


def test_all_are_forgotten_when_all_are_used(trained, monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_TOKENS", 50)
    tokenizer = MetroTokenizer.from_pretrained(trained)
    texts = [f"sea{number}" for number in range(60)]
    for _ in range(4):
        assert ids(tokenizer, texts) == tokenizer.training_ids_batch(texts, bos=False)
        assert tokenizer._words.kept == 60


def test_tokens_of_any_length_are_told_apart(trained):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    # Up to eight bytes a token is its own key; NUL bytes at its end are not what is missing of it.
    texts = ["a" * length for length in range(1, 220)] + ["b" * length + "\0" for length in range(1, 20)]
    texts += ["é" * length for length in range(1, 120)] + ["lamps" + "é" * length for length in range(120)]
    texts += [a + b for a in ("lampsand", "kettlesx") for b in ("", "lampsand", "kettlesx", "kettlesx1")]
    for batch in (texts, texts[::-1], [" ".join(texts[i : i + 3]) for i in range(len(texts))]):
        assert ids(tokenizer, batch) == tokenizer.training_ids_batch(batch, bos=False)


def test_tokens_that_meet_in_the_table(trained):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    slots, store = np.zeros((8, 2), np.uint64), np.empty(0, np.uint8)  # 8 places for 7 tokens
    text = b"lamp sea kettle the lamps kettlesandlamps kettlesandseas sea kettlesandlamps"
    tokens, lines, new = np.empty(99, np.uint64), np.empty((9, 6), np.int64), np.empty((99, 3), np.int64)
    data = np.frombuffer(text, np.uint8)
    _, _, token_count, known = word_table.scan(data, 0, 90, slots, store, tokens, lines, new)
    assert (token_count, known) == (9, 7)
    numbers = (tokens[:9] & np.uint64(0xFFFFFFFF)).tolist()
    assert numbers == [0, 1, 2, 3, 4, 5, 6, 1, 5]
    assert len(set(new[:7, word_table.SLOT].tolist())) == 7
    assert ids(tokenizer, [text.decode()]) == tokenizer.training_ids_batch([text.decode()], bos=False)


def test_learning_in_bulk_is_learning_one_by_one(trained):
    together, alone = (MetroTokenizer.from_pretrained(trained) for _ in range(2))
    tokens = list(dict.fromkeys(token for text in TORTURE for token in text.split()))
    apart = [alone.training_lines(token.encode()).packed.tobytes() for token in tokens]
    assert together.training_lines("\n".join(tokens).encode()).packed.tobytes() == b"".join(apart)
    assert together._words.kept == alone._words.kept


def test_lower_case_is_no_longer_than_the_text():
    # MAX_TEXT counts characters of raw text; the one character that grows is never kept.
    assert [c for c in map(chr, range(0x110000)) if len(c.lower()) > 1] == ["İ"]
    assert word_cache._UNFIT.search("xİ")


def test_models_that_let_words_touch_get_whole_lines(trained):
    tokenizer = MetroTokenizer.from_pretrained(trained)
    vocabulary = tokenizer._vocabulary
    assert word_cache.keeps_words_apart(vocabulary)
    for change in ({"unigram": False}, {"byte_fallback": True}, {"blank_as_suffix": True}, {"normalizer": ""}):
        vocabulary.settings = dataclasses.replace(ModelSettings(normalizer="nmt_nfkc"), **change)
        assert not word_cache.keeps_words_apart(vocabulary)
    texts = ["the sea", "", "lamp"]
    assert ids(tokenizer, texts) == tokenizer.training_ids_batch(texts, bos=False)
    assert encoded_whole(tokenizer, texts) == ["the sea", "lamp"]
    assert tokenizer._words.kept == 0
