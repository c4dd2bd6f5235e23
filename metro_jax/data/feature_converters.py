"""From task features to the batches of the models: decoder inputs, padding or packing, static shapes.

Both runtimes call `model.FEATURE_CONVERTER_CLS(pack=..., use_custom_packing_ops=...)`. What else a converter needs is a
class attribute, an argument that gin can bind, or comes from the vocabulary of the data folder.
"""

from collections.abc import Mapping
from typing import Any

import gin
import seqio
import tensorflow as tf

from metro_jax.data.packing import pack
from metro_jax.data.vocabulary import MetroVocabulary
from metro_jax.text.ids import EOS, PAD

Spec = seqio.FeatureConverter.FeatureSpec

MAX_SEGMENTS = 8  # blocks in one packed pretraining row, which the ceiling max_masked grows with


def shift_right(targets: tf.Tensor, start: int, segment_ids: tf.Tensor | None = None) -> tf.Tensor:
    """Decoder inputs: `start`, then the targets without the last token, in each segment; pad at padding (spec 2.7)."""
    shifted = tf.concat([[start], targets[:-1]], 0)
    if segment_ids is not None:
        begins = tf.not_equal(segment_ids, tf.concat([[0], segment_ids[:-1]], 0))
        shifted = tf.where(begins, start, shifted)
    return tf.where(targets == PAD, PAD, shifted)


class _MetroFeatureConverter(seqio.FeatureConverter):
    """What the converters have in common: two streams, `inputs` for the encoder and `targets` for the decoder."""

    TASK_FEATURES: Mapping[str, Spec] = {"inputs": Spec(tf.int32), "targets": Spec(tf.int32)}
    PACKING_FEATURE_DTYPES: Mapping[str, tf.DType] = {
        "encoder_segment_ids": tf.int32,
        "decoder_segment_ids": tf.int32,
        "encoder_positions": tf.int32,
        "decoder_positions": tf.int32,
    }
    #: Features that run in step with each stream and are packed with it.
    STREAMS: Mapping[str, tuple[str, ...]] = {"inputs": ("inputs",), "targets": ("targets",)}
    #: First decoder token; None means `<sen000>` of the data folder's vocabulary.
    DECODER_START: int | None = EOS

    def __init__(
        self,
        pack: bool = True,
        use_custom_packing_ops: bool = False,
        decoder_start: int | None = None,
        max_segments: int | None = None,
        **kwargs: Any,
    ):
        """
        Args:
          pack: several examples per row, with segment ids and positions; otherwise one example per row.
          use_custom_packing_ops: only False: seqio's custom operators are not built.
          decoder_start: first decoder token, a metro_jax id; None takes the class's.
          max_segments: most examples in one packed row; None is no limit.
        """
        if use_custom_packing_ops:
            raise ValueError("use_custom_packing_ops=True: there are no custom packing operators here; leave it False")
        super().__init__(pack=pack, **kwargs)
        self._decoder_start = self.DECODER_START if decoder_start is None else decoder_start
        self._max_segments = max_segments

    @classmethod
    def starting_with(cls, token: int) -> type["_MetroFeatureConverter"]:
        """This converter with another first decoder token."""
        return type(
            cls.__name__, (cls,), {"DECODER_START": token, "__doc__": cls.__doc__, "__module__": cls.__module__}
        )

    @property
    def max_segments(self) -> int:
        """The largest number of examples in a row (0: no limit)."""
        return (self._max_segments or 0) if self.pack else 1

    @property
    def decoder_start(self) -> int:
        """The first decoder token."""
        return MetroVocabulary().mask_id if self._decoder_start is None else self._decoder_start

    def _rows(self, ds: tf.data.Dataset, lengths: Mapping[str, int]) -> tf.data.Dataset:
        """Rows of static length, padded or packed."""
        if self.pack:
            return pack(ds, self.STREAMS, lengths, self._max_segments)
        limits = {name: lengths[stream] for stream, features in self.STREAMS.items() for name in features}
        return seqio.trim_and_pad_dataset(ds, limits)

    def _packing(self, row: Mapping[str, tf.Tensor], source: str = "inputs") -> dict[str, tf.Tensor]:
        if not self.pack:
            return {}
        return {
            "encoder_segment_ids": row[f"{source}_segment_ids"],
            "encoder_positions": row[f"{source}_positions"],
            "decoder_segment_ids": row["targets_segment_ids"],
            "decoder_positions": row["targets_positions"],
        }

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        start = self.decoder_start
        rows = self._rows(ds, task_feature_lengths)
        return rows.map(lambda row: self._convert_row(row, start), tf.data.AUTOTUNE)

    def _convert_row(self, row: Mapping[str, tf.Tensor], start: int) -> dict[str, tf.Tensor]:
        raise NotImplementedError

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """The length of every model feature: that of `inputs` for the encoder's, of `targets` for the decoder's."""
        names = [*self.MODEL_FEATURES, *(self.PACKING_FEATURE_DTYPES if self.pack else ())]
        return {name: task_feature_lengths["targets" if name.startswith("decoder") else "inputs"] for name in names}


