"""A data folder small enough for tests: a vocabulary, documents to pretrain on, prompted pairs, ranked rows."""

import pathlib
import random
import shutil

from metro_jax.data.folder import write_mixtures
from metro_jax.data.records import write_documents, write_prompted, write_ranked
from metro_jax.text.tokenizer import MetroTokenizer

VOCABULARY = pathlib.Path(__file__).parent.parent / "text" / "data"
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "two",
    "dogs",
    "run",
    "over",
    "hills",
    "to",
    "find",
    "food",
]


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words)) + " ."


def make_data_folder(folder: pathlib.Path) -> pathlib.Path:
    """Writes tasks `corpus` (documents), `prompts` (pairs), `ranks` (ranked rows) and the mixture `both`."""
    shutil.copytree(VOCABULARY, folder / "vocab")
    tokenizer = MetroTokenizer.from_pretrained(folder / "vocab")
    draw = random.Random(0)
    for split, count in (("train", 40), ("validation", 10)):
        documents = [[sentence(draw, 6) for _ in range(4)] for _ in range(count)]
        write_documents(folder, "corpus", split, documents, tokenizer, progress=False)
        pairs = [(sentence(draw, 5), draw.choice(["yes", "no"])) for _ in range(count)]
        for task in ("prompts", "questions"):
            write_prompted(folder, task, split, pairs, tokenizer, progress=False)
        examples = [(sentence(draw, 5), ["yes", "no"], draw.choice(["yes", "no"])) for _ in range(count)]
        write_ranked(folder, "ranks", split, examples, tokenizer, progress=False)
    write_mixtures(folder, {"both": {"tasks": ["prompts", "questions"], "cap": 30}})
    return folder
