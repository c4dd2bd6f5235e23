"""METRO-T0 as a model of EleutherAI's lm-evaluation-harness (the package lm_eval, extra `harness`).

    python -m metro_jax.evaluation.harness --model_args pretrained=MODEL --tasks TASK ...

is the harness's own command with `metro_jax` among its models, which is also the default of --model; in Python, after
`import metro_jax.evaluation.harness`, it is `lm_eval.simple_evaluate(model="metro_jax", model_args="pretrained=...")`.

The context goes to the encoder and the continuation to the decoder, each with the special tokens of T0's evaluation
(spec 8.1): the end mark counts, unless `end=False`. Contexts of more than `max_length` tokens lose words, by default at
the front, where examples of a few-shot prompt stand.
"""

import itertools
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from metro_jax import MetroT0
from metro_jax.decoding import Beam, Greedy, Options, Sample
from metro_jax.inference.likelihood import likelihoods
from metro_jax.text.tokenizer import MetroTokenizer

try:
    import tqdm
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ImportError(f"the lm-evaluation-harness is missing ({error}): pip install 'metro_jax[harness]'") from error

NAME = "metro_jax"
MAX_SOURCE = 512  # tokens that training ever showed the encoder (spec 4.1, 6.3)
CHUNK = 512  # contexts between which results go to the harness's cache, which a killed run continues from
BATCH = 32  # contexts at once when generating
SIDES = ("left", "right")
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # in the harness's order
GENERATION = {*LENGTHS, "until", "do_sample", "temperature", "top_k", "top_p", "num_beams", "length_penalty"}

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


