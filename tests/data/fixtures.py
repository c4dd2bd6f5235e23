"""A small vocabulary, and a data folder prepared with it; for the tests of data and of tasks."""

import pathlib
import random

import pytest
from etils import epath

from metro_jax.data import folder as folder_lib
from metro_jax.data import records
from metro_jax.data.vocabulary import copy_vocabulary
from metro_jax.text.tokenizer import MetroTokenizer

WORDS = ("station helps dog simple bridge teacher friend passage plays positive man bottle blue finds yes no").split()  # noqa: SIM905


def sentence(rng: random.Random, longest: int = 12) -> str:
    """Some words."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest)))


def documents(number: int, seed: int = 0) -> list[list[str]]:
    """Documents of short lines; every fifth has a line that is much too long."""
    rng = random.Random(seed)
    found = []
    for index in range(number):
        lines = [sentence(rng) for _ in range(rng.randint(1, 12))]
        found.append([*lines, sentence(rng, 200) * 2] if index % 5 == 0 else lines)
    return found


@pytest.fixture(scope="session")
def vocabulary_folder(golden_dir: pathlib.Path) -> pathlib.Path:
    """A small vocabulary in Hub format."""
    return golden_dir / "hub_tiny"


@pytest.fixture(scope="session")
def tokenizer(vocabulary_folder: pathlib.Path) -> MetroTokenizer:
    """Its tokenizer."""
    return MetroTokenizer.from_pretrained(vocabulary_folder)


@pytest.fixture(scope="session")
def other_vocabulary_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: MetroTokenizer) -> pathlib.Path:
    """The same pieces with one sentinel less: another vocabulary."""
    folder = tmp_path_factory.mktemp("other_vocabulary")
    tokenizer.save_pretrained(folder)
    fewer = len(tokenizer.sentinel_ids) - 1
    MetroTokenizer.from_pretrained(folder, n_sentinel_tokens=fewer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, vocabulary_folder: pathlib.Path, tokenizer: MetroTokenizer
) -> pathlib.Path:
    """A data folder with documents, two prompted tasks, a ranked task and mixtures."""
    root = tmp_path_factory.mktemp("prepared")
    copy_vocabulary(epath.Path(vocabulary_folder), epath.Path(root / "vocab"))
    rng = random.Random(1)
    records.write_documents(root, "corpus", "train", documents(60), tokenizer, shards=2, progress=False)
    records.write_documents(root, "letters", "train", documents(5, seed=2), tokenizer, progress=False)
    for name, size in (("liked", 40), ("stars", 8)):
        pairs = [(sentence(rng), sentence(rng, 4)) for _ in range(size)]
        records.write_prompted(root, name, "train", pairs, tokenizer, shards=2, progress=False)
    examples = [(sentence(rng), ["yes", "no", "blue"], rng.choice(["yes", "no"])) for _ in range(9)]
    records.write_ranked(root, "liked_score_eval", "validation", examples, tokenizer, shards=2, progress=False)
    folder_lib.write_mixtures(
        root,
        {
            "both": {"tasks": ["liked", "stars"], "cap": 16},
            "own_caps": {"tasks": {"liked": 2, "stars": None}},
            "broken": {"tasks": ["liked", "starz"]},
            "partial": {"tasks": ["liked", "starz"], "allow_missing": True},
        },
    )
    return root


@pytest.fixture
def data_folder(prepared: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The prepared folder, named as the data folder."""
    monkeypatch.setenv("METRO_DATA_DIR", str(prepared))
    return prepared