@gin.configurable
class MetroPretrainingFeatureConverter(_MetroFeatureConverter):
    """Batches of METRO pretraining from `inputs` (masked), `targets` (original) and `generator_targets`, equally long.

    Model features, each [length] int32: `encoder_input_tokens` (masked), `generator_target_tokens` (the original id at
    masked positions, 0 elsewhere), `decoder_input_tokens` (`<sen000>`, then the original without its last token),
    `decoder_target_tokens` (the original); with packing also `encoder_segment_ids`, `encoder_positions`,
    `decoder_segment_ids`, `decoder_positions` (spec 4.2). TASK_FEATURE_LENGTHS holds `inputs` and `targets` only.

    A row has at most `max_masked(length, rate, converter.max_segments)` masked positions.
    """

    MODEL_FEATURES: Mapping[str, Spec] = {
        "encoder_input_tokens": Spec(tf.int32),
        "generator_target_tokens": Spec(tf.int32),
        "decoder_input_tokens": Spec(tf.int32),
        "decoder_target_tokens": Spec(tf.int32),
    }
    STREAMS: Mapping[str, tuple[str, ...]] = {"targets": ("targets", "inputs", "generator_targets")}
    DECODER_START = None

    def __init__(
        self,
        pack: bool = True,
        use_custom_packing_ops: bool = False,
        decoder_start: int | None = None,
        max_segments: int = MAX_SEGMENTS,
        **kwargs: Any,
    ):
        if not 1 <= max_segments <= MAX_SEGMENTS:
            raise ValueError(
                f"max_segments={max_segments}: a packed row holds 1 to {MAX_SEGMENTS} blocks, because models have room "
                "for the masked positions of no more; choose a number in this range"
            )
        super().__init__(pack, use_custom_packing_ops, decoder_start, max_segments, **kwargs)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        if task_feature_lengths["inputs"] != task_feature_lengths["targets"]:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS = {dict(task_feature_lengths)}: masked and original blocks run in step, so "
                "'inputs' and 'targets' need the same length"
            )
        element_spec: Any = ds.element_spec
        names = list(element_spec)
        if "generator_targets" not in names:
            raise ValueError(
                f"the data has the features {', '.join(names)} but not generator_targets: METRO pretraining "
                "needs a task made by metro_jax.tasks.pretraining, such as metro_pretrain"
            )
        return super()._convert_features(ds, task_feature_lengths)

    def _convert_row(self, row: Mapping[str, tf.Tensor], start: int) -> dict[str, tf.Tensor]:
        return {
            "encoder_input_tokens": row["inputs"],
            "generator_target_tokens": row["generator_targets"],
            "decoder_input_tokens": shift_right(row["targets"], start, row.get("targets_segment_ids")),
            "decoder_target_tokens": row["targets"],
            **self._packing(row, source="targets"),
        }


