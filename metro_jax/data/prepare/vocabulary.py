"""A vocabulary of the published shape: SentencePiece unigram model, dictionary, tokenizer settings (spec 9.1, 9.3)."""

import io
import pathlib
import random
from collections.abc import Callable, Iterable, Sequence

import sentencepiece

from metro_jax.data.prepare import inputs as inputs_lib
from metro_jax.data.prepare.documents import Documents
from metro_jax.data.prepare.errors import BadInputError, Problem
from metro_jax.text.config import FILE_NAME, TokenizerConfig
from metro_jax.text.normalizer import normalize
from metro_jax.text.vocabulary import DICTIONARY_NAME, MODEL_NAME, write_file

MASK_PIECE = "[MASK]"  # id 4 of the published vocabularies, which no lower-cased text can produce (spec 9.1)
FIRST_PIECE = 4  # ids before it: <s>, <pad>, </s>, <unk> in the numbering of the dictionary
PUBLISHED_SIZE = 33280  # of the base model: 32,768 pieces and 512 sentinels (spec 1)
SENTINELS = 512
LINES = 2_000_000  # lines that SentencePiece is trained on; it holds them all in memory
LONGEST_LINE = 4192  # bytes; SentencePiece leaves out longer lines


def train_vocabulary(
    lines: Iterable[str],
    folder: pathlib.Path,
    size: int,
    n_sentinel_tokens: int,
    *,
    cased: bool = False,
    threads: int = 1,
    verbose: bool = False,
) -> int:
    """Write sp.model, dict.txt and tokenizer_config.json to `folder`; the same bytes for the same lines.

    Args:
      lines: text in a fixed order; it is normalised as the tokenizer does before it looks for pieces (spec 9.2).
      size: entries of the whole vocabulary, with specials and sentinels; a multiple of 128 suits every accelerator.
      cased: keep capitals; the published base vocabulary does not.
      threads: with more than one, the order of floating-point sums and so the pieces may change from run to run.
    Returns:
      the size.
    Raises:
      ValueError: the text is too small for a vocabulary of this size, or the size is not a multiple of 128.
    """
    if size % 128 or size <= n_sentinel_tokens + FIRST_PIECE:
        raise ValueError(
            f"a vocabulary of {size} entries: use a multiple of 128 above the {n_sentinel_tokens} sentinels"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([normalize(line, not cased) for line in lines]),
            model_writer=model,
            model_type="unigram",
            normalization_rule_name="nmt_nfkc" if cased else "nmt_nfkc_cf",
            vocab_size=size - n_sentinel_tokens,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            user_defined_symbols=[MASK_PIECE],
            num_threads=threads,
            minloglevel=0 if verbose else 2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece could not train a vocabulary of {size - n_sentinel_tokens} pieces ({error}); "
            "use a smaller size or more text"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(index) for index in range(FIRST_PIECE, processor.get_piece_size())]
    settings = TokenizerConfig(lower=not cased, n_sentinel_tokens=n_sentinel_tokens)
    write_file(folder / DICTIONARY_NAME, "".join(f"{piece} 1\n" for piece in pieces).encode())
    write_file(folder / FILE_NAME, settings.to_json())
    write_file(folder / MODEL_NAME, model.getvalue())
    return size


def sample_lines(
    patterns: Sequence[str],
    count: int = LINES,
    *,
    format_: str = "auto",
    text_field: str = "text",
    language: str = "en",
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> list[str]:
    """At most `count` lines (sentences) of a corpus, every one equally likely; the same ones each time.

    `watch` is told the bytes read and the bytes in all. Raises BadInputError for bad input unless `skip_bad` is set.
    """
    files = inputs_lib.find_inputs(patterns, format_)
    problems = [Problem(file.path, 0, file.problem) for file in files if file.problem]
    documents = Documents(text_field, language)
    draw = random.Random(seed)
    kept: list[str] = []
    seen = before = 0
    total = sum(file.size for file in files)
    for file in files:
        for chunk in [] if file.problem else inputs_lib.chunks(file, 1 << 20):
            problems += chunk.problems
            for line in (line for document in documents(chunk, problems) for line in document):
                if len(line.encode()) > LONGEST_LINE:
                    continue
                seen += 1
                if len(kept) < count:
                    kept.append(line)
                elif (place := draw.randrange(seen)) < count:
                    kept[place] = line
            if problems and not skip_bad:
                raise BadInputError(f"{problems[0]}; repair it, or leave bad input out with --skip-bad")
            watch(before + chunk.read, total)
        before += file.size
    if problems and not skip_bad:
        raise BadInputError(f"{problems[0]}; repair it, or leave bad input out with --skip-bad")
    if not kept:
        raise BadInputError(f"{', '.join(patterns)}: no lines of text to train on")
    return kept
