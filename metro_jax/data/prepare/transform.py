"""The heart of corpus preparation: a chunk of a file to records of token ids, with counts. Pure: it runs anywhere."""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

from metro_jax.data.prepare import tfrecord
from metro_jax.data.prepare.documents import Documents, valid_lines
from metro_jax.data.prepare.errors import Problem
from metro_jax.data.prepare.inputs import LINES, Chunk
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.word_cache import PackedLines

LONGEST_LINE = 511  # ids that training takes of a line, eos included (spec 4.1)
KEPT_PROBLEMS = 20  # of a chunk, told in full; all are counted


@dataclasses.dataclass
class Result:
    """The framed records of a chunk, counts, and what was wrong; results of several chunks can be added up."""

    records: bytes = b""
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    longest: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Transform:
    """How text becomes records."""

    tokenizer: MetroTokenizer
    documents: Documents

    def __call__(self, chunk: Chunk) -> Result:
        """The records of a chunk."""
        problems = list(chunk.problems)
        if chunk.format == LINES:
            result = self._lines_to_records(valid_lines(chunk, problems))
        else:
            result = self.records(self.documents(chunk, problems))
        result.counts["bad_input"] += len(problems)
        result.problems = sorted(problems, key=lambda problem: problem.line)[:KEPT_PROBLEMS]
        return result

    def records(self, documents: Iterable[list[str]]) -> Result:
        """The framed records of documents, each a list of lines. Documents without a word are dropped and counted."""
        documents = list(documents)
        # A line break inside a line is whitespace like any other.
        text = "\n".join(line.replace("\n", " ") for lines in documents for line in lines)
        last = np.cumsum([len(lines) for lines in documents], dtype=np.int64)
        return _records(self.tokenizer.training_lines(text.encode() + b"\n" * bool(last.size)), last)

    def _lines_to_records(self, text: bytes) -> Result:
        """The same for lines with blank lines between the documents."""
        lines = self.tokenizer.training_lines(text, skip_blank=True)
        words = np.flatnonzero(~lines.blank)
        new = np.flatnonzero(np.diff(words) > 1) + 1  # lines before which there was a blank one
        last = np.append(new, len(words)) if len(words) else new
        return _records(PackedLines(lines.packed, lines.sizes[words], lines.counts[words], lines.blank[words]), last)


def _records(lines: PackedLines, last: np.ndarray) -> Result:
    """The records of documents of these lines; `last` is the line after each. Those without a word are dropped."""
    first = np.append(0, last)[:-1]
    ids_before = np.append(0, np.cumsum(lines.counts))
    ids, length = ids_before[last] - ids_before[first], last - first
    kept = ids > length  # others have nothing but the eos of each line
    result = Result()
    if not kept.all():
        result.counts["empty_documents"] = int(np.count_nonzero(~kept))
    if kept.any():
        result.records = tfrecord.frames(lines.packed, lines.sizes, lines.counts, first[kept], last[kept])
        result.counts.update(
            documents=int(np.count_nonzero(kept)),
            lines=int(length[kept].sum()),
            ids=int(ids[kept].sum()),
            long_lines=int(np.count_nonzero(lines.counts > LONGEST_LINE)),
        )
        result.longest = {"ids": int(ids[kept].max()), "line_lengths": int(length[kept].max())}
    return result
