"""T0 Eval in one program, beside the reference's procedure, in one run on the same weights and examples.

    python benchmarks/evaluation.py --vocab FOLDER

The reference starts one process per template, which loads the model, repeats the input for every choice, and scores
batches of eight padded to their longest. Here a PyTorch model of the same sizes and weights does that (transformers'
BART, with metro_jax's tokenizer, which is faster than the reference's). The other side is `metro-jax eval t0` as users
start it. Both must give the same scores before any time counts.

The examples are made up: random words, with lengths and numbers of choices like those of the 11 tasks (SHAPES; the
datasets' descriptions, not measured on the data). --data takes real ones. A part of the set is measured, the same on
both sides, and the time of the whole set follows from its templates and examples.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import models
import numpy as np
import rounds

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import t0_data
from metro_jax.inference import MetroT0
from metro_jax.text.tokenizer import MetroTokenizer

AGREE = 1e-2  # of sums of log-probabilities near -10 per token, float32
EOS = 2
BATCH = 8  # the reference's (spec 8.1)
#: Task -> words of the prompt, their spread, words of a choice; None where all examples have the same short choices.
SHAPES: dict[str, tuple[int, int, int | None]] = {
    "rte": (85, 40, None), "cb": (90, 50, None), "anli_r1": (95, 20, None), "anli_r2": (95, 20, None),
    "anli_r3": (100, 30, None), "wsc": (45, 20, None), "winogrande": (45, 6, 2), "copa": (35, 6, 6),
    "story_cloze": (75, 12, 8), "hellaswag": (110, 45, 22), "wic": (40, 8, None),
}  # fmt: skip
LABELS = (("Yes", "No"), ("True", "Neither", "False"))


def write_data(folder: pathlib.Path, words: list[str], examples: int, templates: int, seed: int) -> None:
    """JSON lines of `templates` templates of every task."""
    folder.mkdir()
    for row in catalogue.evaluations():
        mean, spread, choice = SHAPES[row.name]
        rng = random.Random(f"{seed} {row.name}")
        lines = []
        for template in row.templates[:templates]:
            for index in range(examples):
                count = max(8, round(rng.gauss(mean, spread)))
                choices = list(LABELS[row.choices - 2]) if choice is None else endings(rng, words, choice, row.choices)
                text = " ".join(rng.choices(words, k=count))
                lines.append(
                    {"template": template, "index": index, "input": text, "choices": choices, "target": choices[0]}
                )
        (folder / f"{row.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def endings(rng: random.Random, words: list[str], length: int, count: int) -> list[str]:
    """Choices that differ in every example."""
    return [" ".join(rng.choices(words, k=max(1, round(rng.gauss(length, length / 4))))) for _ in range(count)]


def read_data(folder: str, templates: int, examples: int) -> dict[str, dict[str, list[Any]]]:
    """Task -> template -> examples, of the first templates."""
    found: dict[str, dict[str, list[Any]]] = {}
    data = t0_data.read(pathlib.Path(folder), t0_data.wanted(), examples)
    for (task, template), entry in data.found.items():
        own = found.setdefault(task, {})
        if len(own) < templates and entry.examples:
            own[template] = entry.examples
    return found


def peer(arguments: argparse.Namespace) -> None:
    """The reference's procedure in a process of its own; prints times and scores."""
    start = time.perf_counter()
    import bart_peer

    torch, transformers = bart_peer.import_peer()
    model = transformers.BartForConditionalGeneration.from_pretrained(arguments.peer_model).float().eval()
    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab, lower=True)
    data = read_data(arguments.data, arguments.templates, arguments.examples)
    said: dict[str, Any] = {"load": time.perf_counter() - start, "seconds": {}, "scores": {}}
    for task in [arguments.task] if arguments.task else data:
        start = time.perf_counter()
        batches = [own[n : n + BATCH] for own in data[task].values() for n in range(0, len(own), BATCH)]
        said["scores"][task] = [row for batch in batches for row in peer_scores(torch, model, tokenizer, batch)]
        said["seconds"][task] = time.perf_counter() - start
    print(json.dumps(said))


