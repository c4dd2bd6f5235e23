"""Fixtures of this folder."""

from tests.data.fixtures import data_folder, other_vocabulary_folder, prepared, tokenizer, vocabulary_folder

__all__ = ["data_folder", "other_vocabulary_folder", "prepared", "tokenizer", "vocabulary_folder"]
