"""`ask` and `rank`: every way to give texts, JSON out, and the prompt."""

import io
import json
import pathlib
import sys

import pytest

import metro_jax
from metro_jax import cli
from metro_jax.inference import command

pytestmark = pytest.mark.golden


@pytest.fixture
def folder(golden_dir: pathlib.Path, model: metro_jax.MetroT0, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of the model that all tests share, so that programs are compiled once."""
    monkeypatch.setattr(command, "load", lambda arguments: model)
    return str(golden_dir / "hub_tiny")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[str]:
    assert cli.main(arguments) == status
    said = capsys.readouterr()
    return (said.err if status else said.out).splitlines()


ASK = ("--max-new-tokens", "3")


def test_texts_from_arguments_file_and_standard_input(
    folder: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(capsys, "ask", folder, "one question", "another", *ASK)
    assert len(expected) == 2
    (tmp_path / "prompts.txt").write_text("one question\n\nanother\n")
    assert run(capsys, "ask", folder, "--file", str(tmp_path / "prompts.txt"), *ASK) == expected
    (tmp_path / "prompts.jsonl").write_text('{"text": "one question", "id": 3}\n{"text": "another"}\n')
    lines = run(capsys, "ask", folder, "--file", str(tmp_path / "prompts.jsonl"), "--json", *ASK)
    assert [json.loads(line)["answer"] for line in lines] == expected
    assert json.loads(lines[0])["text"] == "one question"
    monkeypatch.setattr(sys, "stdin", io.StringIO("one question\nanother\n"))
    assert run(capsys, "ask", folder, *ASK) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("one question"))
    assert run(capsys, "ask", folder, "-", *ASK) == expected[:1]


def test_rank_from_a_file(folder: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"text": "one question", "choices": ["yes", "no"]}\n{"text": "another", "choices": ["a", "b", "c"]}\n'
    )
    found = [json.loads(line) for line in run(capsys, "rank", folder, "--file", str(path), "--json")]
    assert [len(line["scores"]) for line in found] == [2, 3]
    single = json.loads(run(capsys, "rank", folder, "one question", "yes", "no", "--json")[0])
    assert single["best"] == found[0]["best"]
    assert single["scores"] == pytest.approx(found[0]["scores"], abs=1e-4)
    assert len(run(capsys, "rank", folder, "--file", str(path))) == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"text": "fine", "choices": ["x"]}\n{nothing', ["line 2", "no JSON"]),
        ('{"text": "fine"}', ["line 1", "'choices'"]),
        ('{"text": " ", "choices": ["x"]}', ["line 1", "not empty"]),
        ('{"text": "fine", "choices": "yes"}', ["choices 'yes'"]),
        ("\n", ["holds no text"]),
    ],
)
def test_a_bad_file_is_refused_by_line(
    folder: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, text: str, words: list[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    said = " ".join(run(capsys, "rank", folder, "--file", str(tmp_path / "bad.jsonl"), status=cli.USER_ERROR))
    for word in words:
        assert word in said


def test_the_prompt(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: metro_jax.MetroT0
) -> None:
    lines = ["one question", "/beams x", "/nothing", "", KeyboardInterrupt, "one \\", "question", "/choices yes | no"]
    given = iter([*lines, "one question", "/choices", "/help", EOFError])

    def typed(prompt: str) -> str:
        line = next(given)
        if isinstance(line, str):
            return line
        raise line

    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("builtins.input", typed)
    assert cli.main(["ask", folder, *ASK]) == 0
    said = capsys.readouterr()
    assert model.generate(["one question"], max_new_tokens=3)[0] in said.out
    assert "ranking yes | no" in said.out
    assert sum(line.endswith(("yes", "no")) and line[0] in "* " for line in said.out.splitlines()) >= 2
    assert "Ctrl-D" in said.out
    assert "/beams x" in said.err
    assert "/nothing is not known" in said.err
