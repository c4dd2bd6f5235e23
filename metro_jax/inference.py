"""`MetroT0`: a model with its tokenizer. Strings in, strings or scores out, on whatever device JAX finds.

Inputs are sorted by length, cut into batches, and padded to buckets, so that new texts seldom compile anew; results
come back in the order of the inputs and depend on neither batch nor bucket.
"""

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from metro_jax.convert import find_model, load_model, save_hub_folder
from metro_jax.decoding import Beam, Decoded, Greedy, Options, bucket_batch, bucket_length, decode
from metro_jax.model.cache import decode_step, init_cache, reorder, unstack_decoder
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import EncoderDecoder, check_length
from metro_jax.objectives import cross_entropy
from metro_jax.text.ids import PAD
from metro_jax.text.tokenizer import MetroTokenizer

MAX_SOURCE, MAX_CHOICE = 512, 256  # tokens kept of input and choice when ranking (spec 8.1)
LABEL_BUCKETS = (4, 8, 16, 32, 64, 128, MAX_CHOICE)  # most choices are a word or two
LABEL_TOKENS_PER_BATCH = 1024  # bounds the logits of one ranking batch: 264 MB of float32 at 64,512 pieces


class Ranking(NamedTuple):
    """Scores of one input's choices (sums of log-probabilities) and the index of the best, the first of equals."""

    scores: list[float]
    best: int


@functools.partial(jax.jit, static_argnames=("config", "max_length", "options"))
def generate_tokens(
    params: Any,
    config: MetroConfig,
    tokens: Int[Array, "rows source"],
    mask: Bool[Array, "rows source"],
    limit: Int[Array, ""],
    rng: Array,
    row_seeds: Int[Array, "rows"],
    *,
    max_length: int,
    options: Options,
) -> Decoded:
    """Encodes once and decodes with a cache; compiled per shape, `max_length` and options."""
    encoded: Any = EncoderDecoder(config).apply({"params": params}, tokens, mask, method="encode")
    decoder = unstack_decoder(params, config)
    cache = init_cache(decoder, config, encoded, mask, max_length)
    return decode(
        lambda last, cache: decode_step(decoder, config, last, cache),
        cache,
        tokens.shape[0],
        max_length=max_length,
        options=options,
        limit=limit,
        start_token=config.decoder_start_token,
        rng=rng,
        row_seeds=row_seeds,
        reorder=reorder,
    )


@functools.partial(jax.jit, static_argnames=("config",))
def score_labels(
    params: Any,
    config: MetroConfig,
    tokens: Int[Array, "rows source"],
    mask: Bool[Array, "rows source"],
    labels: Int[Array, "rows choices target"],
) -> Float[Array, "rows choices target"]:
    """Log-probability of every label token, 0 at pads. Each input is encoded once for all its choices (spec 8.1)."""
    rows, choices, length = labels.shape
    model: Any = EncoderDecoder(config)
    encoded = jnp.repeat(model.apply({"params": params}, tokens, mask, method="encode"), choices, axis=0)
    flat = labels.reshape(rows * choices, length)
    inputs = jnp.pad(flat, ((0, 0), (1, 0)), constant_values=config.decoder_start_token)[:, :-1]
    hidden, _ = model.apply(
        {"params": params}, inputs, encoded, jnp.repeat(mask, choices, axis=0)[:, None, :], method="decode"
    )
    logits = model.apply({"params": params}, hidden, method="project")
    log_probabilities = -cross_entropy(logits, flat)[1]
    return jnp.where(flat != PAD, log_probabilities, 0.0).reshape(labels.shape)


@functools.partial(jax.jit, static_argnames=("config",))
def _logits(params: Any, config: MetroConfig, *inputs: Array | None) -> Array:
    model: Any = EncoderDecoder(config)
    return model.apply({"params": params}, *inputs)


