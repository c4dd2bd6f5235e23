"""Normalisation: equal to a plain reading of the specification on random text, and its single rules."""

import json
import random
import sys
import unicodedata

import pytest

from metro_jax.text import normalizer
from metro_jax.text.normalizer import normalize

from . import plain

ALPHABETS = {
    "words": [
        "they",
        "US",
        "ll",
        "LL",
        "re",
        "RE",
        "ve",
        "VE",
        "s",
        "t",
        "T",
        "D",
        "m",
        "Sx",
        "'",
        "' ",
        "''",
        "``",
        "-",
        ".",
    ],
    "punctuation": list("'\"`´‘’“”—–-.,;:!?()[]{}<>«»¿¡。、「」…‹§%&@#*/\\_~^|+=$€£©°"),
    "whitespace": list(
        " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
    ),
    "letters": [
        *"abzABZéßİıΣσςǅあ漢한אע0٣²½𝔸𐐀",
        "e\u0301",
        "\u0308",
        "\U0001f600",
        "👩\u200d🚀",
        "\U00010100",
        "\ud800",
    ],
}


def random_texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    everything = [unit for alphabet in ALPHABETS.values() for unit in alphabet]
    texts = []
    for number in range(count):
        alphabet = [everything, ALPHABETS["words"] + ALPHABETS["punctuation"][:6] + [" "]][number % 2]
        texts.append("".join(draw.choices(alphabet, k=draw.randrange(24))))
        if number % 5 == 0:
            texts.append("".join(chr(draw.randrange(sys.maxunicode + 1)) for _ in range(draw.randrange(12))))
    return texts


@pytest.mark.parametrize("lower", [True, False])
def test_equals_the_plain_reading_on_random_text(lower):
    for text in random_texts(seed=int(lower), count=6000):
        assert normalize(text, lower) == plain.normalize(text, lower), ascii(text)


def test_every_character_is_cut_as_the_plain_reading_says():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if code >= 0x20000 and unicodedata.category(character) in ("Lo", "Cn", "Co", "Mn"):
            continue  # planes of ideographs and private use: seconds for nothing; the next test covers punctuation
        assert normalize(f"{character}a", lower=False) == plain.normalize(f"{character}a", lower=False), ascii(
            character
        )


def test_no_punctuation_is_forgotten():
    everywhere = {chr(code) for code in range(sys.maxunicode + 1) if plain.is_punctuation(chr(code))}
    assert set(normalizer.punctuation()) == everywhere


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\u3000\n", ""),
        ('He said: "Stop!" (twice)...', 'he said : " stop !" ( twice )...'),
        ("state-of-the-art u.s.a.", "state-of-the-art u.s.a ."),
        ("``quoted'' “quoted” ´ ‘s’", '" quoted " " quoted " \' \'s \''),
        ("a—b – c-", "a-b - c -"),
        ("we ' re here ' Re", "we 're here ' re"),
        ("' RE-tired ' LLama", "'re -tired ' llama"),
        ("€5 \U0001f600! ...", "€5 \U0001f600 ! ..."),
        ("İSTANBUL ΟΔΟΣ", "i̇stanbul οδος"),
    ],
)
def test_rules(text, expected):
    assert normalize(text) == expected == plain.normalize(text, lower=True)


def test_case_stays_when_asked():
    assert normalize("US They'LL", lower=False) == "US They'LL"


def test_results_do_not_depend_on_what_was_seen_before(monkeypatch):
    texts = random_texts(seed=9, count=300)
    monkeypatch.setattr(normalizer.TokenCache, "MAX_TOKENS", 7)
    monkeypatch.setattr(normalizer, "token_cache", normalizer.TokenCache())
    small_cache = [normalize(text) for text in texts]
    assert len(normalizer.token_cache) <= 7
    monkeypatch.setattr(normalizer.TokenCache, "MAX_TOKENS", 1 << 16)
    assert [normalize(text) for text in texts] == small_cache == [normalize(text) for text in texts]


def test_long_tokens_are_not_kept(monkeypatch):
    monkeypatch.setattr(normalizer, "token_cache", normalizer.TokenCache())
    assert normalize("(" + "x" * 1000 + ")") == "( " + "x" * 1000 + " )"
    assert not normalizer.token_cache


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["list"]])
def test_only_text_is_taken(wrong):
    with pytest.raises(TypeError, match=r"must be a string, not .*decode bytes first"):
        normalize(wrong)


@pytest.mark.golden
@pytest.mark.parametrize("size", ["32k", "64k"])
def test_reference(golden_dir, size):
    golden = json.loads((golden_dir / f"tokenizer_{size}.json").read_text(encoding="utf-8"))
    for case in golden["cases"]:
        assert normalize(case["text"], golden["lower"]) == case["normalized"], case["text"]
