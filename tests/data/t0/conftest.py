"""Fixtures of this folder: small folders of P3 in both layouts, and a vocabulary."""

import pytest

from tests.data import p3_files
from tests.data.fixtures import tokenizer, vocabulary_folder

__all__ = ["p3_folder", "p3_folders", "tokenizer", "vocabulary_folder"]

LAYOUTS = ("parquet", "tfrecord")


@pytest.fixture(scope="session")
def p3_folders(tmp_path_factory):
    """Layout -> a folder of P3 in it."""
    folders = {}
    for layout in LAYOUTS:
        folders[layout] = tmp_path_factory.mktemp(f"p3_{layout}")
        p3_files.write(folders[layout], layout, examples=12)
    return folders


@pytest.fixture(params=LAYOUTS)
def p3_folder(request, p3_folders):
    """A folder of P3, in each layout in turn."""
    return p3_folders[request.param]
