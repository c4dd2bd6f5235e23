"""The settings read from an sp.model are those it was trained with."""

import io

import numpy as np
import pytest
import sentencepiece

from metro_jax.text.model_file import ModelSettings, _fields, read_settings
from metro_jax.text.vocabulary import Vocabulary
from metro_jax.text.word_cache import NORMALIZERS, keeps_words_apart

LINES = [f"the {a} and the {b} of koko" for a in ("cat", "dog", "lamp") for b in ("sea", "sun", "kettle")] * 5


def train(**settings) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, minloglevel=2,
        **{"vocab_size": 40, "hard_vocab_limit": False, "bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3} | settings,
    )  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ModelSettings(normalizer="nmt_nfkc")),
        ({"normalization_rule_name": "nmt_nfkc_cf"}, ModelSettings(normalizer="nmt_nfkc_cf")),
        ({"model_type": "bpe"}, ModelSettings(unigram=False, normalizer="nmt_nfkc")),
        ({"add_dummy_prefix": False}, ModelSettings(normalizer="nmt_nfkc", dummy_prefix=False)),
        ({"remove_extra_whitespaces": False}, ModelSettings(normalizer="nmt_nfkc", squeeze_blanks=False)),
        ({"treat_whitespace_as_suffix": True}, ModelSettings(normalizer="nmt_nfkc", blank_as_suffix=True)),
        ({"byte_fallback": True, "vocab_size": 320}, ModelSettings(normalizer="nmt_nfkc", byte_fallback=True)),
    ],
)
def test_settings(settings, expected):
    model = train(**settings)
    assert read_settings(model) == expected
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(4, processor.get_piece_size())]
    dictionary = "".join(f"{piece} 1\n" for piece in pieces).encode()
    assert keeps_words_apart(Vocabulary(model, dictionary, 4, "")) == (expected in ALLOWED)


ALLOWED = [ModelSettings(normalizer="nmt_nfkc"), ModelSettings(normalizer="nmt_nfkc_cf")]


def test_pieces_across_blanks_keep_nothing_apart():
    model = train(split_by_whitespace=False)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(4, processor.get_piece_size())]
    assert any("▁" in piece[1:] for piece in pieces)
    dictionary = "".join(f"{piece} 1\n" for piece in pieces).encode()
    assert not keeps_words_apart(Vocabulary(model, dictionary, 4, ""))


@pytest.mark.parametrize("data", [b"\x0a\xff\xff", b"\x03", b"\x80"])
def test_what_is_no_protocol_buffer(data):
    with pytest.raises(ValueError, match="byte"):
        read_settings(data)


@pytest.mark.parametrize("name", sorted(NORMALIZERS - {"identity"}))
def test_no_rule_of_a_built_in_normaliser_reaches_across_a_blank(name):
    """Reads the rules' double-array trie: no key but the lone blank has one in it."""
    top = dict(_fields(train(normalization_rule_name=name)))
    rules = bytes(dict(_fields(top[3]))[2])
    size = int.from_bytes(rules[:4], "little")
    units = np.frombuffer(rules[4 : 4 + size], np.uint32).astype(np.int64)
    # A node's children lie at its base XOR their label; so a unit tells the base of the node it could be a child of.
    base = np.arange(len(units)) ^ ((units >> 10) << ((units & 512) >> 6))
    label = units & 0x800000FF
    parent_base = np.where((label > 0) & (label < 256), np.arange(len(units)) ^ label, -1)
    level, keys = np.array([0]), 0
    for depth in range(1, 99):
        children = np.flatnonzero(np.isin(parent_base, base[level]))
        if not children.size:
            break
        keys += int(((units[children] >> 8) & 1).sum())
        blanks = children[label[children] == 32]
        assert depth == 1 or not blanks.size, "a key has a blank after its first byte"
        assert not np.isin(parent_base, base[blanks]).any(), "a key begins with a blank and goes on"
        level = children
    assert keys > 1000
