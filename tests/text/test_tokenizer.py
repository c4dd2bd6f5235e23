"""The tokenizer: properties on the small vocabulary, the values a plain reading gives, and the reference's values."""

import json
import pathlib
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

import metro_jax
from metro_jax.text.config import TokenizerConfig, VocabularyError
from metro_jax.text.ids import SPECIAL_PIECES, swap_ids
from metro_jax.text.tokenizer import MetroTokenizer

from . import plain
from .test_normalizer import random_texts

SURROGATES = range(0xD800, 0xE000)


def encodable(texts: list[str]) -> list[str]:
    return [text for text in texts if not any(ord(character) in SURROGATES for character in text)]


def texts_with_special_strings(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    units = [
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
        "<sen000>",
        "[MASK]",
        "<",
        ">",
        " ",
        "\t",
        "\u200b",
        "kettle",
        "Q",
        "it's",
        ".",
    ]
    return ["".join(draw.choices(units, k=draw.randrange(8))) for _ in range(count)]


# Properties


@pytest.mark.parametrize("lower", [True, False])
def test_equals_the_plain_reading_on_random_text(small_vocabulary, lower):
    tokenizer = MetroTokenizer.from_pretrained(small_vocabulary, lower=lower)
    slow = plain.Tokenizer(small_vocabulary, lower, tokenizer.config.n_sentinel_tokens)
    texts = encodable(random_texts(seed=3, count=1500)) + texts_with_special_strings(seed=4, count=1500)
    for text, ids, training in zip(
        texts, tokenizer.encode_batch(texts), tokenizer.training_ids_batch(texts), strict=True
    ):
        assert ids == slow.encode(text), ascii(text)
        assert training == slow.training_ids(text), ascii(text)
        assert tokenizer.pieces(text) == slow.pieces(text), ascii(text)
        for skip in (True, False):
            for clean_up in (True, False):
                assert tokenizer.decode(ids, skip, clean_up) == slow.decode(ids, skip, clean_up), ascii(text)


def test_values_of_the_small_vocabulary(small, small_vocabulary):
    for case in json.loads((small_vocabulary / "expected.json").read_text(encoding="utf-8")):
        text, ids = case["text"], small.encode(case["text"])
        assert small.pieces(text) == case["pieces"], text
        assert ids == case["ids"], text
        assert small.training_ids(text) == case["training_ids"], text
        assert small.decode(ids) == case["decoded"], text
        assert small.decode(ids, clean_up=False) == case["decoded_no_cleanup"], text
        assert small.decode(ids, skip_special_tokens=False, clean_up=False) == case["decoded_with_special"], text


def test_a_batch_equals_its_texts(small):
    texts = encodable(random_texts(seed=5, count=200)) + texts_with_special_strings(seed=6, count=200)
    assert small.encode_batch(texts) == [small.encode(text) for text in texts]
    assert small.encode_batch(iter(texts), 6, num_threads=2) == [small.encode(text, max_length=6) for text in texts]
    assert small.training_ids_batch(tuple(texts)) == [small.training_ids(text) for text in texts]
    assert small.encode_batch([]) == []
    rows = small.encode_batch(texts)
    assert small.decode_batch(rows) == [small.decode(row) for row in rows]


def test_known_text_comes_back(small):
    text = "the old sailor bought a kettle, and it doesn't work."
    assert small.decode(small.encode(text)) == text
    assert small.encode(small.decode(small.encode(text))) == small.encode(text)


# Numbering


def test_numbering(small):
    assert (small.pad_id, small.bos_id, small.eos_id, small.unk_id) == (0, 1, 2, 3)
    assert tuple(small.id_to_piece(index) for index in range(4)) == SPECIAL_PIECES
    assert [small.piece_to_id(small.id_to_piece(index)) for index in range(small.vocab_size)] == [
        *range(small.vocab_size)
    ]
    assert small.piece_to_id("no such piece") == small.unk_id
    assert small.id_to_piece(4) == "[MASK]"


def test_sentinels_follow_the_dictionary(small, small_vocabulary):
    lines = (small_vocabulary / "dict.txt").read_text(encoding="utf-8").count("\n")
    assert small.sentinel_ids == range(4 + lines, 4 + lines + small.config.n_sentinel_tokens)
    assert small.mask_id == small.sentinel_ids[0] == small.piece_to_id("<sen000>")
    assert small.vocab_size == small.sentinel_ids[-1] + 1
    assert small.id_to_piece(small.vocab_size - 1) == f"<sen{small.config.n_sentinel_tokens - 1:03d}>"


def test_no_sentinels_no_mask(small_vocabulary):
    tokenizer = MetroTokenizer.from_pretrained(small_vocabulary, n_sentinel_tokens=0)
    assert len(tokenizer.sentinel_ids) == 0
    with pytest.raises(VocabularyError, match="n_sentinel_tokens=0"):
        _ = tokenizer.mask_id


# Special tokens, pairs, truncation


def test_wrapping(small):
    a, b = small.encode("the kettle")[1:-1], small.encode("a lamp")[1:-1]
    assert small.encode("the kettle", "a lamp") == [1, *a, 2, 2, *b, 2]
    assert small.encode("", "") == [1, 2, 2, 2]
    assert small.encode_batch(["the kettle"], pairs=["a lamp"]) == [small.encode("the kettle", "a lamp")]


def test_truncation_keeps_the_first_ids_and_both_specials(small):
    whole = small.encode("the cook bought a kettle and a lamp")
    for length in range(2, len(whole) + 3):
        assert small.encode("the cook bought a kettle and a lamp", max_length=length) == (
            whole if length >= len(whole) else [*whole[: length - 1], 2]
        )


def test_of_a_pair_the_longer_text_is_cut_first(small):
    a, b = small.encode("the cook bought a kettle and a lamp")[1:-1], small.encode("a kettle !")[1:-1]
    for first, second in ((a, b), (b, a), (a, a)):
        texts = small.decode([*first]), small.decode([*second])
        first, second = (small.encode(text)[1:-1] for text in texts)
        for length in range(4, len(first) + len(second) + 6):
            one, two = list(first), list(second)
            while len(one) + len(two) + 4 > length:
                (one if len(one) > len(two) else two).pop()
            assert small.encode(*texts, max_length=length) == [1, *one, 2, 2, *two, 2]


def test_choices_have_no_start(small):
    assert small.encode_choice("the kettle") == small.encode("the kettle")[1:]
    assert small.encode_choice("the kettle " * 300) == small.encode("the kettle " * 300, max_length=256)[1:]
    assert small.encode_choice("the kettle", max_length=3) == [*small.encode("the kettle")[1:2], 2]


def test_training_ids_know_no_special_strings(small):
    assert small.encode("</s>") == [1, 2, 2]
    assert small.training_ids("</s>") == small.encode("</ s >")
    assert small.training_ids(" ") == small.training_ids("") == small.encode("") == [1, 2]
    assert small.encode(" ") == [1, 3, 2]
    ids = small.training_ids("the kettle")
    assert small.training_ids("the kettle", bos=False) == ids[1:]
    assert small.training_ids("the kettle", bos=False, eos=False) == ids[1:-1]
    assert small.training_ids_batch(["the kettle"], eos=False) == [ids[:-1]]


# Decoding


def test_decoding_takes_any_row_of_integers(small):
    ids = small.encode("the kettle.")
    assert small.decode(np.array(ids)) == small.decode(tuple(ids)) == small.decode(np.int32(ids)) == "the kettle."  # type: ignore[call-overload]
    assert small.decode(iter(ids)) == "the kettle."  # type: ignore[arg-type]
    assert small.decode([]) == ""


def test_clean_up_follows_the_settings(small, small_vocabulary):
    spaced = MetroTokenizer.from_pretrained(small_vocabulary, clean_up_tokenization_spaces=False)
    ids = small.encode("the kettle.")
    assert small.decode(ids) == spaced.decode(ids, clean_up=True) == "the kettle."
    assert spaced.decode(ids) == small.decode(ids, clean_up=False) == "the kettle ."


def test_ids_outside_the_vocabulary(small):
    for wrong in (-1, small.vocab_size, -100):
        with pytest.raises(
            ValueError, match=rf"token id {wrong} is outside the vocabulary, 0 to {small.vocab_size - 1}"
        ):
            small.decode([5, wrong])
        with pytest.raises(ValueError, match="outside"):
            small.id_to_piece(wrong)
    with pytest.raises(ValueError, match="replace ignored labels by the padding id 0"):
        small.decode([-100])


@pytest.mark.parametrize(
    "wrong", ["text", 5, None, [1.5], [100.0], np.array([7.0]), [[1, 2]], [None], np.zeros((2, 2), int)]
)
def test_what_is_no_row_of_ids(small, wrong):
    with pytest.raises(TypeError, match="not a row of token ids"):
        small.decode(wrong)


# Bad input


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["list"]])
def test_only_text_is_encoded(small, wrong):
    for call in (small.encode, small.training_ids, small.encode_choice):
        with pytest.raises(TypeError, match=r"text 0 of 1 is .* of type .*; pass strings"):
            call(wrong)
    with pytest.raises(TypeError, match="text 1 of 2"):
        small.encode_batch(["the", wrong])


