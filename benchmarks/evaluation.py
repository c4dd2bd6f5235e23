"""T0 Eval in one program, beside the reference's procedure, in one run on the same weights and examples.

    python benchmarks/evaluation.py --vocab FOLDER

The reference starts one process per template, which loads the model, repeats the input for every choice, and scores
batches of eight padded to their longest. Here a PyTorch model of the same sizes and weights does that (transformers'
BART, with metro_jax's tokenizer, which is faster than the reference's). The other side is `metro-jax eval t0` as users
start it. Both must give the same scores before any time counts.

Scoring is timed in interleaved rounds in one process, task by task; starting and loading in processes of their own.
The time of all examples and templates follows from both.

With --folder everything is kept, and the same command continues where an earlier one stopped: with --minutes the whole
can be measured in pieces, whenever the machine is free.

The examples are made up: random words, with lengths and numbers of choices like those of the 11 tasks (SHAPES; the
datasets' descriptions, not measured on the data). --data takes real ones.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import bounds
import models
import numpy as np
import rounds
from ranked_examples import SHAPES, as_line, read_data, write_data

from metro_jax.data.t0 import catalogue
from metro_jax.inference import MetroT0
from metro_jax.text.tokenizer import MetroTokenizer

AGREE = 1e-2  # of sums of log-probabilities near -10 per token, float32
AGREE_BFLOAT16 = 2.0  # the same where a side has 8 bits; what it does to the answers is counted
EOS = 2
HEADER = (
    f"{'task':12} {'torch':>9} {'metro_jax':>9} examples per second without loading; operations allow; metro_jax is"
)
DTYPES = ("float32", "bfloat16")
KEPT = ("vocab", "shape", "data", "tasks", "examples", "templates", "loads", "rounds", "seed", "dtype", "peer_dtype")
BATCH = 8  # the reference's (spec 8.1)


def load_peer(folder: str, dtype: str) -> Any:
    """The PyTorch model as the reference loads it: float16 on disk, here float32 or bfloat16 in memory."""
    import bart_peer

    torch, transformers = bart_peer.import_peer()
    return transformers.BartForConditionalGeneration.from_pretrained(folder).to(getattr(torch, dtype)).eval()


def peer_process(arguments: argparse.Namespace) -> None:
    """What a process of the reference does, for the first template; says how long the scoring took."""
    model = load_peer(arguments.peer_model, arguments.peer_dtype)
    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab, lower=True)
    data = read_data(arguments.data, 1, arguments.examples)
    start = time.perf_counter()
    peer_task(model, tokenizer, next(iter(data.values())))
    print(time.perf_counter() - start)


def peer_task(model: Any, tokenizer: MetroTokenizer, templates: dict[str, list[Any]]) -> list[list[float]]:
    """Scores of a task, template by template in batches of eight."""
    batches = [own[n : n + BATCH] for own in templates.values() for n in range(0, len(own), BATCH)]
    return [row for batch in batches for row in peer_scores(model, tokenizer, batch)]


def peer_scores(model: Any, tokenizer: MetroTokenizer, batch: list[Any]) -> list[list[float]]:
    """Scores of one batch: the input repeated for every choice, padded to the longest (spec 8.1)."""
    import torch

    count = len(batch[0].choices)
    source = padded(torch, [tokenizer.encode(e.prompt, max_length=512) for e in batch for _ in range(count)])
    target = padded(torch, [tokenizer.encode_choice(choice) for e in batch for choice in e.choices])
    with torch.inference_mode():
        starts = torch.full_like(target[:, :1], EOS)
        inputs = torch.cat([starts, target[:, :-1]], dim=1)
        found = model(input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=inputs)
        tokens = found.logits.float().log_softmax(-1).gather(-1, target[..., None])[..., 0]
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


class Results:
    """What was measured so far, kept in a file: name of a measurement to its seconds.

    Raises:
        SystemExit: the file is of a benchmark with other settings.
    """

    def __init__(self, path: pathlib.Path, arguments: argparse.Namespace) -> None:
        kept = {name: getattr(arguments, name) for name in KEPT}
        self.path, self.end = path, time.monotonic() + 60 * arguments.minutes
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": kept}
        if self.found["settings"] != kept:
            raise SystemExit(f"{path} is of other settings, {self.found['settings']}: name another --folder")

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` gives, or gave in an earlier run."""
        if name not in self.found:
            if time.monotonic() > self.end:
                raise SystemExit(f"--minutes are over before {name}; the same command continues")
            self.found[name] = work()
            self.path.write_text(json.dumps(self.found, indent=1))
        return self.found[name]


def time_loading(arguments: argparse.Namespace, root: pathlib.Path) -> float:
    """Seconds that a process of the reference takes beside scoring: the median of --loads."""
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
    command += ["--data", arguments.data, "--examples", str(BATCH), "--peer-dtype", arguments.peer_dtype]
    beside = []
    for _ in range(arguments.loads):
        wall, said = in_process(command)
        beside.append(wall - float(said.splitlines()[-1]))
    print(f"torch: start and load {', '.join(f'{seconds:.1f}' for seconds in beside)} s", flush=True)
    return float(np.median(beside))


