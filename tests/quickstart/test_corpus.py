"""The corpus is prose, is the same each time, runs nothing that it reads, and can be cleaned of held-out wording."""

import pathlib

import pytest

from metro_jax.quickstart import corpus

MODULE = '''"""The module reads files, and it writes them.

    >>> do_not_keep(this)

A second paragraph stands here. It has two sentences in it.
"""
raise RuntimeError("sources must be parsed, never imported")

def function(a, b):
    """Return the *sum* of ``a`` and ``b`` as a number.

    function(a, b) -> number
    """

class Thing:
    """A thing with a :class:`~collections.deque` inside of it."""
'''


@pytest.fixture
def library(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "b.py").write_text(MODULE)
    (tmp_path / "a.py").write_text('"""The module reads files, and it writes them."""\n')
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "latin.py").write_bytes(b'"""Grave and acute accents like \xe9."""\n')
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text(
        "topics = {'b': 'The second topic comes in last place.', 'a': 'The first topic comes in first place.'}"
    )
    for folder in ("site-packages", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "other.py").write_text('"""This text belongs to somebody else entirely."""\n')
    return tmp_path


def test_documents_are_clean_distinct_sentences_in_order(library: pathlib.Path) -> None:
    assert corpus.build_corpus(library) == [
        corpus.Document("a.py", ("The module reads files, and it writes them.",)),
        corpus.Document(
            "b.py",
            (
                "A second paragraph stands here.",
                "It has two sentences in it.",
                "Return the sum of a and b as a number.",
                "A thing with a deque inside of it.",
            ),
        ),
        corpus.Document("topic a", ("The first topic comes in first place.",)),
        corpus.Document("topic b", ("The second topic comes in last place.",)),
    ]


def test_a_ceiling_on_words_stops_early(library: pathlib.Path) -> None:
    assert corpus.build_corpus(library, words=5) == corpus.build_corpus(library)[:1]
    assert corpus.build_corpus(library, words=10**6) == corpus.build_corpus(library)


def test_library_without_sources_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no Python sources .*python\.org"):
        corpus.build_corpus(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "f(x, *, y=None) -> the value of x and y.",
        "+------+------+ is how a table of things begins.",
        "two words.",
        "This one has no end",
        "x1 = {2: 3, 4: 5, 6: 7} and some 8 9 10 11 12 13.",
    ],
)
def test_code_and_fragments_are_not_prose(text: str) -> None:
    assert corpus.clean_sentences(text) == []


@pytest.fixture(scope="module")
def documents() -> list[corpus.Document]:
    return corpus.build_corpus()


def test_this_python_gives_enough_prose(documents: list[corpus.Document]) -> None:
    size = corpus.measure(documents)
    assert size.words > 100_000
    assert size.sentences == len({sentence for document in documents for sentence in document.sentences})
    assert any(document.source.startswith("topic ") for document in documents)


def test_corpus_is_the_same_each_time(documents: list[corpus.Document]) -> None:
    assert corpus.build_corpus() == documents


def test_decontaminated_corpus_shares_no_trigram(documents: list[corpus.Document]) -> None:
    held_out = documents[len(documents) // 2].sentences[0]
    kept = corpus.decontaminate(documents, [held_out])
    forbidden = corpus.trigrams(held_out)
    assert forbidden
    assert not any(corpus.trigrams(sentence) & forbidden for document in kept for sentence in document.sentences)
    assert 0 < corpus.measure(documents).sentences - corpus.measure(kept).sentences < 500


def test_trigrams_see_through_case_and_punctuation() -> None:
    assert corpus.trigrams("The best, CAST iron!") == {("the", "best", "cast"), ("best", "cast", "iron")}
    assert corpus.trigrams("too short") == set()
