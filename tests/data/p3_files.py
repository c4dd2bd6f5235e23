"""A few tasks of bigscience/P3 in the true formats, with made-up text, in either layout.

python -m tests.data.p3_files FOLDER [--layout parquet|tfrecord] [--examples 40]
"""

import argparse
import json
import pathlib
import random

import pyarrow
import pyarrow.parquet
import tensorflow as tf

WORDS = "station helps dog simple bridge teacher friend passage plays positive man bottle blue finds".split()  # noqa: SIM905
YES_NO = ["Yes", "No"]
#: Task -> (its splits, its answer choices); the names are those of P3.
TASKS = {
    "glue_mrpc_equivalent": (("train", "validation", "test"), ["not equivalent", "equivalent"]),
    "imdb_Movie_Expressed_Sentiment": (("train", "test"), ["negative", "positive"]),
    "samsum_Summarize_": (("train", "validation"), None),
    "super_glue_rte_can_we_infer": (("train", "validation", "test"), YES_NO),
}
RANKED = {
    "super_glue_rte_must_be_true_score_eval": (("validation",), YES_NO),
    "anli_MNLI_crowdsource_r1_score_eval": (("validation",), ["Correct", "Inconclusive", "Incorrect"]),
}


def sentence(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, longest)))


def rows(task: str, split: str, examples: int) -> list[dict]:
    """The columns of every row of a split, as P3 has them."""
    rng = random.Random(f"{task} {split}")
    found = []
    choices = (TASKS | RANKED)[task][1]
    for number in range(examples):
        source = f"{sentence(rng, 60)}\n\n{sentence(rng, 12)}?"
        target = rng.choice(choices) if choices else sentence(rng, 8)
        row = {
            "inputs": [5] * 3,
            "targets": [6, 1],
            "inputs_pretokenized": source,
            "targets_pretokenized": f"\n{target}",
        }
        if task in RANKED:
            for index, choice in enumerate(choices):
                labels = {"idx": [number, index], "is_correct": choice == target, "weight": 1.0}
                found.append(row | {"targets_pretokenized": choice} | labels)
            continue
        if split == "test" and task.startswith(("glue", "super_glue")):
            row["targets_pretokenized"] = "<NO LABEL>"
        found.append(row | ({"answer_choices": choices} if choices else {}))
    return found


def serialized(row: dict) -> bytes:
    """A row as seqio wrote it: int32 and bool as int64."""
    example = tf.train.Example()
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        feature = example.features.feature[name]
        if isinstance(values[0], str):
            feature.bytes_list.value.extend(text.encode() for text in values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(int(number) for number in values)
    return example.SerializeToString()


def write_split(folder: pathlib.Path, layout: str, task: str, split: str, columns: list[dict]) -> None:
    """One split in the layout "tfrecord" (one shard, info and stats beside it) or "parquet" (two shards)."""
    where = folder / "data" / task if layout == "tfrecord" else folder / task
    where.mkdir(parents=True, exist_ok=True)
    if layout == "tfrecord":
        with tf.io.TFRecordWriter(str(where / f"{split}.tfrecord-00000-of-00001")) as writer:
            for row in columns:
                writer.write(serialized(row))
        kinds = {name: "int32" if isinstance(value, list) else "string" for name, value in columns[0].items()}
        features = {name: {"shape": [None], "dtype": kind} for name, kind in kinds.items()}
        (where / f"info.{split}.json").write_text(json.dumps({"num_shards": 1, "features": features}))
        (where / f"stats.{split}.json").write_text(json.dumps({"examples": len(columns)}))
        return
    middle = (len(columns) + 1) // 2
    for index, part in enumerate((columns[:middle], columns[middle:])):
        path = where / f"{split}-{index:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), path)


def write(folder: pathlib.Path, layout: str = "parquet", examples: int = 40) -> None:
    """All tasks."""
    for task, (splits, _) in (TASKS | RANKED).items():
        for split in splits:
            write_split(folder, layout, task, split, rows(task, split, examples))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layout", choices=("parquet", "tfrecord"), default="parquet")
    parser.add_argument("--examples", type=int, default=40)
    arguments = parser.parse_args()
    write(arguments.folder, arguments.layout, arguments.examples)
