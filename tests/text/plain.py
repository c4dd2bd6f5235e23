"""Spec 9 read aloud: a slow tokenizer, character by character and text by text, that the fast one is compared with."""

import pathlib
import re
import unicodedata

import sentencepiece

SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}


def is_punctuation(character: str) -> bool:
    code = ord(character)
    if 32 < code < 127:
        return not ("0" <= character <= "9" or "a" <= character <= "z" or "A" <= character <= "Z")
    return unicodedata.category(character)[0] == "P"


def normalize(text: str, lower: bool) -> str:
    """Spec 9.2, step by step."""
    text = text.strip()
    text = text.replace("``", '"')
    text = text.replace("''", '"')
    table = {"‘": "'", "’": "'", "´": "'", "“": '"', "”": '"', "—": "-", "–": "-"}
    text = "".join(table.get(character, character) for character in text)
    tokens = []
    for token in text.split():
        if len(token) > 1 and not all(is_punctuation(character) for character in token):
            start, end = 0, len(token)
            while is_punctuation(token[start]):
                start += 1
            while is_punctuation(token[end - 1]):
                end -= 1
            tokens += [part for part in (token[:start], token[start:end], token[end:]) if part != ""]
        else:
            tokens.append(token)
    text = " ".join(tokens)
    for letter in ("s", "m", "d", "S", "M", "D", "t", "T"):
        text = re.sub("' " + letter + r"\b", "'" + letter, text)
    for word in ("ll", "re", "ve"):
        text = re.sub("' " + word + r"\b", "'" + word, text)
    for word in ("LL", "RE", "VE"):
        text = re.sub("' " + word + r"\b", "'" + word + " ", text)
    text = " ".join(text.split())
    return text.lower() if lower else text


class Tokenizer:
    """Spec 9.1, 9.3 and 9.4, ids in metro_jax numbering."""

    def __init__(self, folder: pathlib.Path, lower: bool, n_sentinel_tokens: int) -> None:
        self.lower = lower
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model"))
        self.names = list(SPECIAL)
        with open(folder / "dict.txt", encoding="utf-8") as file:
            for line in file:
                line = line.rstrip()
                self.names.append(line[: line.rindex(" ")])
        self.names += ["<sen%03d>" % number for number in range(n_sentinel_tokens)]  # noqa: UP031
        self.numbers = {name: number for number, name in enumerate(self.names)}

    def pieces(self, text: str) -> list[str]:
        found: list[str] = []
        rest, after_special = text, False
        while True:
            places = [(rest.find(name), name) for name in SPECIAL if name in rest]
            place, name = min(places, default=(len(rest), ""))
            before = rest[:place]
            before = before.lstrip() if after_special else before
            before = before.rstrip() if name else before
            if before:
                found += " ".join(self.model.encode(normalize(before, self.lower), out_type=str)).split(" ")
            if not name:
                return found
            found.append(name)
            rest, after_special = rest[place + len(name) :], True

    def encode(self, text: str) -> list[int]:
        return [1] + [self.numbers.get(piece, 3) for piece in self.pieces(text)] + [2]

    def training_ids(self, text: str) -> list[int]:
        pieces = " ".join(self.model.encode(normalize(text, self.lower), out_type=str)).split()
        return [1] + [self.numbers.get(piece, 3) for piece in pieces] + [2]

    def decode(self, ids: list[int], skip_special_tokens: bool, clean_up: bool) -> str:
        kept = [self.names[number] for number in ids if number > 3 or not skip_special_tokens]
        text = "".join(kept).replace("▁", " ").strip()
        if clean_up:
            text = text.replace(" .", ".").replace(" ?", "?").replace(" !", "!").replace(" ,", ",").replace(" ' ", "'")
            text = text.replace(" n't", "n't").replace(" 'm", "'m").replace(" 's", "'s").replace(" 've", "'ve")
            text = text.replace(" 're", "'re")
        return text
