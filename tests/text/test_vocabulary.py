"""Vocabulary files: every kind of bad file is named with the reason and the next step; numbering of unusual models."""

import io
import os

import pytest
import sentencepiece

from metro_jax.text.config import VocabularyError
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.vocabulary import parse_dictionary, write_file

from . import plain

TEXT = 'The cook bought a kettle: "it doesn\'t work", number 12 \U0001f600.'


@pytest.fixture
def folder(tmp_path, small_vocabulary):
    """A copy of the small vocabulary to damage."""
    for name in ("sp.model", "dict.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((small_vocabulary / name).read_bytes())
    return tmp_path


def lines_of(folder):
    return (folder / "dict.txt").read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.mark.parametrize("name", ["sp.model", "dict.txt"])
def test_a_missing_file_is_named_with_what_is_there(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} does not exist; .*holds.*tokenizer_config.json"):
        MetroTokenizer.from_pretrained(folder)


def test_a_missing_folder_lists_similar_names(tmp_path):
    (tmp_path / "metro_t0_base").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder .*did you mean metro_t0_base"):
        MetroTokenizer.from_pretrained(tmp_path / "metro_t0_bas")
    with pytest.raises(FileNotFoundError, match="this one holds nothing"):
        MetroTokenizer.from_pretrained(tmp_path / "metro_t0_base")
    with pytest.raises(FileNotFoundError, match="no folder"):
        MetroTokenizer.from_pretrained(tmp_path / "nowhere" / "at all")


def test_a_file_in_place_of_the_folder(folder):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        MetroTokenizer.from_pretrained(folder / "dict.txt")


def test_a_folder_in_place_of_a_file(folder):
    (folder / "sp.model").unlink()
    (folder / "sp.model").mkdir()
    with pytest.raises(VocabularyError, match=r"sp.model cannot be read: .*; make it a readable file"):
        MetroTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "zeros", "lfs"])
def test_what_is_not_a_sentencepiece_model(folder, damage):
    whole = (folder / "sp.model").read_bytes()
    data = {
        "empty": b"",
        "text": b"this is no model\n",
        "half": whole[: len(whole) // 2],
        "zeros": bytes(1000),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }[damage]
    (folder / "sp.model").write_bytes(data)
    reason = "Git LFS pointer" if damage == "lfs" else "same checkpoint"
    with pytest.raises(
        VocabularyError, match=rf"sp.model \({len(data)} bytes\) is not a SentencePiece model.*{reason}"
    ):
        MetroTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda lines: lines[:-3], r"does not fit .*sp.model: 3 of the model's \d+ pieces are missing"),
        (
            lambda lines: [*lines[:5], "zebra 1\n", *lines[6:]],
            "1 of its .* unknown to the model: 'zebra'; 1 of the model's",
        ),
        (lambda lines: [*lines, "zebra 1\n"], "unknown to the model: 'zebra'"),
        (lambda lines: [*lines, "zebra\n"], r"dict.txt, line \d+: 'zebra' is not a piece, a blank and a count"),
        (lambda lines: [*lines, "zebra one\n"], "'zebra one' is not a piece, a blank and a count"),
        (lambda lines: [*lines[:2], "\n", *lines[2:]], "line 3: '' is not a piece"),
        (lambda lines: [*lines, " 7\n"], "' 7' is not a piece"),
        (lambda lines: [*lines, lines[4]], r"line \d+: piece .* was already on line 5"),
        (lambda lines: ["<pad> 1\n", *lines], "line 1: piece '<pad>' was already special token 0"),
        (lambda lines: [*lines, "<sen001> 1\n"], r"names of sentinels \('<sen001>'\)"),
        (lambda lines: [], "dict.txt is empty"),
    ],
)
def test_a_dictionary_that_cannot_be_used(folder, damage, reason):
    (folder / "dict.txt").write_text("".join(damage(lines_of(folder))), encoding="utf-8")
    with pytest.raises(VocabularyError, match=reason) as error:
        MetroTokenizer.from_pretrained(folder)
    assert str(folder / "dict.txt") in str(error.value)
    assert "; " in str(error.value)


def test_a_dictionary_that_is_not_text(folder):
    (folder / "dict.txt").write_bytes(b"\xff\xfe\x00 1\n")
    with pytest.raises(VocabularyError, match=r"dict.txt is not UTF-8 text"):
        MetroTokenizer.from_pretrained(folder)


def test_broken_settings_are_named(folder):
    (folder / "tokenizer_config.json").write_text('{"lower": tru', encoding="utf-8")
    with pytest.raises(VocabularyError, match=r"tokenizer_config.json is not JSON"):
        MetroTokenizer.from_pretrained(folder)


def test_lines_end_at_line_feeds_and_carriage_returns_only():
    data = "\x85 1\r\n\u2028 2\na b 3  \n▁ 4".encode()
    assert parse_dictionary(data, "dict.txt") == ["\x85", "\u2028", "a b", "▁"]


def test_a_dictionary_in_another_order_gives_its_own_ids(folder, small):
    lines = lines_of(folder)
    (folder / "dict.txt").write_text("".join(reversed(lines)), encoding="utf-8")
    other = MetroTokenizer.from_pretrained(folder)
    slow = plain.Tokenizer(folder, lower=True, n_sentinel_tokens=small.config.n_sentinel_tokens)
    assert other.encode(TEXT) == slow.encode(TEXT) != small.encode(TEXT)
    assert other.training_ids(TEXT) == slow.training_ids(TEXT)
    assert other.pieces(TEXT) == small.pieces(TEXT)
    assert other.decode(other.encode(TEXT)) == small.decode(small.encode(TEXT))
    assert other.fingerprint() != small.fingerprint()


SPECIALS_IN_OTHER_PLACES = {
    "defaults": {},  # unknown 0, bos 1, eos 2, no padding: every id is one off
    "unknown first": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3},  # only the unknown id is another
    "unknown last": {"unk_id": 3, "bos_id": 1, "eos_id": 2, "pad_id": 0},
}


@pytest.mark.parametrize("specials", SPECIALS_IN_OTHER_PLACES)
@pytest.mark.parametrize("words", ["the cook bought a kettle", "koko kook ok"])
def test_a_model_with_other_special_ids(tmp_path, specials, words):
    """The second vocabulary has none of the characters of `<s>` and `<sen000>`, which then can come back as unknown."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words] * 20),
        model_writer=model,
        vocab_size=100,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **SPECIALS_IN_OTHER_PLACES[specials],
    )
    (tmp_path / "sp.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    indices = [i for i in range(processor.get_piece_size()) if not processor.is_control(i) and i != processor.unk_id()]
    pieces = [processor.id_to_piece(index) for index in indices]
    (tmp_path / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")
    tokenizer = MetroTokenizer.from_pretrained(tmp_path, n_sentinel_tokens=2)
    slow = plain.Tokenizer(tmp_path, lower=True, n_sentinel_tokens=2)
    for text in (TEXT, "words", "xyzzy", " ", "<s> the </s>", "o<s>k", "k<sen001>o", "k<pad>k", "ok<sen001>", "z<unk>"):
        assert tokenizer.encode(text) == slow.encode(text)
        assert tokenizer.training_ids(text) == slow.training_ids(text)
    assert tokenizer.piece_to_id("<sen000>") == tokenizer.mask_id == 4 + len(pieces)
    if words.startswith("koko"):
        assert tokenizer.sentinel_ids[1] in tokenizer.encode("k<sen001>o")
        assert tokenizer.bos_id in tokenizer.training_ids("o<s>k")[1:]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "dict.txt"
    target.write_bytes(b"old")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["dict.txt"]
