"""What run files configure under the name `utils`: datasets here, checkpoints and schedules from their own modules."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from metro_jax.data.lookup import find_task
from metro_jax.training.checkpoint_paths import CheckpointConfig, RestoreCheckpointConfig, SaveCheckpointConfig
from metro_jax.training.errors import UserError
from metro_jax.training.schedules import create_learning_rate_scheduler

__all__ = [
    "CheckpointConfig",
    "DatasetConfig",
    "RestoreCheckpointConfig",
    "SaveCheckpointConfig",
    "check_fits",
    "create_learning_rate_scheduler",
    "get_dataset",
    "get_mixture_or_task",
    "get_task",
]


@dataclasses.dataclass
class DatasetConfig:
    """Which batches to read, under T5X's name and arguments.

    Args:
        mixture_or_task_name: registered with seqio, by `module` or by a module that the gin files import.
        task_feature_lengths: longest sequence per task feature, in tokens; longer ones are cut.
        split: of the task.
        batch_size: rows over all processes, after packing.
        shuffle, seed: order of the examples; without a seed the run's `random_seed` is used, so that runs repeat.
        use_cached: read what seqio's caching wrote.
        pack: several examples per row.
        module: imported first.
        num_shards: blocks in which training batches are read; None means one per process. A run continues at the same
            position on any number of processes that divides it, so choose the largest you may use.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    split: str
    batch_size: int
    shuffle: bool = True
    seed: int | None = None
    use_cached: bool = False
    pack: bool = False
    module: str | None = None
    use_custom_packing_ops: bool = False
    trim_output_features: bool = True
    num_shards: int | None = None


def get_mixture_or_task(name: str, module: str | None = None) -> seqio.Task | seqio.Mixture:
    """The task or mixture of this name, after importing `module`.

    Raises:
        UserError: the module cannot be imported, or the name is not registered; names the nearest.
    """
    try:
        return find_task(name, module)
    except ValueError as error:
        hint = "" if module else ". Tasks are registered when their module is imported: set MIXTURE_OR_TASK_MODULE"
        raise UserError(f"{error}{hint}") from error


def get_task(cfg: DatasetConfig) -> seqio.Task | seqio.Mixture:
    """The task or mixture that a configuration means; a UserError if it is not there or lacks the split."""
    task = get_mixture_or_task(cfg.mixture_or_task_name, cfg.module)
    if cfg.split not in task.splits:
        known = ", ".join(map(repr, sorted(task.splits)))
        raise UserError(f"{cfg.mixture_or_task_name!r} has no split {cfg.split!r}; it has {known}")
    return task


def check_fits(model: Any, cfg: DatasetConfig) -> None:
    """The model can read what the dataset will give: lengths within its position tables, ids within its vocabulary.

    Raises:
        UserError: says which length or vocabulary does not fit.
    """
    task = get_task(cfg)
    longest, size = model.config.max_length, model.config.vocab_size
    for feature, length in (cfg.task_feature_lengths or {}).items():
        if not isinstance(length, int) or length < 1:
            raise UserError(
                f"TASK_FEATURE_LENGTHS: {feature!r} has length {length!r}; give a whole number of at least 1"
            )
        if length > longest:
            raise UserError(
                f"TASK_FEATURE_LENGTHS: {feature!r} has length {length}, but the position tables of this model end at "
                f"{longest}; give {longest} or less"
            )
    for feature, spec in task.output_features.items():
        vocabulary = spec.vocabulary
        if not isinstance(vocabulary, seqio.PassThroughVocabulary) and vocabulary.vocab_size > size:
            raise UserError(
                f"the vocabulary of feature {feature!r} of {cfg.mixture_or_task_name!r} has {vocabulary.vocab_size} "
                f"ids, the model's token matrix {size} rows; set MetroConfig.vocab_size={vocabulary.vocab_size}"
            )


def get_dataset(
    cfg: DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    num_epochs: int | None = None,
    seed: int | None = None,
    drop_remainder: bool = True,
) -> tf.data.Dataset:
    """One shard's share of the batches, repeated for ever unless `num_epochs` says otherwise.

    The iterator's position can be saved as long as the task's source is TFRecord, text lines or TFDS.

    Args:
        seed: used where the configuration has none.
        drop_remainder: leave out a last batch that is not full.

    Raises:
        UserError: unknown task or split, lengths missing, rows that the shards cannot share.
    """
    get_task(cfg)
    if cfg.batch_size % num_shards:
        raise UserError(f"batch_size={cfg.batch_size} is not a multiple of the {num_shards} shards it is read in")
    dataset = seqio.get_dataset(
        mixture_or_task_name=cfg.mixture_or_task_name,
        task_feature_lengths=cfg.task_feature_lengths,
        dataset_split=cfg.split,
        shuffle=cfg.shuffle,
        num_epochs=num_epochs,
        feature_converter=feature_converter_cls(pack=cfg.pack, use_custom_packing_ops=cfg.use_custom_packing_ops),
        shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
        use_cached=cfg.use_cached,
        seed=seed if cfg.seed is None else cfg.seed,
        trim_output_features=cfg.trim_output_features,
    )
    dataset = dataset.batch(cfg.batch_size // num_shards, drop_remainder=drop_remainder).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)