def peer_scores(torch: Any, model: Any, tokenizer: MetroTokenizer, batch: list[Any]) -> list[list[float]]:
    """Scores of one batch: the input repeated for every choice, padded to the longest (spec 8.1)."""
    count = len(batch[0].choices)
    source = padded(torch, [tokenizer.encode(e.prompt, max_length=512) for e in batch for _ in range(count)])
    target = padded(torch, [tokenizer.encode_choice(choice) for e in batch for choice in e.choices])
    with torch.inference_mode():
        starts = torch.full_like(target[:, :1], EOS)
        inputs = torch.cat([starts, target[:, :-1]], dim=1)
        found = model(input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=inputs)
        tokens = found.logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
        return torch.where(target != 0, tokens, 0.0).sum(-1).reshape(len(batch), count).tolist()


def padded(torch: Any, rows: list[list[int]]) -> Any:
    """Rows padded to the longest of them."""
    made = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for n, row in enumerate(rows):
        made[n, : len(row)] = row
    return torch.from_numpy(made)


def in_process(command: list[str]) -> tuple[float, str]:
    """Seconds that a command takes from its start to its end, and what it says."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a measured process failed:\n{done.stderr}")
    return time.perf_counter() - start, done.stdout


def measure_peer(
    arguments: argparse.Namespace, data: dict[str, Any], root: pathlib.Path
) -> tuple[dict[str, Any], float]:
    """Times and scores of all tasks, and the seconds that a process takes beside scoring: the median of --loads."""
    command = [
        sys.executable,
        __file__,
        "--side",
        "peer",
        "--peer-model",
        str(root / "peer"),
        "--vocab",
        arguments.vocab,
    ]
    command += ["--data", arguments.data, "--examples", str(arguments.examples)]
    beside = []
    for _ in range(arguments.loads):
        wall, said = in_process([*command, "--task", next(iter(data))])
        beside.append(wall - sum(json.loads(said.splitlines()[-1])["seconds"].values()))
    print(f"peer: start and load {', '.join(f'{seconds:.1f}' for seconds in beside)} s", flush=True)
    _, said = in_process([*command, "--templates", str(arguments.templates)])
    return json.loads(said.splitlines()[-1]), float(np.median(beside))


def measure_ours(model: MetroT0, data: dict[str, Any], count: int) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Seconds per task without loading, the median of `count` rounds after one that compiles, and the scores."""
    seconds, scores = {}, {}
    for task, templates in data.items():
        examples = [example for own in templates.values() for example in own]
        texts, choices = [e.prompt for e in examples], [e.choices for e in examples]
        times = []
        for _ in range(count + 1):
            start = time.perf_counter()
            scores[task] = [ranking.scores for ranking in model.rank(texts, choices, progress=False)]
            times.append(time.perf_counter() - start)
        seconds[task] = float(np.median(times[1:]))
        print(f"ours  {task:12} {seconds[task]:6.1f} s", flush=True)
    return seconds, scores


