"""A vocabulary of the published shape in small: SentencePiece unigram model, dictionary, tokenizer settings."""

import io
import os
import pathlib
from collections.abc import Iterable

import sentencepiece

from metro_jax.text.config import TokenizerConfig
from metro_jax.text.normalizer import normalize

MASK_PIECE = "[MASK]"  # id 4 of the published vocabularies, which no lower-cased text can produce (spec 9.1)
FIRST_PIECE = 4  # ids before it: <s>, <pad>, </s>, <unk> in the numbering of the dictionary


def train_vocabulary(lines: Iterable[str], folder: pathlib.Path, size: int, n_sentinel_tokens: int) -> int:
    """Write sp.model, dict.txt and tokenizer_config.json to `folder`; the same bytes for the same lines.

    Args:
      lines: text in a fixed order; it is normalised as the tokenizer does before it looks for pieces (spec 9.2).
      size: entries of the whole vocabulary, with specials and sentinels; a multiple of 128 suits every accelerator.
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
            sentence_iterator=iter([normalize(line) for line in lines]),
            model_writer=model,
            model_type="unigram",
            normalization_rule_name="nmt_nfkc_cf",
            vocab_size=size - n_sentinel_tokens,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            user_defined_symbols=[MASK_PIECE],
            num_threads=1,  # with more, the order of floating-point sums and so the pieces may change
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece could not train a vocabulary of {size - n_sentinel_tokens} pieces ({error}); "
            "use a smaller size or more text"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(index) for index in range(FIRST_PIECE, processor.get_piece_size())]
    settings = TokenizerConfig(n_sentinel_tokens=n_sentinel_tokens)
    write(folder / "dict.txt", "".join(f"{piece} 1\n" for piece in pieces).encode())
    write(folder / "tokenizer_config.json", settings.to_json())
    write(folder / "sp.model", model.getvalue())
    return size


def write(path: pathlib.Path, content: bytes) -> None:
    """Write a file as a whole: a reader finds the old content or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
