"""The files of an inference run, named as T5X names them, and how a run finds out what an earlier one has left.

    OUT/inference.json                                  what the folder is of: checkpoint, mode, task, model
    OUT/tmp-TASK-00000-of-00001/...-chunk00000          complete chunks of lines while the run goes on
    OUT/TASK-predict.jsonl-00000-of-00001               all lines; appears when all are there
    OUT/TASK-predict.jsonl-00000-of-00001.COMPLETED     empty; T5X's sign for the same

Every file is written beside its place and renamed, so what is there is complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
from etils import epath

from metro_jax.training.errors import UserError

MANIFEST = "inference.json"
TEXT = "_pretokenized"
MODES = {"predict": "predict_batch", "predict_with_aux": "predict_batch_with_aux", "score": "score_batch"}

Example = Mapping[str, np.ndarray]
Inferences = tuple[Sequence[Any], Mapping[str, Any]]
WriteFn = Callable[[str, Inferences, Sequence[Example], str, seqio.Vocabulary], None]


def write_inferences_to_file(
    path: str,
    inferences: Inferences,
    examples: Sequence[Example],
    mode: str,
    vocabulary: seqio.Vocabulary,
    include_all_inputs: bool = False,
    input_fields_to_include: Sequence[str] | None = None,
    output_ids: bool = False,
) -> None:
    """Writes one JSON line per example: `inputs`, `prediction` or `score`, and `aux` where there are such values.

    `inputs` holds what a task carries beside its token ids: the texts `inputs_pretokenized` and `targets_pretokenized`
    and, for ranked tasks, `idx`, `is_correct` and `weight`. Where a task has no text, it is decoded from the ids.

    Args:
        inferences: outputs, one per example (rows of ids, or scores), and the auxiliary values beside them.
        include_all_inputs: the token ids too.
        input_fields_to_include: these fields only, and their texts.
        output_ids: the predicted ids, up to padding, as `prediction_tokens`.
    """
    if include_all_inputs and input_fields_to_include is not None:
        raise UserError("include_all_inputs and input_fields_to_include exclude each other; set one of them")
    outputs, aux = inferences
    lines = []
    for i, example in enumerate(examples):
        shown = _shown(example, vocabulary)
        if include_all_inputs:
            shown = {**example, **shown}
        elif input_fields_to_include is not None:
            fields = set(input_fields_to_include)
            shown = {k: v for k, v in {**example, **shown}.items() if k in fields or k.removesuffix(TEXT) in fields}
        line: dict[str, Any] = {"inputs": {name: _json(value) for name, value in shown.items()}}
        if mode == "score":
            line["score"] = _json(outputs[i])
        else:
            line["prediction"] = vocabulary.decode([int(token) for token in outputs[i]])
            if output_ids:
                line["prediction_tokens"] = [int(token) for token in outputs[i] if token]
        if aux:
            line["aux"] = jax.tree.map(_json, _row(aux, i))
        lines.append(json.dumps(line) + "\n")
    epath.Path(path).write_text("".join(lines))


def _shown(example: Example, vocabulary: seqio.Vocabulary) -> dict[str, Any]:
    """An example without its sequences of ids, with their texts."""
    ids = [name for name, x in example.items() if f"{name}{TEXT}" in example or name in ("inputs", "targets")]
    texts = {
        f"{name}{TEXT}": vocabulary.decode([int(i) for i in example[name]])
        for name in ids
        if f"{name}{TEXT}" not in example
    }
    return {name: x for name, x in example.items() if name not in ids} | texts


def _row(aux: Any, i: int) -> Any:
    return jax.tree.map(lambda value: value[i], aux, is_leaf=lambda node: isinstance(node, list | np.ndarray))


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    array = np.asarray(value)
    if array.dtype == object:
        return [_json(x) for x in array]
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    return array.tolist()


class Shard:
    """The output of one shard of one task.

    Attributes:
        name: of the final file.
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], task: str, mode: str, shard_id: int, num_shards: int, extension: str
    ) -> None:
        place = f"{shard_id:05}-of-{num_shards:05}"
        self.name = f"{task}-{mode}.{extension}-{place}"
        self.path = epath.Path(output_dir) / self.name
        self._completed = self.path.with_name(f"{self.name}.COMPLETED")
        self._folder = epath.Path(output_dir) / f"tmp-{task}-{place}"

    @property
    def is_complete(self) -> bool:
        """All lines are there."""
        return self.path.exists() or self._completed.exists()

    def chunks(self) -> list[epath.Path]:
        """The complete chunks, in order."""
        found = []
        while (path := self._chunk(len(found))).exists():
            found.append(path)
        return found

    def examples(self) -> int:
        """Lines in the complete chunks."""
        return sum(path.read_bytes().count(b"\n") for path in self.chunks())

    def _chunk(self, number: int) -> epath.Path:
        return self._folder / f"{self.name}-chunk{number:05}"

    def write_chunk(self, number: int, write: Callable[[str], None]) -> None:
        """Has `write` write to a path, then makes it chunk `number`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _atomically(self._chunk(number), lambda path: write(os.fspath(path)))

    def finish(self, merge: bool = True) -> None:
        """Makes the final file of the chunks, or leaves them as they are; removes what is no longer needed."""
        if merge and not self.path.exists():
            _atomically(self.path, self._concatenate)
        self._completed.touch()
        if merge and self._folder.exists():
            self._folder.rmtree()

    def _concatenate(self, path: epath.Path) -> None:
        with path.open("wb") as merged:
            for chunk in self.chunks():
                with chunk.open("rb") as file:
                    shutil.copyfileobj(file, merged)


def _atomically(path: epath.Path, write: Callable[[epath.Path], Any]) -> None:
    temporary = path.with_name(f"{path.name}.writing")
    write(temporary)
    temporary.replace(path)


def checkpoint_identity(path: str | os.PathLike[str]) -> str:
    """A hash of when and how a checkpoint was written: another one in the same place has another."""
    digest = hashlib.sha256()
    for name in ("_CHECKPOINT_METADATA", "checkpoint"):  # Orbax's, and that of T5X's older format
        file = epath.Path(path) / name
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def claim(output_dir: str | os.PathLike[str], content: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    """Writes the manifest, or finds that the one that is there says the same.

    Raises:
        UserError: the folder holds inferences of something else; says what differs.
    """
    folder = epath.Path(output_dir)
    content = json.loads(json.dumps(content))
    try:
        there = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        strange = [shard.name for shard in shards if shard.path.exists()]
        if strange:
            raise UserError(
                f"{folder} holds {strange[0]} but no {MANIFEST}, so nobody knows of what checkpoint; use another "
                "INFER_OUTPUT_DIR, or remove that file"
            ) from None
        folder.mkdir(parents=True, exist_ok=True)
        _atomically(folder / MANIFEST, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))
        return
    names = [name for name in {**there, **content} if there.get(name) != content.get(name)]
    if names:
        lines = [f"  {name}: {there.get(name)!r} there, {content.get(name)!r} asked for" for name in names]
        raise UserError(
            f"{folder} holds inferences of something else:\n" + "\n".join(lines) + "\n"
            "Use another INFER_OUTPUT_DIR, or remove the folder."
        )