def time_scoring(
    arguments: argparse.Namespace, data: dict[str, Any], root: pathlib.Path, results: Results
) -> dict[str, dict[str, list[float]]]:
    """Task -> side -> seconds of every round, without loading."""
    loaded: list[Any] = []
    found = {}
    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab, lower=True)
    for task, templates in data.items():

        def work(task: str = task, templates: dict[str, list[Any]] = templates) -> dict[str, Any]:
            if not loaded:
                loaded.append(MetroT0.from_pretrained(root / "model", dtype=arguments.dtype))
                loaded.append(load_peer(str(root / "peer"), arguments.peer_dtype))
            return time_task(arguments, task, templates, *loaded)

        measured = results.measure(task, work)
        times = found[task] = measured["seconds"]
        count = sum(map(len, templates.values()))
        torch, ours = (count / statistics.median(times[side]) for side in ("torch", "metro_jax"))
        ratio = rounds.ratio(times["torch"], times["metro_jax"])
        allowed, equal = bound(arguments, tokenizer, templates), measured["equal"]
        reached = f"{ratio} times as fast, {equal:.1%} of answers equal"
        print(f"{task:12} {torch:9.2f} {ours:9.2f}  {allowed:.2f}  {reached}", flush=True)
    return found


def bound(arguments: argparse.Namespace, tokenizer: MetroTokenizer, templates: dict[str, list[Any]]) -> float:
    """How many times as fast a program can be that multiplies as fast as the reference and computes nothing twice."""
    config = models.SHAPES[arguments.shape]().replace(vocab_size=tokenizer.vocab_size)
    reference = least = 0
    for own in templates.values():
        sources = tokenizer.encode_batch([e.prompt for e in own], max_length=512)
        choices = [[tokenizer.encode_choice(choice) for choice in e.choices] for e in own]
        ranked = [bounds.Ranked(*pair) for pair in zip(sources, choices, strict=True)]
        reference += bounds.repeated(config, ranked, BATCH)
        least += bounds.shared(config, ranked)
    return reference / least


def time_task(
    arguments: argparse.Namespace, task: str, templates: dict[str, list[Any]], model: MetroT0, peer: Any
) -> dict[str, Any]:
    """`seconds` of each side in every round, and the share of `equal` answers; a round before compiles and compares."""
    examples = [example for own in templates.values() for example in own]
    texts, choices = [e.prompt for e in examples], [e.choices for e in examples]
    scored: dict[str, Any] = {}

    def torch() -> None:
        scored["torch"] = peer_task(peer, model.tokenizer, templates)

    def ours() -> None:
        scored["metro_jax"] = [ranking.scores for ranking in model.rank(texts, choices, progress=False)]

    times = rounds.interleave({"torch": torch, "metro_jax": ours}, arguments.rounds)
    pairs = list(zip(scored["metro_jax"], scored["torch"], strict=True))
    off = max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
    agree = AGREE if arguments.dtype == arguments.peer_dtype == "float32" else AGREE_BFLOAT16
    if not off <= agree:
        raise SystemExit(f"scores of {task} differ by {off:.2g}: fix that first")
    equal = sum(bool(np.argmax(a) == np.argmax(b)) for a, b in pairs) / len(pairs)
    return {"seconds": times, "equal": equal}


