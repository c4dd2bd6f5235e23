"""The command line: quick help, errors that say what to do, exit statuses."""

import pathlib
import subprocess
import sys

import pytest

from metro_jax import cli
from metro_jax.version import __version__


def _run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metro_jax.cli", *arguments], input=text, capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, contextlib\nfrom metro_jax import cli\n"
        "with contextlib.suppress(SystemExit):\n    cli.main(['--help'])\n"
        "heavy = {'jax', 'tensorflow', 'seqio', 'rich', 'numpy', 'flax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("quickstart", "ask", "rank", "convert", "doctor"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["quickstrat"], "unknown command 'quickstrat'.*did you mean 'quickstart'"),
        ([], "required: COMMAND"),
        (["quickstart", "--setting", "smal"], "'smal' is not known.*did you mean 'small'"),
        (["quickstart", "--seed", "x"], "invalid int value"),
        (["ask", "nowhere", "hello"], "nowhere: there is no such folder.*quickstart"),
        (["ask", "nowhere", "  "], "the text is empty"),
        (["rank", "nowhere", "hello", "yes", ""], "choices .* hold an empty one"),
        (["rank", "nowhere", "hello"], "give a TEXT and its CHOICES"),
    ],
)
def test_user_errors_are_messages(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    try:
        status = cli.main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == cli.USER_ERROR
    said = capsys.readouterr()
    assert re.search(expected, said.err), said.err
    assert "Traceback" not in said.err
    assert not said.out


def test_debug_shows_where_it_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "nowhere", "hello", "--debug"]) == cli.USER_ERROR
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["quickstart", "--out", str(tmp_path)]) == cli.USER_ERROR
    assert "not a quickstart's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.golden
def test_ask_and_rank_a_hub_folder(golden_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(golden_dir / "hub_tiny")
    assert cli.main(["ask", folder, "one question", "another", "--max-new-tokens", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["rank", folder, "one question", "yes", "no"]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line[1:].split()[0]) for line in lines]
    assert [line.split()[-1] for line in lines] == ["yes", "no"]
    assert [line.startswith("*") for line in lines] == [score == max(scores) for score in scores]


def test_doctor_reports_versions_devices_and_extras() -> None:
    done = _run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (
        __version__,
        "Python",
        "memory",
        "devices",
        "programs",
        "models",
        "jax ",
        "sentencepiece ",
        "train",
    ):
        assert expected in done.stdout
