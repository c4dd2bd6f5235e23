"""METRO's tokenizer behind the interface of seqio, which fixes pad at id 0 (design decision 1)."""

import functools
import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import seqio
import tensorflow as tf
from etils import epath

from metro_jax.data.folder import VOCABULARY, data_dir
from metro_jax.text.tokenizer import MetroTokenizer


@functools.lru_cache(maxsize=8)
def _load(folder: str, modified: int) -> MetroTokenizer:
    del modified  # part of the key only: a vocabulary that was trained again is read again
    if "://" not in folder:
        return MetroTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as local:
        copy_vocabulary(epath.Path(folder), epath.Path(local))
        return MetroTokenizer.from_pretrained(local)


@functools.lru_cache(maxsize=8)
def _fingerprint(folder: str, modified: int) -> str:
    return _load(folder, modified).fingerprint()


def copy_vocabulary(source: epath.Path, target: epath.Path) -> None:
    """Copies sp.model, dict.txt and tokenizer_config.json (those that are there), from or to a bucket as well."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("sp.model", "dict.txt", "tokenizer_config.json"):
        if (source / name).exists():
            (target / name).write_bytes((source / name).read_bytes())


class MetroVocabulary(seqio.Vocabulary):
    """A METRO vocabulary: pad 0, bos 1, eos 2, unk 3, then pieces, then the sentinels.

    Nothing is read until it is needed. Without `folder` the vocabulary is FOLDER/vocab of the data folder
    (`metro_jax.data.folder.data_dir`), looked up anew at each use.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        super().__init__(extra_ids=0)  # the sentinels are part of the vocabulary proper
        self._folder = folder

    @property
    def folder(self) -> epath.Path:
        """The folder with sp.model, dict.txt and tokenizer_config.json."""
        return epath.Path(self._folder) if self._folder is not None else data_dir() / VOCABULARY

    @property
    def tokenizer(self) -> MetroTokenizer:
        """The tokenizer.

        Raises:
          FileNotFoundError: the folder has no vocabulary.
        """
        return _load(*self._key())

    def _key(self) -> tuple[str, int]:
        model = self.folder / "sp.model"
        if not model.exists():
            raise FileNotFoundError(f"{self.folder}: no vocabulary (sp.model) here; train or copy one into this folder")
        return os.fspath(self.folder), int(model.stat().mtime)

    @property
    def bos_id(self) -> int:
        """The id of `<s>`."""
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        """The id of `</s>`."""
        return self.tokenizer.eos_id

    @property
    def unk_id(self) -> int:
        """The id of `<unk>`."""
        return self.tokenizer.unk_id

    @property
    def mask_id(self) -> int:
        """The id of `<sen000>`: mask symbol and first decoder token in pretraining (spec 2.7, 4.2)."""
        return self.tokenizer.mask_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def fingerprint(self) -> str:
        """The hash that prepared records carry."""
        return _fingerprint(*self._key())

    def _encode(self, s: str) -> Sequence[int]:
        return list(self.tokenizer.encode(s))[1:-1]  # seqio wants no specials; the Hub path adds <s> and </s>

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode([int(i) for i in ids])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        """Encodes a string scalar in Python: for inference on text; training reads prepared ids (design decision 6)."""
        encoded = tf.numpy_function(lambda text: self._encode_array(text), [s], tf.int32)
        encoded.set_shape([None])
        return encoded

    def _encode_array(self, text: bytes) -> Any:
        return tf.constant(self._encode(text.decode("utf-8")), tf.int32, shape=None).numpy()

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        rows = tf.reshape(ids, [-1, tf.shape(ids)[-1]])
        texts = tf.numpy_function(
            lambda matrix: [self._decode(row).encode("utf-8") for row in matrix], [rows], tf.string
        )
        return tf.reshape(texts, tf.shape(ids)[:-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MetroVocabulary):
            return False
        return self._folder == other._folder or self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"MetroVocabulary({os.fspath(self._folder) if self._folder is not None else 'data folder'})"
