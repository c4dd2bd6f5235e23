"""Scoring: every example that a result folder lacks, in batches across templates and tasks."""

import sys
from collections.abc import Sequence
from typing import Any

from metro_jax.evaluation.examples import Example
from metro_jax.evaluation.progress import Progress
from metro_jax.evaluation.results import Folder, Shard

MANY = 5000  # prompts whose encoding takes so long, a second or more, that it is announced


def score(
    model: Any,
    folder: Folder,
    examples: Sequence[Example],
    shard: Shard,
    *,
    max_source: int,
    max_choice: int,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> int:
    """Scores what this process's share still lacks; returns how many examples that were.

    All templates and tasks go into the same batches, by length, each input encoded once for all its choices.
    """
    todo = [example for example in shard.part(examples) if example.key not in folder.scores]
    if not todo:
        return 0
    texts, choices = [example.prompt for example in todo], [example.choices for example in todo]
    limits = {"max_source": max_source, "max_choice": max_choice}
    batches = model.rank_batches(texts, choices, **limits, batch_size=batch_size, progress=False)
    if progress is not False and len(todo) >= MANY:
        print(f"encoding {len(todo)} prompts", file=sys.stderr)
    with folder.writer(shard) as writer, Progress(todo, len(shard.part(examples)) - len(todo), progress) as bar:
        for batch in batches:
            done = [(todo[n], ranking.scores, ranking.best) for n, ranking in batch]
            writer.write(done)
            bar.advance([example for example, _, _ in done])
    return len(todo)
