"""A trained vocabulary has the published shape, is the same each time, and fits the tokenizer that reads it."""

import pathlib
import subprocess
import sys

import pytest

from metro_jax.data.prepare.vocabulary import FIRST_PIECE, MASK_PIECE, train_vocabulary
from metro_jax.text.tokenizer import MetroTokenizer

LINES = [f"{name} {verb} the {thing} in the {place}." for name in ("Anna", "Ben", "Clara", "Tom")
         for verb in ("saw", "painted", "moved", "described") for thing in ("lamp", "kettle", "guitar", "umbrella")
         for place in ("garden", "kitchen", "library", "museum")]  # fmt: skip
SIZE, SENTINELS = 128, 88


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "vocab"
    assert train_vocabulary(LINES, folder, SIZE, SENTINELS) == SIZE
    return folder


def test_shape_is_the_published_one(folder: pathlib.Path) -> None:
    tokenizer = MetroTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == SIZE
    assert tokenizer.mask_id == SIZE - SENTINELS
    assert [tokenizer.id_to_piece(i) for i in range(SIZE - SENTINELS, SIZE)] == [
        f"<sen{i:03d}>" for i in range(SENTINELS)
    ]
    lines = (folder / "dict.txt").read_text().splitlines()
    assert lines[0] == f"{MASK_PIECE} 1"
    assert len(lines) == SIZE - SENTINELS - FIRST_PIECE


def test_dictionary_ids_equal_sentencepiece_ids(folder: pathlib.Path) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model"))
    tokenizer = MetroTokenizer.from_pretrained(folder)
    for index in range(FIRST_PIECE, processor.get_piece_size()):
        assert tokenizer.id_to_piece(index) == processor.id_to_piece(index)
    assert [processor.id_to_piece(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]


def test_text_goes_there_and_back(folder: pathlib.Path) -> None:
    tokenizer = MetroTokenizer.from_pretrained(folder)
    ids = tokenizer.encode("Anna painted the umbrella")
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids) == "anna painted the umbrella"


def test_same_lines_same_bytes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    train_vocabulary(LINES, tmp_path, SIZE, SENTINELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dict.txt", "sp.model", "tokenizer_config.json"]
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("size", "match"), [(100, "multiple of 128"), (1280, "could not train a vocabulary of 1192")])
def test_sizes_that_cannot_be_are_refused(tmp_path: pathlib.Path, size: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        train_vocabulary(LINES, tmp_path / "none", size, SENTINELS)
    assert not (tmp_path / "none").exists()


def test_without_numba_a_corpus_can_be_read() -> None:
    """Kernels are for encoding; a vocabulary needs none, and no waiting until they are compiled."""
    read = "from metro_jax.data.prepare.vocabulary import sample_lines; print(sample_lines(sys.argv[1:]))"
    command = [sys.executable, "-c", f"import sys; sys.modules['numba'] = None; {read}", __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Kernels are for encoding" in done.stdout