class MetroLM(LM):
    """The adapter; its arguments are those of --model_args.

    Args:
        pretrained: a name of the Hub, a Hub-format folder or a checkpoint of metro_jax.
        dtype, quantize, revision: as of `MetroT0.from_pretrained`.
        batch_size: contexts at once when generating; "auto", and the harness's default of 1, are 32. Scoring finds its
            batches by itself.
        max_length: tokens that are kept of a context, special tokens included; at most the model's positions.
        truncation: "left" cuts the beginning of longer contexts, "right" the end, as T0's evaluation does.
        max_gen_toks: longest answer where a task names none.
        end: whether the end mark belongs to a continuation.
        seed: of answers that are sampled.
        device, max_batch_size, trust_remote_code: given by the harness, without effect: JAX takes all the devices it
            finds (JAX_PLATFORMS chooses), and no code of a model is ever executed.

    Raises:
        ValueError: an unknown or impossible argument.
    """

    def __init__(
        self,
        pretrained: str = "",
        *,
        dtype: str = "float32",
        quantize: str | None = None,
        revision: str | None = None,
        batch_size: int | str | None = None,
        max_length: int = MAX_SOURCE,
        truncation: str = "left",
        max_gen_toks: int = 256,
        end: bool = True,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
        trust_remote_code: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        del device, max_batch_size, trust_remote_code
        known = "pretrained, dtype, quantize, revision, batch_size, max_length, truncation, max_gen_toks, end, seed"
        if unknown:
            raise ValueError(f"--model_args {', '.join(unknown)}: not known to {NAME}, which has {known}")
        if not pretrained:
            raise ValueError("--model_args pretrained=MODEL is needed: a Hub name, a folder, or a checkpoint")
        if truncation not in SIDES:
            raise ValueError(f"truncation={truncation!r}: choose one of {', '.join(SIDES)}")
        devices = jax.devices()
        mesh = jax.sharding.Mesh(np.asarray(devices), ("data",)) if len(devices) > 1 else None
        self.model = MetroT0.from_pretrained(pretrained, dtype=dtype, quantize=quantize, revision=revision, mesh=mesh)
        positions = self.model.config.max_length
        if not 3 <= max_length <= positions:
            raise ValueError(f"max_length={max_length}: must lie between 3 and the model's {positions} positions")
        self.max_length, self.truncation, self.end, self.seed = max_length, truncation, end, seed
        self.max_gen_toks = max_gen_toks
        # Answers do not depend on it, and nobody wants them one by one.
        self.batch_size = BATCH if batch_size in (None, 1, "1") or str(batch_size)[:4] == "auto" else int(batch_size)

    @property
    def tokenizer_name(self) -> str:
        """Tells vocabularies apart in the harness's cache of requests."""
        return f"{NAME}-{self.model.tokenizer.fingerprint()}"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Refused: there is none."""
        raise ValueError("METRO-T0 was not trained on chats and has no chat template: leave --apply_chat_template out")

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding writes it) of each request's (context, continuation)."""
        pairs = [(str(request.args[0]), str(request.args[1])) for request in requests]
        wanted: dict[str, dict[str, None]] = {}
        for context, continuation in pairs:
            wanted.setdefault(context, {})[continuation] = None
        found: dict[tuple[str, str], tuple[float, bool]] = {}
        for contexts in self._chunks(wanted, "loglikelihood", disable_tqdm):
            rows = [list(wanted[context]) for context in contexts]
            scored = likelihoods(self.model, self._fit(contexts), rows, end=self.end, progress=False)
            for context, row, values in zip(contexts, rows, scored, strict=True):
                for continuation, value in zip(row, values, strict=True):
                    found[context, continuation] = (value.log_probability, value.greedy)
                    self.cache_hook.add_partial("loglikelihood", (context, continuation), found[context, continuation])
        return [found[pair] for pair in pairs]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Refused: an encoder-decoder gives answers to a text a probability, not the text itself."""
        names = sorted({str(getattr(request, "task_name", None) or "?") for request in requests})
        raise ValueError(
            f"tasks {', '.join(names)}: perplexity of whole texts (loglikelihood_rolling) is the affair of language "
            "models. METRO-T0 is an encoder-decoder that gives probabilities to answers, not to the text it reads: "
            "leave these tasks out; multiple choice, loglikelihood and generation are offered"
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each request's (context, settings), cut before the first of its stop strings."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(number)
        answers: list[str] = [""] * len(requests)
        for members in groups.values():
            settings = requests[members[0]].args[1]
            options, length, stops = self._decoding(settings)
            contexts = {number: str(requests[number].args[0]) for number in members}
            for numbers in self._chunks(contexts, "generate_until", disable_tqdm, key=contexts.__getitem__):
                texts = self._fit([contexts[number] for number in numbers])
                written = self.model.generate(
                    texts,
                    max_new_tokens=length,
                    options=options,
                    seed=self.seed,
                    batch_size=self.batch_size,
                    progress=False,
                )
                for number, answer in zip(numbers, written, strict=True):
                    answers[number] = cut(answer, stops)
                    self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
        return answers

    def _decoding(self, settings: dict[str, Any]) -> tuple[Options, int, list[str]]:
        """Decoding options, longest answer and stop strings of a request's settings."""
        strange = set(settings) - GENERATION
        if strange:
            logger.warning("generation settings without effect on METRO-T0: %s", ", ".join(sorted(strange)))
        length = next((int(settings[name]) for name in LENGTHS if settings.get(name) is not None), self.max_gen_toks)
        temperature = float(settings.get("temperature", 1.0) or 0.0)
        options: Options = Greedy()
        if settings.get("do_sample") and temperature > 0:
            options = Sample(temperature, int(settings.get("top_k") or 0), float(settings.get("top_p") or 1.0))
        elif int(settings.get("num_beams") or 1) > 1:
            options = Beam(int(settings["num_beams"]), float(settings.get("length_penalty", 1.0)))
        stops = settings.get("until") or []
        stops = stop_strings([stops] if isinstance(stops, str) else stops, self.model.tokenizer.config.lower)
        return options, min(length, self.model.config.max_length - 1), stops

    def _fit(self, contexts: Sequence[str]) -> list[str]:
        return [shorten(text, self.model.tokenizer, self.max_length, self.truncation) for text in contexts]

    def _chunks(
        self, items: Iterable[Item], what: str, quiet: bool, key: Any = lambda item: item
    ) -> Iterator[list[Item]]:
        """Items by length, the longest first, with a progress bar."""
        ordered = iter(sorted(items, key=lambda item: -len(key(item))))
        with tqdm.tqdm(total=len(list(items)), desc=f"{NAME} {what}", unit="context", disable=quiet) as bar:
            while chunk := list(itertools.islice(ordered, CHUNK)):
                yield chunk
                bar.update(len(chunk))


def shorten(text: str, tokenizer: MetroTokenizer, limit: int, side: str) -> str:
    """A text of at most `limit` tokens, special tokens included: as many whole words of it as fit, from one end."""

    def fits(part: str) -> bool:
        return len(tokenizer.encode(part)) <= limit

    if fits(text):
        return text
    spans = [word.span() for word in re.finditer(r"\S+", text)]
    if not fits(text[slice(*spans[-1 if side == "left" else 0])]):  # a word that is too long by itself: letters
        spans = [(n, n + 1) for n in range(len(text))]
    parts = [text[begin:] for begin, _ in spans] if side == "left" else [text[:end] for _, end in reversed(spans)]
    low, high = 0, len(parts) - 1  # the first part that fits; every later one is shorter
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(parts[middle]) else (middle + 1, high)
    return parts[low]


def stop_strings(strings: Iterable[str], lower: bool) -> list[str]:
    """Stop strings in the letters that METRO writes: without capitals, whitespace as single blanks.

    Line breaks are never written: a stop string of whitespace only can never occur and is left out.
    """
    folded = (re.sub(r"\s+", " ", text.lower() if lower else text) for text in strings)
    return [text for text in folded if text.strip()]


def cut(answer: str, stops: Iterable[str]) -> str:
    """The answer up to the first stop string. One that begins with a blank also stops where the answer begins."""
    padded = f" {answer}"
    found = [place for stop in stops if (place := padded.find(stop)) >= 0]
    return padded[: min(found)].strip() if found else answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The harness's command; `--model metro_jax` where no model is named."""
    from lm_eval.__main__ import cli_evaluate

    given = list(sys.argv[1:] if arguments is None else arguments)
    named = any(word in ("-M", "--model") or word.startswith("--model=") for word in given)
    other = given[:1] and given[0] in ("ls", "validate", "-h", "--help")
    before = sys.argv
    sys.argv = ["lm_eval", *given, *([] if named or other or not given else ["--model", NAME])]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0


if __name__ == "__main__":
    # The class that the harness knows must be the importable one, not a second one of this script.
    from metro_jax.evaluation import harness

    sys.exit(harness.main())
else:
    register_model(NAME)(MetroLM)