@gin.configurable
class EncoderDecoderFeatureConverter(_MetroFeatureConverter):
    """Batches for sequence-to-sequence training from `inputs` and `targets` (spec 6.4).

    Model features, int32: `encoder_input_tokens` [inputs length]; `decoder_input_tokens` (eos, then the targets without
    the last token), `decoder_target_tokens`, `decoder_loss_weights` (1 at tokens) [targets length]; with packing also
    `encoder_segment_ids`, `encoder_positions`, `decoder_segment_ids`, `decoder_positions`.
    """

    MODEL_FEATURES: Mapping[str, Spec] = {
        "encoder_input_tokens": Spec(tf.int32),
        "decoder_input_tokens": Spec(tf.int32),
        "decoder_target_tokens": Spec(tf.int32),
        "decoder_loss_weights": Spec(tf.int32),
    }

    def _convert_row(self, row: Mapping[str, tf.Tensor], start: int) -> dict[str, tf.Tensor]:
        targets = row["targets"]
        return {
            "encoder_input_tokens": row["inputs"],
            "decoder_input_tokens": shift_right(targets, start, row.get("targets_segment_ids")),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": tf.cast(targets != PAD, tf.int32),
            **self._packing(row),
        }


@gin.configurable
class SpanCorruptionFeatureConverter(EncoderDecoderFeatureConverter):
    """`EncoderDecoderFeatureConverter` whose decoder starts with `<sen000>`, for pretraining the T5 baseline (4.3)."""

    DECODER_START = None


@gin.configurable
class RankFeatureConverter(EncoderDecoderFeatureConverter):
    """Rows of rank classification, one per choice, never packed (spec 8.1).

    Adds to the features of sequence-to-sequence training `idx` [2] (example, choice), `is_correct` and `weight`
    (scalars), for a caller that scores straight from batches; `metro_jax.data.metrics.rank_accuracy` groups by them.
    """

    MODEL_FEATURES: Mapping[str, Spec] = {
        **EncoderDecoderFeatureConverter.MODEL_FEATURES,
        "idx": Spec(tf.int32),
        "is_correct": Spec(tf.bool, rank=0),
        "weight": Spec(tf.float32, rank=0),
    }

    def __init__(
        self, pack: bool = False, use_custom_packing_ops: bool = False, choices: int | None = None, **kwargs: Any
    ):
        """
        Args:
          choices: rows that every example takes; the choices of an example with fewer are followed by empty rows
            (idx -1, weight 0), so that batches of a multiple of `choices` rows never part an example. For callers that
            score straight from batches; not for seqio's evaluator, which pairs rows with targets by their order.
        """
        if pack:
            raise ValueError("pack=True: the choices of rank classification are scored one per row; use pack=False")
        if choices is not None and choices < 1:
            raise ValueError(f"choices={choices}: every example takes at least one row")
        super().__init__(pack, use_custom_packing_ops, **kwargs)
        self._choices = choices

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        rows = super()._convert_features(ds, task_feature_lengths)
        return rows if self._choices is None else _keep_together(rows, self._choices)

    def _convert_row(self, row: Mapping[str, tf.Tensor], start: int) -> dict[str, tf.Tensor]:
        labels = {name: row[name] for name in ("idx", "is_correct", "weight")}
        return super()._convert_row(row, start) | labels

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """The lengths of the sequences; `idx` has two entries."""
        return {**super().get_model_feature_lengths(task_feature_lengths), "idx": 2, "is_correct": 1, "weight": 1}


def _keep_together(rows: tf.data.Dataset, choices: int) -> tf.data.Dataset:
    """Empty rows before each example but the first, so that every example begins at a multiple of `choices`."""

    def place(used: tf.Tensor, row: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tuple]:
        choice = row["idx"][1]
        small = tf.debugging.assert_less(
            choice, choices, f"an example has more choices than RankFeatureConverter(choices={choices}) has rows for"
        )
        with tf.control_dependencies([small]):
            gap = tf.where(choice == 0, tf.math.floormod(-used, choices), 0)
        return tf.math.floormod(used + gap + 1, choices), (row, gap)

    def spaced(row: Mapping[str, tf.Tensor], gap: tf.Tensor) -> tf.data.Dataset:
        empty = {name: tf.zeros_like(value) for name, value in row.items()} | {"idx": -tf.ones_like(row["idx"])}
        before = tf.data.Dataset.from_tensors(empty).repeat(tf.cast(gap, tf.int64))
        return before.concatenate(tf.data.Dataset.from_tensors(row))

    placed: Any = rows.scan(tf.constant(0, tf.int32), place)
    return placed.flat_map(spaced)
