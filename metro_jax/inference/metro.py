"""`MetroT0`: a model with its tokenizer, on whatever device JAX finds.

Inputs are sorted by length, cut into batches, and padded to buckets, so that new texts seldom compile anew; results
come back in the order of the inputs and depend on neither batch nor bucket.
"""

import collections
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from metro_jax.compile_cache import keep_compiled_programs
from metro_jax.convert import find_model, load_model, save_hub_folder
from metro_jax.decoding import Beam, Greedy, Options, bucket_length
from metro_jax.inference import batching, engine
from metro_jax.inference.batching import batches, shown
from metro_jax.inference.engine import Ranking, TokenScores
from metro_jax.model import serving
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import check_length
from metro_jax.text.ids import PAD
from metro_jax.text.tokenizer import MetroTokenizer

MAX_SOURCE, MAX_CHOICE = 512, 256  # tokens kept of input and choice when ranking (spec 8.1)
QUANTIZE = (None, "int8")


class MetroT0:
    """A METRO-T0 model ready for use.

    Args:
        params: the parameter tree in metro_jax layout; other branches than the main model's are ignored.
        mesh: devices to spread the rows of a batch over; weights are replicated. None uses the default device.
        quantize: "int8" stores the kernels and the token matrix in eight bits.
    """

    def __init__(
        self,
        config: MetroConfig,
        params: Any,
        tokenizer: MetroTokenizer,
        mesh: jax.sharding.Mesh | None = None,
        *,
        quantize: str | None = None,
    ) -> None:
        self.config, self.tokenizer, self.mesh, self.quantize = config, tokenizer, mesh, quantize
        if quantize not in QUANTIZE:
            raise ValueError(f"quantize={quantize!r} is not known; choose one of {', '.join(map(repr, QUANTIZE))}")
        if tokenizer.vocab_size != config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} pieces but the model {config.vocab_size}: "
                "take the vocabulary files that came with the checkpoint"
            )
        keep_compiled_programs()
        weights = serving.prepare(params, config, int8=quantize == "int8")
        self._weights = jax.device_put(weights, self._sharding())

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        quantize: str | None = None,
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
            quantize: "int8" stores weights in eight bits, a quarter of float32's memory.
            revision, token, cache_dir, local_files_only: of the Hub, see `convert.download.find_model`.

        Raises:
            ConversionError, ValueError, OSError: what is missing, cannot be had or does not fit, by name.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        config, params, vocabulary = load_model(find_model(model, **hub))
        tokenizer = MetroTokenizer.from_pretrained(vocabulary)
        return cls(config.replace(dtype=dtype), params, tokenizer, mesh, quantize=quantize)

    @property
    def params(self) -> Any:
        """The parameter tree in metro_jax layout, for training and conversion; put together anew at each call."""
        if self.quantize:
            raise ValueError(
                f"the weights were rounded to {self.quantize} when they were loaded and cannot be given back: load the "
                "model without quantize"
            )
        return serving.restore(self._weights, self.config)

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the answers: vocabulary, configuration with its dtype, and weights as loaded."""
        digest = hashlib.sha256(f"{self.tokenizer.fingerprint()} {self.config} {self.quantize}".encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._weights):
            array = np.ascontiguousarray(jax.device_get(leaf))
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(array.view(np.uint8).reshape(-1).data)
        return digest.hexdigest()

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
        progress: bool | None = None,
    ) -> list[str]:
        """Answers, in the order of the texts.

        Args:
            max_new_tokens: longest answer in tokens, its end mark included; at most 1023.
            num_beams: above 1 searches with that many beams; `options` says more, or samples.
            seed: of the random draws when sampling; text n draws the same tokens in any batch.
            progress: a bar on standard error; None shows it for several batches on a terminal.

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
        for rows, tokens in shown(self._batches(sources, batch_size), len(sources), "generating", progress):
            seeds = self._place(np.resize(np.asarray(rows, np.int32), len(tokens)))
            limit, key = self._replicate(np.asarray(max_new_tokens + 1)), self._replicate(jax.random.key(seed))
            decoded = engine.generate_tokens(
                self._weights,
                *self._source(tokens),
                limit,
                key,
                seeds,
                config=self.config,
                max_length=max_length,
                options=chosen,
            )
            texts_out = self.tokenizer.decode_batch(np.asarray(decoded.tokens)[: len(rows)].tolist())
            for row, answer in zip(rows, texts_out, strict=True):
                answers[row] = answer
        return answers

    def rank(
        self, texts: Sequence[str], choices: Sequence[Sequence[str]], *, progress: bool | None = None
    ) -> list[Ranking]:
        """Scores the choices of each text by their log-probability and names the best (spec 8.1).

        Texts are cut to 512 tokens and choices to 256, as in the published evaluation. Each text is encoded once, and
        what its choices have in common is computed once.

        Raises:
            ValueError: no texts, numbers of texts and choice lists that differ, an empty list of choices.
        """
        found: list[Any] = [None] * len(texts)
        for batch in self.rank_batches(texts, choices, progress=progress):
            for n, ranking in batch:
                found[n] = ranking
        return found

    def rank_batches(
        self,
        texts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        max_source: int = MAX_SOURCE,
        max_choice: int = MAX_CHOICE,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Iterator[list[tuple[int, Ranking]]]:
        """`rank` batch by batch, each a list of (number of the text, its ranking), the longest texts first.

        Args:
            max_source, max_choice: tokens that are kept of a text and of a choice, special tokens included.
            batch_size: at most so many texts at once; None takes what memory is sure to hold.
        """
        sources = [np.asarray(source, np.int32) for source in self._encode(texts, max_source)]
        if len(choices) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(choices)} lists of choices: give one list per text")
        for n, options in enumerate(choices):
            if isinstance(options, str) or not len(options):
                raise ValueError(f"choices[{n}]={options!r} must be a list of at least one text")
        distinct = list(dict.fromkeys(choice for options in choices for choice in options))
        encoded = self.tokenizer.encode_batch(distinct, max_length=max_choice)
        of = {choice: ids[1:] for choice, ids in zip(distinct, encoded, strict=True)}
        labels = [[of[choice] for choice in options] for options in choices]
        for batch in self._score(sources, labels, "ranking", progress, batch_size):
            # Summed in float32, as the published evaluation does.
            sums = [(n, [float(tokens.sum()) for tokens in row]) for n, row in batch]
            yield [(n, Ranking(row, int(np.argmax(row)))) for n, row in sums]

    def score(self, texts: Sequence[str], targets: Sequence[str], *, progress: bool | None = None) -> list[TokenScores]:
        """Log-probability of every token of each text's target, its end mark included.

        Raises:
            ValueError: no texts, numbers of texts and targets that differ, one longer than the model's positions.
        """
        sources = self._encode(texts, None)
        if isinstance(targets, str) or len(targets) != len(texts):
            raise ValueError(f"{len(texts)} texts but targets={targets!r}: give a list with one target per text")
        labels = [self.tokenizer.encode(target)[1:] for target in targets]
        for n, label in enumerate(labels):
            check_length(self.config, len(label), f"targets[{n}]")
        batches = self._score(sources, [[label] for label in labels], "scoring", progress)
        scored = dict(row for batch in batches for row in batch)
        pieces = [[self.tokenizer.id_to_piece(token) for token in label] for label in labels]
        return [TokenScores(names, scored[n][0].tolist()) for n, names in enumerate(pieces)]

    def encode(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> list[Float[np.ndarray, "tokens d_model"]]:
        """The encoder's float32 output for each text, one row per token, `<s>` and `</s>` included."""
        sources = self._encode(texts, None)
        states: list[Any] = [None] * len(sources)
        for rows, tokens in shown(self._batches(sources, batch_size), len(sources), "encoding", progress):
            encoded = np.asarray(engine.encode(self._weights, *self._source(tokens), config=self.config))
            for i, row in enumerate(rows):
                states[row] = encoded[i, : len(sources[row])].copy()
        return states

    def logits(
        self,
        encoder_tokens: Int[Array, "batch source"],
        decoder_tokens: Int[Array, "batch target"],
        encoder_mask: Int[Array, "batch source"] | None = None,
        decoder_mask: Int[Array, "batch target"] | None = None,
    ) -> Float[Array, "batch target vocab"]:
        """float32 logits of metro_jax ids; without `encoder_mask` one is made from the pads (spec 11, quirk 17)."""
        source, target = np.asarray(encoder_tokens, np.int32), np.asarray(decoder_tokens, np.int32)
        check_length(self.config, source.shape[1], "the encoder input")
        check_length(self.config, target.shape[1], "the decoder input")
        mask = source != PAD if encoder_mask is None else np.asarray(encoder_mask, bool)
        target_mask = np.ones(target.shape, bool) if decoder_mask is None else np.asarray(decoder_mask, bool)
        # Any number of rows is welcome here, so they are not spread over a mesh.
        arrays = [self._replicate(array) for array in (source, target, mask, target_mask)]
        return engine.logits(self._weights, *arrays, config=self.config)

    def _score(
        self,
        sources: Sequence[Sequence[int] | np.ndarray],
        targets: list[list[list[int]]],
        what: str,
        progress: bool | None,
        batch_size: int | None = None,
    ) -> Iterator[list[tuple[int, list[np.ndarray]]]]:
        """Batch by batch the numbers of inputs that are done, with the log-probabilities of each target's tokens."""
        # An input whose targets are too many for one tree comes several times.
        parts = [(n, numbers) for n, row in enumerate(targets) for numbers in batching.split(row)]
        missing = collections.Counter(n for n, _ in parts)
        buckets = [batching.tree_bucket([targets[n][number] for number in numbers]) for n, numbers in parts]
        made = self._scoring_batches([sources[n] for n, _ in parts], buckets, batch_size)
        found: dict[int, list[Any]] = {}

        def collect(scores: Any, rows: list[int], trees: list[batching.Tree]) -> list[tuple[int, list[np.ndarray]]]:
            done = []
            for own, row, tree in zip(np.asarray(scores, np.float32), rows, trees, strict=False):
                n, numbers = parts[row]
                values = found.setdefault(n, [None] * len(targets[n]))
                for number, (begin, end) in zip(numbers, tree.spans, strict=True):
                    values[number] = own[begin:end]
                missing[n] -= 1
                if not missing[n]:
                    done.append((n, found.pop(n)))
            return done

        running: Any = None
        for rows, tokens, bucket in batching.shown(made, len(parts), what, progress):
            picked = [(targets[n], numbers) for n, numbers in (parts[row] for row in rows)]
            start = self.config.decoder_start_token
            trees = [batching.tree([own[number] for number in numbers], start) for own, numbers in picked]
            placed = jax.tree.map(self._place, batching.pack(trees, len(tokens), bucket))
            scores = engine.score_trees(self._weights, *self._source(tokens), placed, config=self.config)
            if running:  # while the device computes this batch
                yield collect(*running)
            running = scores, rows, trees
        yield collect(*running)

    def _encode(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        if isinstance(texts, str):
            raise TypeError(f"texts={texts!r} is one string: give a list of texts, such as [{texts!r}]")
        if not len(texts):
            raise ValueError(f"texts={texts!r} is empty: give at least one text")
        sources = self.tokenizer.encode_batch(list(texts), max_length=max_length)
        for n, source in enumerate(sources):
            check_length(self.config, len(source), f"texts[{n}]")
        return sources

    def _batches(self, sources: list[list[int]], size: int) -> list[batching.Batch]:
        if size < 1:
            raise ValueError(f"batch_size={size} must be at least 1")
        return batches(sources, size, 1 if self.mesh is None else self.mesh.size, self.config.max_length)

    def _scoring_batches(
        self, sources: Sequence[Sequence[int] | np.ndarray], buckets: list[int], size: int | None = None
    ) -> list[batching.ScoringBatch]:
        devices = jax.devices() if self.mesh is None else list(self.mesh.devices.flat)
        shards, cpu = 1 if self.mesh is None else len(devices), devices[0].platform == "cpu"
        return batching.scoring_batches(sources, buckets, size, shards, self.config.max_length, cpu)

    def _source(self, tokens: np.ndarray) -> tuple[Array, Array]:
        return self._place(tokens), self._place(tokens != PAD)

    def _sharding(self, *axes: Any) -> jax.sharding.NamedSharding | None:
        return None if self.mesh is None else jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*axes))

    def _replicate(self, array: Any) -> Array:
        return jax.device_put(jnp.asarray(array), self._sharding())

    def _place(self, array: np.ndarray) -> Array:
        """Puts an array on the device, its rows spread over the whole mesh if there is one."""
        return jax.device_put(array, None if self.mesh is None else self._sharding(self.mesh.axis_names))