def prepare(arguments: argparse.Namespace, root: pathlib.Path) -> None:
    """The same random weights in both forms, float16 as published, and the examples."""
    import bart_peer

    if (root / "data").exists():  # kept by an earlier run
        return
    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab, lower=True)
    config = models.SHAPES[arguments.shape](padding="hub").replace(vocab_size=tokenizer.vocab_size)
    params = models.random_params(config, arguments.seed)
    params = {name: _half(tree) for name, tree in params.items()}
    MetroT0(config, params, tokenizer).save_pretrained(root / "model", dtype="float16", overwrite=True)
    bart_peer.bart(config, params, "float32").half().save_pretrained(root / "peer")
    if arguments.data is not None:  # the measured part of it, so that both sides read the same
        chosen = read_data(arguments.data, arguments.templates, arguments.examples)
        chosen = {task: own for task, own in chosen.items() if task in (arguments.tasks or chosen)}
        (root / "data").mkdir()
        for task, own in chosen.items():
            lines = [as_line(template, example) for template, examples in own.items() for example in examples]
            (root / "data" / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        pieces = [tokenizer.id_to_piece(n) for n in range(4, tokenizer.vocab_size)]
        words = [piece[1:] for piece in pieces if piece.startswith("▁") and piece[1:].isalpha() and piece[1:].islower()]
        write_data(root / "data", words, arguments)


def _half(tree: Any) -> Any:
    import jax

    return jax.tree.map(lambda p: np.asarray(p, np.float16).astype(np.float32), tree)


def report(
    data: dict[str, Any], times: dict[str, dict[str, list[float]]], load: float, cold: float, warm: float
) -> None:
    """What the measured times mean for the part that was run, and for all templates and examples of its tasks."""
    seconds = {task: {side: statistics.median(values) for side, values in own.items()} for task, own in times.items()}
    processes = sum(map(len, data.values()))
    part = sum(own["torch"] for own in seconds.values()) + processes * load
    print(f"this part with loading: torch {part:.1f} s in {processes} processes")
    print(f"  metro_jax {cold:.1f} s with nothing compiled before: {part / cold:.2f} times as fast")
    print(f"  metro_jax {warm:.1f} s with the programs of an earlier run: {part / warm:.2f} times as fast")
    fixed = max(0.0, cold - sum(own["metro_jax"] for own in seconds.values()))
    rows = {row.name: row for row in catalogue.evaluations()}
    torch, ours = 0.0, fixed
    for task, templates in data.items():
        every = rows[task].examples * len(rows[task].templates) / sum(map(len, templates.values()))
        torch += len(rows[task].templates) * load + every * seconds[task]["torch"]
        ours += every * seconds[task]["metro_jax"]
    print(
        f"all examples of these {len(data)} tasks with loading, from these rates: torch {torch / 3600:.1f} h, "
        f"metro_jax {ours / 3600:.1f} h, {fixed:.0f} s of it start, load and compilation: {torch / ours:.2f} times"
    )


def main() -> None:
    arguments = parse()
    if arguments.side == "peer":
        peer_process(arguments)
        return
    print(rounds.machine("jax", "torch", "transformers"))
    if arguments.folder:
        pathlib.Path(arguments.folder).mkdir(parents=True, exist_ok=True)
        run(arguments, pathlib.Path(arguments.folder))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(arguments, pathlib.Path(folder))


def run(arguments: argparse.Namespace, root: pathlib.Path) -> None:
    """Measures what is not in `root` yet, and reports."""
    results = Results(root / "results.json", arguments)
    os.environ["METRO_JAX_CACHE"] = str(root / "cache")  # empty at first, and not the user's
    prepare(arguments, root)
    arguments.data = str(root / "data")
    data = read_data(arguments.data, arguments.templates, arguments.examples)
    count = sum(len(examples) for own in data.values() for examples in own.values())
    print(f"{arguments.shape}, torch {arguments.peer_dtype}, metro_jax {arguments.dtype}, {count} examples")
    if not arguments.loads:
        print(HEADER)
        time_scoring(arguments, data, root, results)
        return
    load = results.measure("loading", lambda: time_loading(arguments, root))
    command = [sys.executable, "-m", "metro_jax.cli", "eval", "t0", str(root / "model"), "--data", arguments.data]
    command += ["--dtype", arguments.dtype]

    def whole(out: str) -> float:
        shutil.rmtree(root / out, ignore_errors=True)  # of a run that was stopped
        return in_process([*command, "--out", str(root / out)])[0]

    cold, warm = (results.measure(f"whole, {out}", lambda out=out: whole(out)) for out in ("cold", "warm"))
    print(f"metro_jax, the whole command: {cold:.1f} s, and once more {warm:.1f} s", flush=True)
    print(HEADER)
    report(data, time_scoring(arguments, data, root, results), load, cold, warm)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", required=True, metavar="FOLDER", help="sp.model and dict.txt of the shape's size")
    parser.add_argument("--shape", choices=models.SHAPES, default="base_pp", help="sizes (default: %(default)s)")
    parser.add_argument("--data", metavar="FOLDER", help="real examples, as `metro-jax eval t0 --data` takes them")
    parser.add_argument("--tasks", nargs="+", choices=SHAPES, metavar="NAME", help="some of the 11 (default: all)")
    parser.add_argument("--examples", type=int, default=16, help="per template (default: %(default)s)")
    parser.add_argument("--templates", type=int, default=1, help="per task (default: %(default)s)")
    parser.add_argument("--loads", type=int, default=3, help="processes to time loading with; 0: time scoring alone")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of scoring (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of metro_jax (default: %(default)s)")
    parser.add_argument("--peer-dtype", choices=DTYPES, default=DTYPES[0], help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and examples (default: %(default)s)")
    parser.add_argument("--folder", help="where to keep everything, to continue later; default: a temporary one")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no measurement after so many; needs --folder")
    hidden = {"help": argparse.SUPPRESS}
    parser.add_argument("--side", choices=("both", "peer"), default="both", **hidden)
    parser.add_argument("--peer-model", **hidden)
    arguments = parser.parse_args()
    if min(arguments.examples, arguments.templates, arguments.rounds) < 1 or arguments.loads < 0:
        parser.error("--examples, --templates and --rounds must be at least 1, --loads at least 0")
    return arguments


if __name__ == "__main__":
    main()
