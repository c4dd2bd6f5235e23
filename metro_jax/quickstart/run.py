"""METRO-T0's whole life on embedded data, stage by stage: what `make quickstart` and `metro-jax quickstart` do."""

import dataclasses
import functools
import json
import os
import pathlib
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from metro_jax.quickstart import corpus, prompts, report, training
from metro_jax.quickstart.settings import Settings
from metro_jax.quickstart.stages import StageFolder, fingerprint, write_text
from metro_jax.quickstart.templates import ANSWER, QUESTION, QUESTION_REVIEW
from metro_jax.version import __version__

if TYPE_CHECKING:
    from metro_jax.inference import MetroT0

VALIDATION_EVERY = 20  # one document, and one prompt, in so many is kept for validation losses
RECIPES = {"pretrain": "recipes/quickstart_pretrain.gin", "finetune": "recipes/quickstart_finetune.gin"}
FILES = {
    "model/": "the finetuned model as a Hub-format folder: metro_jax.MetroT0.from_pretrained reads it",
    "report.png": "loss curves and accuracies as a picture",
    "evaluation.json": "accuracy per family and template",
    "data/": "vocabulary and prepared records",
    "pretrain/, finetune/": "checkpoints, metrics.jsonl and the gin configuration of the two runs",
    "logs/": "everything that the training processes said",
}


class QuickstartError(RuntimeError):
    """The quickstart went through, but its result is not what it should be."""


@dataclasses.dataclass
class Run:
    """One quickstart: its settings, its folder and where it talks to."""

    settings: Settings
    folder: pathlib.Path
    seed: int
    console: Console
    lock: int = -1  # file descriptor; training processes hold it too

    @property
    def data(self) -> pathlib.Path:
        """The data folder of both training stages."""
        return self.folder / "data"

    def say(self, text: str) -> None:
        """One line of progress."""
        self.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

    @functools.cached_property
    def model(self) -> "MetroT0":
        """The finetuned model, from its checkpoint."""
        from metro_jax.quickstart.checkpoint import load_checkpoint

        return load_checkpoint(self.folder / "finetune", self.data / "vocab")

    def documents(self) -> list[corpus.Document]:
        """The corpus without the wording of the closing question's review."""
        return corpus.decontaminate(corpus.build_corpus(words=self.settings.corpus_words), [QUESTION_REVIEW])


@dataclasses.dataclass(frozen=True)
class Stage:
    """A name, what happens and why in a sentence, what it writes, and the function that does it."""

    name: str
    why: str
    outputs: tuple[str, ...]
    work: Callable[[Run], dict[str, Any]]


def _vocabulary(run: Run) -> dict[str, Any]:
    from metro_jax.data.prepare.vocabulary import train_vocabulary

    documents = run.documents()
    size = corpus.measure(documents)
    examples = prompts.training_examples(run.settings.prompts_per_template, run.seed)
    run.say(f"prose: {size.words:,} words in {size.sentences:,} sentences of {size.documents:,} documents")
    run.say(f"prompts: {len(examples):,} training examples, of which every eighth helps to choose the pieces")
    lines = [sentence for document in documents for sentence in document.sentences]
    lines += [f"{example.inputs} {example.target}" for example in examples[::8]]
    s = run.settings
    train_vocabulary(lines, run.data / "vocab", s.vocab_size, s.n_sentinel_tokens)
    run.say(f"{s.vocab_size:,} entries, {s.n_sentinel_tokens} of them sentinels")
    return {"words": size.words, "sentences": size.sentences, "documents": size.documents, "prompts": len(examples)}