@pytest.mark.parametrize("wrong", ["one text", b"bytes"])
def test_one_text_is_not_a_batch(small, wrong):
    with pytest.raises(TypeError, match="is one text; pass a list of texts"):
        small.encode_batch(wrong)


def test_lengths_that_hold_nothing(small):
    for length, pair in ((1, None), (0, None), (-5, None), (3, "b")):
        with pytest.raises(
            ValueError, match=rf"max_length={length} does not hold the {4 if pair else 2} special tokens"
        ):
            small.encode("a", pair, max_length=length)


def test_pairs_must_match(small):
    with pytest.raises(ValueError, match="2 texts but 1 pairs"):
        small.encode_batch(["a", "b"], pairs=["c"])


def test_half_a_character(small):
    with pytest.raises(ValueError, match=r"text 1 of 2 has the lone surrogate '\\ud800'.*errors='replace'"):
        small.encode_batch(["the", "a\ud800"])
    with pytest.raises(ValueError, match="lone surrogate"):
        small.pieces("\ud800 </s>")


# Files and copies


def test_write_then_read_is_equal(small, small_vocabulary, tmp_path):
    small.save_pretrained(tmp_path / "new" / "folder")
    written = MetroTokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert written.config == small.config
    assert written.fingerprint() == small.fingerprint()
    for name in ("sp.model", "dict.txt"):
        assert (tmp_path / "new" / "folder" / name).read_bytes() == (small_vocabulary / name).read_bytes()
    assert sorted(entry.name for entry in (tmp_path / "new" / "folder").iterdir()) == [
        "dict.txt",
        "sp.model",
        "special_tokens_map.json",
        "tokenizer_config.json",
    ]
    written.save_pretrained(tmp_path / "new" / "folder")  # over itself


