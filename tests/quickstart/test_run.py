"""The whole path in its small setting: interrupted, continued, finished, and not done again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import metro_jax
from metro_jax.quickstart import prompts, training
from metro_jax.quickstart.run import STAGES, QuickstartError, _check
from metro_jax.quickstart.settings import find_settings
from metro_jax.quickstart.templates import ANSWER, TEMPLATES
from metro_jax.training.checkpoints import find_checkpoints

SECONDS = 400  # a crowded machine; an idle one needs a tenth


def _start(folder: pathlib.Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metro_jax.cli", "quickstart", "--setting", "small", "--out", str(folder)]
    environment = {**os.environ, "METRO_JAX_CACHE": str(folder.parent / "compiled")}  # what was compiled once stays so
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _interrupt_at_first_step(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.strip().startswith("step "):
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=SECONDS)
    return process.returncode, "".join(lines) + rest, errors


def _wait(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=SECONDS)
    return process.returncode, output, errors


def test_interrupted_continued_finished(tmp_path: pathlib.Path) -> None:
    """One test, not several over a shared fixture: two test processes would otherwise do all of it twice."""
    folder = tmp_path / "run"

    status, output, errors = _interrupt_at_first_step(_start(folder))
    assert status == 130, errors
    assert f"metro-jax quickstart --setting small --out {folder}" in errors
    assert "Traceback" not in errors
    assert "vocabulary" in output
    assert find_checkpoints(folder / "pretrain")

    status, output, errors = _wait(_start(folder))
    assert status == 0, output + errors
    assert output.count("done before") == 2  # vocabulary and records
    assert "continuing from" in output
    assert "report.png" in output
    for stage in STAGES:
        assert stage.why[:40] in output
    check_losses(folder)
    check_files(folder)

    status, output, errors = _wait(_start(folder))
    assert status == 0, errors
    assert output.count("done before") == len(STAGES)
    assert "step " not in output


def check_losses(folder: pathlib.Path) -> None:
    """They fell, and the interruption left neither gap nor repetition."""
    pretraining = training.read_metrics(folder / "pretrain")
    steps = [entry["step"] for entry in pretraining]
    assert steps == sorted(set(steps))
    for name in ("generator_loss", "rtd_loss", "nll_loss"):
        assert pretraining[-1][name] < pretraining[0][name]
    finetuning = training.read_metrics(folder / "finetune")
    assert finetuning[-1]["loss"] < finetuning[0]["loss"]


def check_files(folder: pathlib.Path) -> None:
    """They are where the table says, and the exported folder scores as the checkpoint that was evaluated."""
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((folder / "evaluation.json").read_text())
    assert {(row["family"], row["template"]) for row in rows} == {
        (family, template.name)
        for family, templates in TEMPLATES.items()
        for template in templates
        if template.held_out
    }
    assert not list(folder.rglob("*.partial"))
    model = metro_jax.MetroT0.from_pretrained(folder / "model")
    examples = prompts.evaluation_examples(find_settings("small").examples_per_template, seed=1)
    rankings = model.rank([e.inputs for e in examples], [list(e.choices) for e in examples])
    hits = [ranking.best == example.answer for example, ranking in zip(examples, rankings, strict=True)]
    assert prompts.accuracies(examples, hits) == rows


def test_a_wrong_answer_or_too_many_mistakes_fail() -> None:
    settings = find_settings("full")
    good = [{"family": "sentiment", "accuracy": 0.95}, {"family": "sentiment", "accuracy": 0.91}]
    _check(settings, good, ANSWER)
    with pytest.raises(QuickstartError, match=r"'negative'.*'positive' is right"):
        _check(settings, good, "negative")
    with pytest.raises(QuickstartError, match=r"82\.5 %.*90 %.*--seed"):
        _check(settings, [*good[:1], {"family": "sentiment", "accuracy": 0.7}], ANSWER)


def test_a_failing_training_shows_its_last_words(tmp_path: pathlib.Path) -> None:
    shown: list[str] = []
    arguments = [sys.executable, "-c", "import sys; print('step 1'); sys.exit('no such thing')"]
    with open(tmp_path / "lock", "w") as lock, pytest.raises(training.TrainingFailedError, match="no such thing"):
        training.run(arguments, tmp_path, tmp_path / "logs" / "log", shown.append, lock.fileno())
    assert shown == ["step 1"]
    assert "no such thing" in (tmp_path / "logs" / "log").read_text()


def test_a_stopped_training_is_asked_to_save(tmp_path: pathlib.Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
        "print('step 1', flush=True)\ntime.sleep(60)"
    )

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    since = time.monotonic()
    with open(tmp_path / "lock", "w") as lock, pytest.raises(KeyboardInterrupt):
        training.run([sys.executable, "-c", script], tmp_path, tmp_path / "log", interrupt, lock.fileno())
    assert time.monotonic() - since < 50