def prepare(arguments: argparse.Namespace, root: pathlib.Path) -> None:
    """The same random weights in both forms, float16 as published, and the examples."""
    import bart_peer

    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab, lower=True)
    config = models.SHAPES[arguments.shape](padding="hub").replace(vocab_size=tokenizer.vocab_size)
    params = models.random_params(config, arguments.seed)
    params = {name: _half(tree) for name, tree in params.items()}
    MetroT0(config, params, tokenizer).save_pretrained(root / "model", dtype="float16")
    bart_peer.bart(config, params, "float32").half().save_pretrained(root / "peer")
    if arguments.data is not None:  # the measured part of it, so that both sides read the same
        chosen = read_data(arguments.data, arguments.templates, arguments.examples)
        (root / "data").mkdir()
        for task, own in chosen.items():
            lines = [as_line(template, example) for template, examples in own.items() for example in examples]
            (root / "data" / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        pieces = [tokenizer.id_to_piece(n) for n in range(4, tokenizer.vocab_size)]
        words = [piece[1:] for piece in pieces if piece.startswith("▁") and piece[1:].isalpha() and piece[1:].islower()]
        write_data(root / "data", words, arguments.examples, arguments.templates, arguments.seed)


def as_line(template: str, example: Any) -> dict[str, Any]:
    """An example as a line of JSON."""
    texts = {"input": example.prompt, "choices": list(example.choices), "target": example.choices[example.target]}
    return {"template": template, "index": example.index, **texts}


def _half(tree: Any) -> Any:
    import jax

    return jax.tree.map(lambda p: np.asarray(p, np.float16).astype(np.float32), tree)


def report(
    data: dict[str, Any], theirs: dict[str, float], load: float, ours: dict[str, float], cold: float, warm: float
) -> None:
    """Examples per second, per task and for the whole set."""
    print(f"\n{'task':12} {'torch':>9} {'metro_jax':>9}  examples per second, without loading")
    rows = {row.name: row for row in catalogue.evaluations()}
    fixed = max(0.0, cold - sum(ours.values()))
    totals = [0.0, fixed]
    for task, templates in data.items():
        count = sum(map(len, templates.values()))
        slow, fast = theirs[task] / count, ours[task] / count
        print(f"{task:12} {1 / slow:9.2f} {1 / fast:9.2f}  metro_jax is {slow / fast:.2f} times as fast")
        totals[0] += len(rows[task].templates) * (load + rows[task].examples * slow)
        totals[1] += len(rows[task].templates) * rows[task].examples * fast
    processes = sum(map(len, data.values()))
    part = sum(theirs.values()) + processes * load
    print(
        f"this part with loading: torch {part:.1f} s in {processes} processes that take {load:.1f} s to start and load;"
    )
    print(f"  metro_jax {cold:.1f} s with nothing compiled before: {part / cold:.2f} times as fast")
    print(f"  metro_jax {warm:.1f} s with the programs of an earlier run: {part / warm:.2f} times as fast")
    print(
        f"all examples of these tasks with loading, from these rates: torch {totals[0] / 3600:.1f} h, metro_jax "
        f"{totals[1] / 3600:.1f} h, {fixed:.1f} s of it start, load and compilation: {totals[0] / totals[1]:.2f} times"
    )


def main() -> None:
    arguments = parse()
    if arguments.side == "peer":
        peer(arguments)
        return
    print(rounds.machine("jax", "torch", "transformers"))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        os.environ["METRO_JAX_CACHE"] = str(root / "cache")  # empty at first, and not the user's
        prepare(arguments, root)
        arguments.data = str(root / "data")
        data = read_data(arguments.data, arguments.templates, arguments.examples)
        for task in set(data) - set(arguments.tasks or data):
            (root / "data" / f"{task}.jsonl").unlink()
        data = {task: own for task, own in data.items() if task in (arguments.tasks or data)}
        print(f"{arguments.shape}, float32, {sum(len(e) for own in data.values() for e in own.values())} examples")
        theirs, load = measure_peer(arguments, data, root)
        command = [sys.executable, "-m", "metro_jax.cli", "eval", "t0", str(root / "model"), "--data", arguments.data]
        cold, _ = in_process([*command, "--out", str(root / "out")])
        warm, _ = in_process([*command, "--out", str(root / "again")])
        ours, scores = measure_ours(MetroT0.from_pretrained(root / "model"), data, arguments.rounds)
        for task, rows in scores.items():
            pairs = zip(rows, theirs["scores"][task], strict=True)
            off = max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
            if not off <= AGREE:
                raise SystemExit(f"scores of {task} differ by {off:.2g}: fix that first")
        print(f"all scores equal to {AGREE:g}")
        report(data, theirs["seconds"], load, ours, cold, warm)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", required=True, metavar="FOLDER", help="sp.model and dict.txt of the shape's size")
    parser.add_argument("--shape", choices=models.SHAPES, default="base_pp", help="sizes (default: %(default)s)")
    parser.add_argument("--data", metavar="FOLDER", help="real examples, as `metro-jax eval t0 --data` takes them")
    parser.add_argument("--tasks", nargs="+", choices=SHAPES, metavar="NAME", help="some of the 11 (default: all)")
    parser.add_argument("--examples", type=int, default=16, help="per template (default: %(default)s)")
    parser.add_argument("--templates", type=int, default=1, help="per task (default: %(default)s)")
    parser.add_argument("--loads", type=int, default=3, help="processes to time loading with (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of ours (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and examples (default: %(default)s)")
    hidden = {"help": argparse.SUPPRESS}
    parser.add_argument("--side", choices=("both", "peer"), default="both", **hidden)
    for name in ("--peer-model", "--task"):
        parser.add_argument(name, **hidden)
    arguments = parser.parse_args()
    if min(arguments.examples, arguments.templates, arguments.rounds, arguments.loads) < 1:
        parser.error("--examples, --templates, --rounds and --loads must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