def test_a_file_is_not_a_folder_to_write_to(small, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError, match="is a file, not a folder"):
        small.save_pretrained(tmp_path / "taken")


def test_a_folder_without_settings_gets_the_defaults(small_vocabulary, tmp_path):
    for name in ("sp.model", "dict.txt"):
        (tmp_path / name).write_bytes((small_vocabulary / name).read_bytes())
    assert MetroTokenizer.from_pretrained(str(tmp_path)).config == TokenizerConfig()


def test_the_fingerprint_changes_with_the_ids_only(small, small_vocabulary):
    def changed(**settings):
        return MetroTokenizer.from_pretrained(small_vocabulary, **settings).fingerprint() != small.fingerprint()

    assert changed(lower=False)
    assert changed(n_sentinel_tokens=small.config.n_sentinel_tokens + 1)
    assert not changed(clean_up_tokenization_spaces=False)
    assert not changed()


def test_copies_for_other_processes(small):
    copy = pickle.loads(pickle.dumps(small))
    assert copy.fingerprint() == small.fingerprint()
    assert copy.config == small.config
    assert copy.encode("The kettle <sen000> </s>") == small.encode("The kettle <sen000> </s>")


def test_public_name_and_repr(small):
    assert metro_jax.MetroTokenizer is MetroTokenizer
    assert repr(small).startswith(f"MetroTokenizer(vocab_size={small.vocab_size}, ")