class MetroT0:
    """A METRO-T0 model ready for use.

    Args:
        params: the parameter tree in metro_jax layout; other branches than the main model's are ignored.
        mesh: devices to spread the rows of a batch over; parameters are replicated. None uses the default device.
    """

    def __init__(
        self, config: MetroConfig, params: Any, tokenizer: MetroTokenizer, mesh: jax.sharding.Mesh | None = None
    ) -> None:
        self.config, self.tokenizer, self.mesh = config, tokenizer, mesh
        if tokenizer.vocab_size != config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} pieces but the model {config.vocab_size}: "
                "take the vocabulary files that came with the checkpoint"
            )
        main = {name: params[name] for name in ("token_embedding", "encoder", "decoder")}
        self.params = jax.device_put(jax.tree.map(lambda p: jnp.asarray(p, config.dtype), main), self._sharding())

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        mesh: jax.sharding.Mesh | None = None,
    ) -> Self:
        """Reads a model of the Hub, a Hub-format folder, or a checkpoint of metro_jax. No code in it is ever executed.

        Args:
            model: a name such as "gonglinyuan/metro_t0pp_basepp", or a folder with weights and vocabulary.
            dtype: of weights and computation: "float32", "bfloat16" or "float16".
            revision, token, cache_dir, local_files_only: of the Hub, see `convert.download.find_model`.

        Raises:
            ConversionError, ValueError, OSError: what is missing, cannot be had or does not fit, by name.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        config, params, vocabulary = load_model(find_model(model, **hub))
        return cls(config.replace(dtype=dtype), params, MetroTokenizer.from_pretrained(vocabulary), mesh)

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, dtype: str = "float32", overwrite: bool = False
    ) -> None:
        """Writes a Hub-format folder, complete or not at all; "float16" is what the published checkpoints hold."""
        params = jax.tree.map(lambda p: np.asarray(p, np.float32), self.params)
        save_hub_folder(
            pathlib.Path(folder), self.config, params, tokenizer=self.tokenizer, dtype=dtype, overwrite=overwrite
        )

    def generate(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int = 256,
        num_beams: int = 1,
        options: Options | None = None,
        seed: int = 0,
        batch_size: int = 32,
    ) -> list[str]:
        """Answers, in the order of the texts.

        Args:
            max_new_tokens: longest answer in tokens, its end mark included.
            num_beams: above 1 searches with that many beams; `options` says more, or samples.
            seed: of the random draws when sampling; text n draws the same tokens in any batch.

        Raises:
            ValueError: no texts, an empty text, one longer than the model's positions, an impossible option.
        """
        sources = self._encode(texts, None)
        for n, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"texts[{n}]={text!r} is empty: there is nothing to answer; leave it out")
        if not 1 <= max_new_tokens < self.config.max_length:
            raise ValueError(f"max_new_tokens={max_new_tokens} must lie between 1 and {self.config.max_length - 1}")
        chosen = options or (Beam(num_beams) if num_beams > 1 else Greedy())
        if getattr(chosen, "num_return_sequences", 1) != 1:
            raise ValueError(f"{chosen}: generate returns one text per input; set num_return_sequences=1")
        max_length = bucket_length(max_new_tokens + 1, maximum=self.config.max_length)
        answers: list[str] = [""] * len(sources)
        for rows, tokens, mask in self._batches(sources, batch_size):
            limit, key = jnp.asarray(max_new_tokens + 1), jax.random.key(seed)
            seeds = self._place(np.resize(np.asarray(rows), len(tokens)))
            decoded = generate_tokens(
                self.params, self.config, tokens, mask, limit, key, seeds, max_length=max_length, options=chosen
            )
            texts_out = self.tokenizer.decode_batch(np.asarray(decoded.tokens)[: len(rows)].tolist())
            for row, answer in zip(rows, texts_out, strict=True):
                answers[row] = answer
        return answers

    def rank(self, texts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[Ranking]:
        """Scores the choices of each text by their log-probability and names the best (spec 8.1).

        Texts are cut to 512 tokens and choices to 256, as in the published evaluation.

        Raises:
            ValueError: no texts, numbers of texts and choice lists that differ, an empty list of choices.
        """
        sources = self._encode(texts, MAX_SOURCE)
        if len(choices) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(choices)} lists of choices: give one list per text")
        labels = []
        for n, options in enumerate(choices):
            if isinstance(options, str) or not len(options):
                raise ValueError(f"choices[{n}]={options!r} must be a list of at least one text")
            labels.append([self.tokenizer.encode_choice(choice, max_length=MAX_CHOICE) for choice in options])
        longest = bucket_length(max(len(label) for row in labels for label in row), LABEL_BUCKETS)
        most = bucket_batch(max(len(row) for row in labels))
        rankings: list[Ranking | None] = [None] * len(sources)
        for rows, tokens, mask in self._batches(sources, max(1, LABEL_TOKENS_PER_BATCH // (most * longest))):
            padded = np.zeros((len(tokens), most, longest), np.int32)
            for i, row in enumerate(rows):
                for j, label in enumerate(labels[row]):
                    padded[i, j, : len(label)] = label
            log_probabilities = score_labels(self.params, self.config, tokens, mask, self._place(padded))
            scores = np.asarray(log_probabilities).sum(axis=-1)
            for i, row in enumerate(rows):
                own = scores[i, : len(labels[row])]
                rankings[row] = Ranking(own.tolist(), int(own.argmax()))
        return [ranking for ranking in rankings if ranking is not None]

    def logits(
        self,
        encoder_tokens: Int[Array, "batch source"],
        decoder_tokens: Int[Array, "batch target"],
        encoder_mask: Int[Array, "batch source"] | None = None,
        decoder_mask: Int[Array, "batch target"] | None = None,
    ) -> Float[Array, "batch target vocab"]:
        """float32 logits of metro_jax ids; without `encoder_mask` one is made from the pads (spec 11, quirk 17)."""
        source, target = np.asarray(encoder_tokens), np.asarray(decoder_tokens)
        check_length(self.config, source.shape[1], "the encoder input")
        check_length(self.config, target.shape[1], "the decoder input")
        mask = source != PAD if encoder_mask is None else np.asarray(encoder_mask, bool)
        return _logits(self.params, self.config, source, target, mask, decoder_mask)

    def _encode(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        if isinstance(texts, str):
            raise TypeError(f"texts={texts!r} is one string: give a list of texts, such as [{texts!r}]")
        if not len(texts):
            raise ValueError(f"texts={texts!r} is empty: give at least one text")
        sources = self.tokenizer.encode_batch(list(texts), max_length=max_length)
        for n, source in enumerate(sources):
            check_length(self.config, len(source), f"texts[{n}]")
        return sources

    def _batches(self, sources: list[list[int]], batch_size: int) -> Iterator[tuple[list[int], Array, Array]]:
        """(input numbers, tokens, mask) of batches of similar length; surplus rows repeat the first, to end with it."""
        order = sorted(range(len(sources)), key=lambda n: len(sources[n]))
        shards = 1 if self.mesh is None else self.mesh.size
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = bucket_length(max(len(sources[n]) for n in rows), maximum=self.config.max_length)
            height = shards * bucket_batch(-(-len(rows) // shards))
            tokens = np.full((height, width), PAD, np.int32)
            for i in range(height):
                source = sources[rows[i] if i < len(rows) else rows[0]]
                tokens[i, : len(source)] = source
            yield rows, self._place(tokens), self._place(tokens != PAD)

    def _sharding(self, *axes: Any) -> jax.sharding.NamedSharding | None:
        return None if self.mesh is None else jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*axes))

    def _place(self, array: np.ndarray) -> Array:
        """Puts an array on the device, its rows spread over the whole mesh if there is one."""
        return jax.device_put(array, None if self.mesh is None else self._sharding(self.mesh.axis_names))