def _records(run: Run) -> dict[str, Any]:
    from metro_jax.data.records import write_documents, write_prompted
    from metro_jax.text.tokenizer import MetroTokenizer

    tokenizer = MetroTokenizer.from_pretrained(run.data / "vocab")
    documents = [document.sentences for document in run.documents()]
    pairs = [(e.inputs, e.target) for e in prompts.training_examples(run.settings.prompts_per_template, run.seed)]
    leaked = prompts.leaks([*(text for pair in pairs for text in pair), *(s for d in documents for s in d)])
    if leaked:
        raise QuickstartError(f"training text contains wording of the closing question: {sorted(leaked)}")
    held, kept = documents[::VALIDATION_EVERY], [d for i, d in enumerate(documents) if i % VALIDATION_EVERY]
    info = write_documents(run.data, "corpus", "train", kept, tokenizer, progress=False)
    write_documents(run.data, "corpus", "validation", held, tokenizer, progress=False)
    held, kept = pairs[::VALIDATION_EVERY], [p for i, p in enumerate(pairs) if i % VALIDATION_EVERY]
    prompted = write_prompted(run.data, "prompts", "train", kept, tokenizer, progress=False)
    write_prompted(run.data, "prompts", "validation", held, tokenizer, progress=False)
    run.say(f"{info['totals']['ids']:,} tokens of prose, {prompted['examples']:,} prompted examples")
    return {"tokens": info["totals"]["ids"], "examples": prompted["examples"]}


def _train(run: Run, name: str, extra: tuple[str, ...], **bindings: str) -> dict[str, Any]:
    settings = dict(binding.split("=", 1) for binding in extra)
    required = {
        "MODEL_DIR": json.dumps(str(run.folder / name)),
        "RANDOM_SEED": str(run.seed),
        "MetroConfig.vocab_size": str(run.settings.vocab_size),
    }
    arguments = training.command(RECIPES[name], {**required, **bindings, **settings})
    run.say(f"$ {training.as_typed(arguments, run.data)}")
    training.run(arguments, run.data, run.folder / "logs" / f"{name}.log", run.say, run.lock)
    return {"steps": training.read_metrics(run.folder / name)[-1]["step"]}


def _pretrain(run: Run) -> dict[str, Any]:
    return _train(run, "pretrain", run.settings.pretrain)


def _finetune(run: Run) -> dict[str, Any]:
    start = json.dumps(str(run.folder / "pretrain"))
    return _train(run, "finetune", run.settings.finetune, INITIAL_CHECKPOINT_PATH=start)


def _evaluate(run: Run) -> dict[str, Any]:
    examples = prompts.evaluation_examples(run.settings.examples_per_template, run.seed)
    rankings = run.model.rank([e.inputs for e in examples], [list(e.choices) for e in examples])
    hits = [ranking.best == example.answer for example, ranking in zip(examples, rankings, strict=True)]
    rows = prompts.accuracies(examples, hits)
    write_text(run.folder / "evaluation.json", json.dumps(rows, indent=2) + "\n")
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        run.say(
            f"{family:20}{100 * prompts.mean_accuracy(rows, family):5.1f} % over {len(own)} templates "
            f"(chance {100 * own[0]['chance']:.1f} %)"
        )
    return {"rows": rows}


def _export(run: Run) -> dict[str, Any]:
    run.model.save_pretrained(run.folder / "model", overwrite=True)
    run.say(f"{run.folder / 'model'}: {', '.join(sorted(path.name for path in (run.folder / 'model').iterdir()))}")
    return {}


STAGES = (
    Stage(
        "vocabulary",
        "A vocabulary is trained on this Python's own prose and on the prompts, because a model reads pieces of words.",
        ("data/vocab",),
        _vocabulary,
    ),
    Stage(
        "records",
        "All text becomes token ids once, so that training only reads, masks and batches.",
        ("data/corpus", "data/prompts"),
        _records,
    ),
    Stage(
        "pretrain",
        "A small generator fills masked places with plausible words; the model learns to spot and to correct them.",
        ("pretrain",),
        _pretrain,
    ),
    Stage(
        "finetune",
        "The pretrained model learns to follow prompts of many tasks, so that it can answer prompts it never saw.",
        ("finetune",),
        _finetune,
    ),
    Stage(
        "evaluate",
        "The model ranks the choices of prompts in held-out templates and of a held-out family: zero-shot, as T0 is.",
        ("evaluation.json",),
        _evaluate,
    ),
    Stage(
        "export",
        "The model is written as a Hub-format folder, the form in which the published models come.",
        ("model",),
        _export,
    ),
)