def test_importing_is_light():
    heavy = ["jax", "flax", "tensorflow", "torch", "transformers", "seqio", "numba"]
    code = f"import sys, metro_jax.text.tokenizer; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_only_preparing_text_needs_numba(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in [name for name in sys.modules if name.startswith("metro_jax.text.")]:
        if name.endswith((".jit", ".lattice", ".ascii_words", ".word_table", ".word_cache")):
            monkeypatch.delitem(sys.modules, name)
    tokenizer = pickle.loads(pickle.dumps(small))
    assert tokenizer.encode("The kettle") == small.encode("The kettle")
    assert tokenizer.training_ids("The kettle") == small.training_ids("The kettle")
    with pytest.raises(ImportError, match=r"pip install 'metro_jax\[data\]'"):
        tokenizer.training_lines(b"The kettle")


# The reference


@pytest.mark.golden
@pytest.mark.parametrize("size", ["32k", "64k"])
def test_reference_strings(golden_dir, vocab_dir, size):
    golden = json.loads((golden_dir / f"tokenizer_{size}.json").read_text(encoding="utf-8"))
    tokenizer = MetroTokenizer.from_pretrained(
        vocab_dir / golden["vocabulary"], lower=golden["lower"], n_sentinel_tokens=golden["n_sentinel_tokens"]
    )
    assert tokenizer.vocab_size == golden["vocab_size"]
    rows = tokenizer.encode_batch(case["text"] for case in golden["cases"])
    for case, ids in zip(golden["cases"], rows, strict=True):
        text = case["text"]
        assert swap_ids(ids) == case["ids"], text  # of a version_dependent case, those of Transformers 4.17 (spec 9.4)
        assert tokenizer.pieces(text) == case["pieces"], text
        assert swap_ids(tokenizer.training_ids(text)) == case["training_ids"], text
        assert tokenizer.decode(ids) == case["decoded"], text
        assert tokenizer.decode(ids, clean_up=False) == case["decoded_no_cleanup"], text
        assert tokenizer.decode(ids, skip_special_tokens=False, clean_up=False) == case["decoded_with_special"], text
        cut = case.get("ids_truncated_512", case["ids"])
        assert swap_ids(tokenizer.encode(text, max_length=512)) == cut, text


@pytest.mark.golden
def test_reference_prompts_and_choices(golden_dir):
    golden = json.loads((golden_dir / "rank_eval.json").read_text(encoding="utf-8"))
    tokenizer = MetroTokenizer.from_pretrained(golden_dir / "hub_tiny")
    for group in golden["groups"]:
        for example in group["examples"]:
            ids = tokenizer.encode(example["prompt"], max_length=golden["max_length"])
            assert swap_ids(ids) == example["input_ids"], example["prompt"]
            labels = [tokenizer.encode_choice(choice, golden["target_max_length"]) for choice in example["choices"]]
            assert swap_ids(labels) == example["choice_label_ids"], example["choices"]


@pytest.mark.golden
def test_reference_folder_is_written_as_it_was(golden_dir, tmp_path):
    MetroTokenizer.from_pretrained(golden_dir / "hub_tiny").save_pretrained(tmp_path)
    for name in ("sp.model", "dict.txt"):
        assert (tmp_path / name).read_bytes() == pathlib.Path(golden_dir, "hub_tiny", name).read_bytes()
    config = json.loads((golden_dir / "hub_tiny" / "config.json").read_text(encoding="utf-8"))
    assert MetroTokenizer.from_pretrained(tmp_path).vocab_size == config["vocab_size"]
