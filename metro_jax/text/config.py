"""The settings of a tokenizer, and the two JSON files that hold them in a Hub folder (spec 10.1)."""

import dataclasses
import json
from typing import Any

FILE_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_FILE_NAME = "special_tokens_map.json"

# Whoever loads a saved folder in PyTorch gets the original code, from the repository that holds it.
CODE_REPOSITORY = "gonglinyuan/metro_t0pp_basepp"
AUTO_MAP = {"AutoTokenizer": [f"{CODE_REPOSITORY}--tokenization_fairseq_t5.FairseqT5Tokenizer", None]}

_SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
}


class VocabularyError(ValueError):
    """A vocabulary or tokenizer settings file cannot be used; the message says which file, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Settings of a METRO tokenizer; the defaults are those of every published checkpoint (spec 9.1, 10.1)."""

    lower: bool = True
    n_sentinel_tokens: int = 512
    clean_up_tokenization_spaces: bool = True

    def __post_init__(self) -> None:
        for name in ("lower", "clean_up_tokenization_spaces"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise VocabularyError(f"{name}={value!r} is neither true nor false; set one of the two")
        count = self.n_sentinel_tokens
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise VocabularyError(
                f"n_sentinel_tokens={count!r} is not a count of sentinels; set a whole number from 0 (published: 512)"
            )

    @classmethod
    def from_json(cls, data: bytes, source: str) -> "TokenizerConfig":
        """Read a tokenizer_config.json; absent fields get their defaults, fields of other tools are ignored.

        Raises VocabularyError naming `source` when it is not JSON or a value does not fit.
        """
        try:
            fields = json.loads(data)
        except ValueError as error:  # not UTF-8, or not JSON
            raise VocabularyError(
                f"{source} is not JSON ({error}); repair it, or delete it for the defaults"
            ) from error
        if not isinstance(fields, dict):
            raise VocabularyError(f"{source} holds {fields!r:.60}, not a JSON object; repair or delete it")
        for name, expected in _SPECIAL_TOKENS.items():
            token = fields.get(name, expected)
            token = token.get("content") if isinstance(token, dict) else token
            if token != expected:
                raise VocabularyError(
                    f"{source}: {name} is {token!r}, but METRO's ids are fixed to {expected!r}; "
                    "this folder belongs to another kind of tokenizer"
                )
        known = {field.name: fields[field.name] for field in dataclasses.fields(cls) if field.name in fields}
        try:
            return cls(**known)
        except VocabularyError as error:
            raise VocabularyError(f"{source}: {error}") from None

    def replace(self, **settings: Any) -> "TokenizerConfig":
        """A copy with the settings that are not None changed."""
        return dataclasses.replace(self, **{name: value for name, value in settings.items() if value is not None})

    def to_json(self) -> bytes:
        """A tokenizer_config.json as the published checkpoints carry it."""
        fields: dict[str, Any] = {
            "auto_map": AUTO_MAP,
            **_SPECIAL_TOKENS,
            **dataclasses.asdict(self),
            "model_max_length": int(1e30),  # "no limit", as Transformers writes it
            "tokenizer_class": "FairseqT5Tokenizer",
            "use_fast": False,
        }
        return _json_bytes(fields)

    @staticmethod
    def special_tokens_json() -> bytes:
        """A special_tokens_map.json as the published checkpoints carry it."""
        return _json_bytes(_SPECIAL_TOKENS)


def _json_bytes(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()
