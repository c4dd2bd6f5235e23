"""Pretraining tasks over prepared documents: METRO's masked blocks and the T5 baseline's span corruption (spec 4).

    MIXTURE_OR_TASK_MODULE = "metro_jax.tasks.pretraining"
    MIXTURE_OR_TASK_NAME = "metro_pretrain"                      # or "t5_pretrain"
    TASK_FEATURE_LENGTHS = {"inputs": 512, "targets": 512}

Both read the documents in FOLDER/corpus of the data folder (`metro_jax.data.records.write_documents`) with the
vocabulary in FOLDER/vocab; nothing is read before a data set is built.
"""

import functools
import os

import seqio
import tensorflow as tf

from metro_jax.data import preprocessors, span_corruption
from metro_jax.data.registry import add_task
from metro_jax.data.sources import PreparedSource
from metro_jax.data.vocabulary import MetroVocabulary

CORPUS = "corpus"


def register_metro_pretrain(
    name: str,
    corpus: str = CORPUS,
    folder: str | os.PathLike[str] | None = None,
    rate: float = preprocessors.MASK_RATE,
    keep: float = preprocessors.KEEP_RATE,
    randomise: float = preprocessors.RANDOM_RATE,
) -> seqio.Task:
    """Registers METRO pretraining over FOLDER/corpus: features `inputs` (masked), `targets`, `generator_targets`.

    For `MetroPretrainingFeatureConverter`. `folder` pins the data folder; by default `data_dir()` is asked at each use.
    """
    mask = functools.partial(preprocessors.mask_tokens, rate=rate, keep=keep, randomise=randomise)
    features = ("inputs", "targets", "generator_targets")
    return _register(name, corpus, folder, features, [preprocessors.blocks, mask])


def register_t5_pretrain(
    name: str,
    corpus: str = CORPUS,
    folder: str | os.PathLike[str] | None = None,
    rate: float = preprocessors.MASK_RATE,
    empty: float = span_corruption.EMPTY_RATE,
    longest: int = span_corruption.LONGEST_SPAN,
) -> seqio.Task:
    """Registers span corruption over FOLDER/corpus: features `inputs` and `targets`; blocks have the length of
    `inputs`.

    For `SpanCorruptionFeatureConverter`.
    """
    build = functools.partial(preprocessors.blocks, feature="inputs")
    corrupt = functools.partial(span_corruption.corrupt_spans, rate=rate, empty=empty, longest=longest)
    return _register(name, corpus, folder, ("inputs", "targets"), [build, corrupt])


def _register(
    name: str, corpus: str, folder: str | os.PathLike[str] | None, features: tuple[str, ...], steps: list
) -> seqio.Task:
    vocabulary = MetroVocabulary(None if folder is None else os.path.join(folder, "vocab"))
    return add_task(
        name,
        source=PreparedSource(corpus, "documents", vocabulary, folder),
        output_features={f: seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32) for f in features},
        preprocessors=steps,
    )


register_metro_pretrain("metro_pretrain")
register_t5_pretrain("t5_pretrain")
