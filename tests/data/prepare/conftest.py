"""Small corpora in the true formats, and ways to prepare them."""

import gzip
import json
import pathlib
import random

import pytest
import zstandard

from metro_jax.data.prepare.corpus import Settings, prepare
from tests.data.fixtures import documents, other_vocabulary_folder, tokenizer, vocabulary_folder

__all__ = ["other_vocabulary_folder", "tokenizer", "vocabulary_folder"]

NAMES = ("train.tfrecord-*", "info.train.json", "manifest.train.json")


@pytest.fixture(scope="session")
def texts() -> list[list[str]]:
    """Documents of sentences, made so that the splitter finds the same ones."""
    draw = random.Random(3)
    return [[f"{line} friend{draw.choice('.?!')}".capitalize() for line in lines] for lines in documents(120, seed=5)]


@pytest.fixture(scope="session")
def formats(tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]]) -> dict[str, pathlib.Path]:
    """The same documents in every format and compression, one file each."""
    folder = tmp_path_factory.mktemp("formats")
    lines = "\n\n".join("\n".join(document) for document in texts) + "\n"
    whole = "".join(" ".join(document) + "\n" for document in texts)
    rows = "".join(json.dumps({"id": i, "text": "\n".join(d)}) + "\n" for i, d in enumerate(texts))
    half = len(lines) // 2
    contents = {
        "lines.txt": lines.encode(),
        "windows.txt": lines.replace("\n", "\r\n").encode(),
        "lines.txt.gz": gzip.compress(lines.encode(), mtime=0),
        "two.gz": gzip.compress(lines[:half].encode(), mtime=0) + gzip.compress(lines[half:].encode(), mtime=0),
        "lines.zst": zstandard.compress(lines[:half].encode()) + zstandard.compress(lines[half:].encode()),
        "whole.txt": whole.encode(),
        "rows.jsonl": rows.encode(),
        "rows.json.gz": gzip.compress(rows.encode(), mtime=0),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


@pytest.fixture
def run(tmp_path: pathlib.Path, vocabulary_folder: pathlib.Path):
    """Prepares files into a folder of this name and returns folder and manifest."""

    def run(*files: pathlib.Path | str, to: str = "out", watch=lambda *_: None, **settings):
        out = tmp_path / to
        settings = {"chunk": 2000, "shards": 3} | settings
        made = Settings(tuple(map(str, files)), str(vocabulary_folder), str(out), **settings)
        return out / "corpus", prepare(made, watch)

    return run


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """The files of a prepared split."""
    return {path.name: path.read_bytes() for name in NAMES for path in sorted(folder.glob(name))}
