"""English prose that every CPython carries: the language reference's topics and the standard library's docstrings.

Sources are parsed, never imported, so that nothing runs and the order depends on the files alone.
"""

import ast
import dataclasses
import pathlib
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator

# Code of others, tests and machine-written tables: no prose of the standard library in them.
EXCLUDED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "_vendor", "lib-dynload"}
)
MIN_WORDS, MAX_WORDS = 5, 80
MIN_LETTER_SHARE = 0.8  # of the non-blank characters: prose has about 0.95, signatures and tables have less

_ROLE = re.compile(r":[\w:.+-]+:`(?:~[\w.]*\.)?([^`<]*?)\s*(?:<[^`]*>)?`")
_MARKUP = re.compile(r"``?([^`]+)``?(?:_\b|__\b)?|\*{1,2}([^\s*][^*\n]*?)\*{1,2}")
_FOOTNOTE = re.compile(r"\s*\[[\w#]*\]_?")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")
_CODE = re.compile(r">>>|::=|->|[{}|\\<>=]|__|\w\(\)?\w*[,=]|^\s*[.]{2}\s|^[-=~^*+#]{3,}")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s+")


@dataclasses.dataclass(frozen=True)
class Document:
    """One module or one topic: where its prose comes from and its sentences, one string each."""

    source: str
    sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CorpusSize:
    """How much prose there is: documents, sentences, words and characters."""

    documents: int
    sentences: int
    words: int
    characters: int


def clean_sentences(text: str) -> list[str]:
    """Sentences of a docstring or topic: paragraphs joined, markup removed, code, tables and signatures left out."""
    sentences = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [_BULLET.sub("", line).strip() for line in paragraph.splitlines()]
        joined = " ".join(line for line in lines if line)
        joined = _ROLE.sub(r"\1", joined)
        joined = _MARKUP.sub(lambda match: match.group(1) or match.group(2), joined)
        joined = re.sub(r"\s+", " ", _FOOTNOTE.sub("", joined)).strip()
        sentences += [sentence.strip() for sentence in _SENTENCE_END.split(joined) if is_prose(sentence.strip())]
    return sentences


def is_prose(sentence: str) -> bool:
    """Whether a string reads as an English sentence: begins and ends like one, has enough words, holds no code."""
    if not (MIN_WORDS <= sentence.count(" ") + 1 <= MAX_WORDS) or not sentence[0].isupper() or not sentence.isascii():
        return False
    if sentence[-1] not in ".!?" or _CODE.search(sentence):
        return False
    dense = sentence.replace(" ", "")
    return sum(map(str.isalpha, dense)) >= MIN_LETTER_SHARE * len(dense)


def _parse(path: pathlib.Path) -> ast.Module | None:
    """The syntax tree of a source file, or None where this interpreter cannot read it (templates, other encodings)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escape sequences in library sources are not ours to report
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _docstrings(tree: ast.Module) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted(
        (node for node in ast.walk(tree) if isinstance(node, documented)), key=lambda n: getattr(n, "lineno", 0)
    )
    for node in nodes:
        text = ast.get_docstring(node)
        if text:
            yield text


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and text of every topic in the table that `pydoc_data/topics.py` assigns."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            for key, value in ast.literal_eval(node.value).items():
                yield str(key), str(value)


def _raw_documents(root: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        # Folders such as config-3.11-x86_64-linux-gnu differ from machine to machine.
        if EXCLUDED_FOLDERS.intersection(relative.parts) or relative.parts[0].startswith("config-"):
            continue
        tree = _parse(path)
        if tree is None:
            continue
        if relative.as_posix() == "pydoc_data/topics.py":
            yield from ((f"topic {name}", [text]) for name, text in sorted(_topics(tree)))
        else:
            yield relative.as_posix(), list(_docstrings(tree))


def build_corpus(root: pathlib.Path | None = None, words: int | None = None) -> list[Document]:
    """The corpus as documents of distinct sentences, in the order of file names: the same on every run of one Python.

    Args:
      root: folder of the standard library; that of the running interpreter when not given.
      words: stop with the document that reaches so many; None takes all.
    Raises:
      FileNotFoundError: no prose under the folder (an interpreter stripped of its sources).
    """
    root = pathlib.Path(sysconfig.get_path("stdlib")) if root is None else root
    seen: set[str] = set()
    documents, count = [], 0
    for source, texts in _raw_documents(root):
        sentences = []
        for sentence in (sentence for text in texts for sentence in clean_sentences(text)):
            if sentence not in seen:
                seen.add(sentence)
                sentences.append(sentence)
        if sentences:
            documents.append(Document(source, tuple(sentences)))
            count += sum(len(sentence.split()) for sentence in sentences)
        if words is not None and count >= words:
            break
    if not documents:
        raise FileNotFoundError(
            f"{root}: no Python sources with docstrings, which the quickstart reads as its English prose. "
            "Use a Python installed with its standard library as .py files (python.org, pyenv, conda, a distribution's)"
        )
    return documents


def measure(documents: Iterable[Document]) -> CorpusSize:
    """Documents, sentences, words and characters of a corpus."""
    sentences = [document.sentences for document in documents]
    flat = [sentence for group in sentences for sentence in group]
    return CorpusSize(len(sentences), len(flat), sum(len(s.split()) for s in flat), sum(map(len, flat)))


def trigrams(text: str) -> set[tuple[str, ...]]:
    """The word trigrams of a text, lower-cased, punctuation left out."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def decontaminate(documents: Iterable[Document], held_out: Iterable[str]) -> list[Document]:
    """The corpus without the sentences that share a word trigram with a held-out text."""
    forbidden = set().union(*map(trigrams, held_out))
    kept = []
    for document in documents:
        sentences = tuple(sentence for sentence in document.sentences if not trigrams(sentence) & forbidden)
        if sentences:
            kept.append(Document(document.source, sentences))
    return kept