def quickstart(settings: Settings, folder: pathlib.Path, seed: int = 1, console: Console | None = None) -> str:
    """Runs or continues a quickstart and returns the model's answer to the closing question.

    Raises:
      QuickstartError: the answer or the accuracy on held-out reviews is not what the setting requires.
      FileExistsError, FolderInUseError: the folder is not for us.
      TrainingFailedError: a training stage ended with an error.
    """
    console = Console() if console is None else console
    run = Run(settings, pathlib.Path(folder).absolute(), seed, console)
    stages = StageFolder(run.folder)
    stages.prepare()
    started = time.monotonic()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings are not part of the story
    with stages.lock() as run.lock, _terminable() as stopped:
        results, mark = {}, fingerprint(__version__, platform.python_version(), dataclasses.asdict(settings), seed)
        for number, stage in enumerate(STAGES, 1):
            _title(console, number, stage.name, stage.why)
            mark = fingerprint(mark, stage.name, _recipe_text(stage.name))
            result = stages.begin(stage.name, mark, stage.outputs)
            if result is not None:
                run.say("done before; its results are used")
            else:
                since = time.monotonic()
                result = stage.work(run)
                stages.end(stage.name, mark, result)
                if stopped:
                    raise KeyboardInterrupt
                run.say(f"took {time.monotonic() - since:.0f} s")
            results[stage.name] = result
        answer = _close(run, results, started)
    _check(settings, results["evaluate"]["rows"], answer)
    return answer


def _title(console: Console, number: int, name: str, why: str) -> None:
    console.print(f"\n[bold]\\[{number}/{len(STAGES) + 1}] {name}[/bold]", highlight=False)
    console.print(f"  {why}", highlight=False)


def _recipe_text(stage: str) -> str:
    """The recipe of a training stage: who changes it wants it run again."""
    if stage not in RECIPES:
        return ""
    import metro_jax.gin_configs  # pyright: ignore[reportMissingImports]

    return (pathlib.Path(next(iter(metro_jax.gin_configs.__path__))) / RECIPES[stage]).read_text(encoding="utf-8")


def _close(run: Run, results: dict[str, Any], started: float) -> str:
    """Tables, picture and the question."""
    import metro_jax

    pretraining, finetuning = (training.read_metrics(run.folder / name) for name in RECIPES)
    rows = results["evaluate"]["rows"]
    report.plot(run.folder / "report.png", pretraining, finetuning, rows)
    report.show(
        run.console,
        report.losses_table(pretraining, finetuning),
        report.accuracy_table(rows),
        report.files_table(run.folder, FILES),
    )
    why = "The folder is read back and asked the question of the model card; that review was in no training text."
    _title(run.console, len(STAGES) + 1, "answer", why)
    model = metro_jax.MetroT0.from_pretrained(run.folder / "model")
    answer = model.generate([QUESTION], max_new_tokens=16)[0]
    run.say(QUESTION)
    run.console.print(f"  [bold green]{answer}[/bold green]", highlight=False)
    run.say(f"{time.monotonic() - started:.0f} s in all")
    run.say(f"Ask more: metro-jax ask {run.folder / 'model'} QUESTION")
    return answer


def _check(settings: Settings, rows: list[dict[str, Any]], answer: str) -> None:
    required = settings.required_review_accuracy
    if required is None:
        return
    reached = prompts.mean_accuracy(rows, "sentiment")
    if answer != ANSWER:
        raise QuickstartError(f"the answer is {answer!r}, but {ANSWER!r} is right; try another --seed in another --out")
    if reached < required:
        raise QuickstartError(
            f"{100 * reached:.1f} % of the held-out reviews were classified rightly, fewer than the "
            f"{100 * required:.0f} % that this setting should reach; try another --seed in another --out"
        )


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """While inside, being asked to end (SIGTERM) is the same as Ctrl-C: training saves, a new start continues.

    Gives a list that then is not empty: Python drops an exception that is raised inside a destructor or a callback of
    the garbage collector, so stages look there as well.
    """
    received: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, where signals do not arrive anyway
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
