"""Text normalisation before SentencePiece: quotes, dashes, punctuation, contractions, case (spec 9.2)."""

import functools
import re
import string
import unicodedata
from collections.abc import Sequence

#: Typographic characters and their ASCII form. The em dash and the en dash both become a hyphen.
TYPOGRAPHIC = {"‘": "'", "’": "'", "´": "'", "“": '"', "”": '"', "—": "-", "–": "-"}

# One pass per group gives what one pass per word gives: no substitution can make or break the match of another one.
_CONTRACTION = re.compile(r"' ([smdSMDtT]|ll|re|ve)\b")
_CAPITAL_CONTRACTION = re.compile(r"' (LL|RE|VE)\b")

_PUNCTUATION_PLANES = range(0x80, 0x20000)  # Unicode has no punctuation beyond planes 0 and 1; a test looks


@functools.cache
def punctuation() -> str:
    """Every punctuation character: non-alphanumeric printable ASCII and Unicode category P (not symbols such as €)."""
    beyond_ascii = (character for character in map(chr, _PUNCTUATION_PLANES) if _is_category_p(character))
    return string.punctuation + "".join(beyond_ascii)


def _is_category_p(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def _cut(token: str) -> str:
    """One token with blanks between its leading run of punctuation, its core and its trailing run."""
    characters = string.punctuation if token.isascii() else punctuation()
    tail = token.lstrip(characters)
    core = tail.rstrip(characters)
    if not core or len(core) == len(token):  # punctuation only stays whole
        return token
    parts = (token[: len(token) - len(tail)], core, tail[len(core) :])
    return " ".join(part for part in parts if part)


class TokenCache(dict[str, str]):
    """Tokens and their cut form, filled as they are asked for; bounded, because tokens of a corpus are not."""

    MAX_TOKENS = 1 << 16  # about 10 MB
    MAX_LENGTH = 64  # longer tokens hardly come twice

    def __missing__(self, token: str) -> str:
        cut = _cut(token)
        if len(token) <= self.MAX_LENGTH:
            if len(self) >= self.MAX_TOKENS:
                self.clear()
            self[token] = cut
        return cut


# Natural text repeats its tokens, and a look-up costs a tenth of cutting.
token_cache = TokenCache()


def normalize(text: str, lower: bool = True) -> str:
    """The text as SentencePiece is to see it: tokens and punctuation separated by single blanks (spec 9.2).

    With `lower` the result is lower-cased. Raises TypeError when `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {text!r} of type {type(text).__name__}; decode bytes first")
    text = " ".join(map(token_cache.__getitem__, _ascii_quotes(text).split()))
    if "' " in text:
        text = " ".join(_join_contractions(text).split())
    return text.lower() if lower else text


def normalize_tokens(tokens: Sequence[str], lower: bool = True) -> list[str]:
    """What `normalize` makes of each of many different tokens, which hold no whitespace; blanks may be doubled."""
    # Line breaks keep the tokens apart: nothing here crosses one, and none comes into being.
    text = "\n".join(map(_cut, _ascii_quotes("\n".join(tokens)).split("\n")))
    text = _join_contractions(text)
    return (text.lower() if lower else text).split("\n")


def _ascii_quotes(text: str) -> str:
    text = text.replace("``", '"').replace("''", '"')
    if not text.isascii():
        for character, replacement in TYPOGRAPHIC.items():
            text = text.replace(character, replacement)
    return text


def _join_contractions(text: str) -> str:
    """Contractions joined again that were cut; it may leave two blanks in a row."""
    if "' " in text:
        text = _CONTRACTION.sub(r"'\1", text)
        text = _CAPITAL_CONTRACTION.sub(r"'\1 ", text)
    return text
