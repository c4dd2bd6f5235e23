"""`metro-jax eval` from end to end on the tiny model, and its messages."""

import json
import pathlib
import re

import pytest

from metro_jax import cli
from tests.evaluation import mmlu_files, t0_files


@pytest.fixture(scope="module")
def tiny(golden_dir: pathlib.Path) -> str:
    return str(golden_dir / "hub_tiny")


def t0(tiny: str, data: pathlib.Path, out: pathlib.Path, *more: str) -> list[str]:
    return ["eval", "t0", tiny, "--data", str(data), "--out", str(out), "--tasks", "rte", "--limit", "3", *more]


def test_t0_scores_reports_and_goes_on(
    tiny: str, data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = t0(tiny, data, tmp_path, "--published", "t0pp_basepp")
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert "30 examples in" in said.err
    assert re.search(r"rte~ .* 77\.80", said.out)
    names = {"results.json", "tasks.csv", "templates.csv", "report.md", "templates.pdf", "templates.png", "run.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    before = json.loads((tmp_path / "results.json").read_text())
    assert cli.main(command) == 0
    assert "scored already" in capsys.readouterr().err
    assert json.loads((tmp_path / "results.json").read_text()) == before
    # Another task in the same folder: what is there stays in the report, and so does what it is compared with.
    assert cli.main([*t0(tiny, data, tmp_path), "--tasks", "cb", "--templates", "can we infer"]) == 0
    after = json.loads((tmp_path / "results.json").read_text())
    tasks = {row["task"]: row for row in after["tasks"]}
    assert after["published"] == "t0pp_basepp"
    assert (tasks["rte"]["templates_done"], tasks["cb"]["templates_done"]) == (10, 1)
    assert cli.main(["eval", "report", str(tmp_path), "--published", "t0_base"]) == 0
    assert "published: t0_base" in capsys.readouterr().out


def test_other_data_and_other_models_are_refused(
    tiny: str, data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = t0(tiny, data, tmp_path / "out", "--templates", "must be true")
    assert cli.main(command) == 0
    scores = (tmp_path / "out" / "scores" / "1-of-1.jsonl").read_bytes()
    t0_files.write(tmp_path / "changed", "jsonl", 3, ["rte"])
    path = tmp_path / "changed" / "rte.jsonl"
    path.write_text(path.read_text().replace("?", "!"))
    capsys.readouterr()
    assert cli.main([*command, "--data", str(tmp_path / "changed")]) == 2
    assert "results of other data" in capsys.readouterr().err
    assert cli.main([*command, "--dtype", "bfloat16"]) == 2
    assert "model dtype was 'float32' and is 'bfloat16'" in capsys.readouterr().err
    assert (tmp_path / "out" / "scores" / "1-of-1.jsonl").read_bytes() == scores


def test_shards_write_one_report(
    tiny: str, data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = t0(tiny, data, tmp_path, "--templates", "must be true", "can we infer")
    assert cli.main([*command, "--shard", "1/2"]) == 0
    assert "3 of 6 examples are left to the others" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()
    assert cli.main([*command, "--shard", "2/2"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["examples"] == {"scored": 6, "of": 6}


def test_check_says_what_is_there_and_where_to_get_the_rest(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t0_files.write(tmp_path, "jsonl", 100, ["copa"])
    t0_files.write(tmp_path, "jsonl", 5, ["rte"])
    (tmp_path / "super_glue_cb_can_we_infer.jsonl").write_text('{"input": "a"}\n')
    command = ["eval", "t0", "--check", "--data", str(tmp_path)]
    assert cli.main([*command, "--tasks", "copa"]) == 0
    assert cli.main(command) == 1
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "│copa │ complete │ 8 │ 100 │ 100 │ 0 │ JSON lines│",
        "│rte │ incomplete │ 10 │ 5 │ 277 │",
        "│story_cloze │ missing │ 0 of 5 │ 0 │ 1871 │",
        "story_cloze: not in P3; its authors give it out for a form: https://",
        "hellaswag: metro-jax data t0 --p3",
        "cb, template 'can we infer': 1 left out, broken record",
        "1 of 11 tasks are complete",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "required: WHAT"),
        (["t0"], "MODEL and --data and --out must be given"),
        (
            ["t0", "x", "--data", "{data}", "--out", "o", "--tasks", "rtee"],
            "'rtee' is not one of T0 Eval: did you mean 'rte'",
        ),
        (["t0", "x", "--data", "nowhere", "--out", "o"], "nowhere: there is no such folder.*--download"),
        (["t0", "x", "--data", "{data}", "--out", "o", "--published", "t1"], "--published t1"),
        (["t0", "x", "--data", "{data}", "--out", "o", "--limit", "0"], "--limit 0"),
        (["t0", "x", "--data", "{data}", "--out", "o", "--shard", "3/2"], "--shard 3/2.*such as 1/4"),
        (
            ["t0", "x", "--data", "{data}", "--out", "o", "--process_count", "2"],
            "--coordinator_address, --process_index",
        ),
        (["t0", "nowhere", "--data", "{data}", "--out", "o"], "nowhere: there is no such folder"),
        (["mmlu", "x", "--data", "{data}", "--out", "o"], "no validation split of MMLU"),
        (["mmlu", "x", "--data", "{data}", "--out", "o", "--protocol", "tset"], "did you mean 'test'"),
        (["mmlu", "x", "--data", "{data}", "--out", "o", "--protocol", "test", "--passages"], "--passages belongs to"),
        (["report", "nowhere"], "no result folder"),
        (["compare", "nowhere"], "at least two"),
    ],
)
def test_mistakes_are_messages(
    arguments: list[str], expected: str, data: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main(["eval", *(argument.format(data=data) for argument in arguments)])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert re.search(expected, capsys.readouterr().err)


def test_strict_stops_before_scoring(tiny: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    t0_files.write(tmp_path, "jsonl", 3, ["rte"])
    with (tmp_path / "rte.jsonl").open("a") as stream:
        stream.write('{"template": "must be true", "input": "a", "choices": ["x"], "target": "x"}\n')
    assert cli.main(t0(tiny, tmp_path, tmp_path / "out", "--strict")) == 2
    assert "--strict: 1 examples would be left out; the first: rte, must be true, fewer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mmlu_from_questions_to_report(tiny: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    mmlu_files.write(tmp_path / "data", "csv", 2, 3)
    command = ["eval", "mmlu", tiny, "--data", str(tmp_path / "data")]
    assert cli.main([*command, "--out", str(tmp_path / "metro"), "--subjects", "jurisprudence"]) == 0
    assert "2 of 1531" in capsys.readouterr().out
    few = ["--subjects", "jurisprudence", "--limit", "1"]
    assert cli.main([*command, "--out", str(tmp_path / "five"), "--protocol", "five-shot", *few]) == 0
    found = json.loads((tmp_path / "five" / "results.json").read_text())
    assert found["examples"] == {"scored": 1, "of": 1}
    assert (found["protocol"]["split"], found["protocol"]["shots"]) == ("test", 5)
    assert sum(found["shots"].values()) == 1
    assert cli.main([*command, "--out", str(tmp_path / "metro"), "--protocol", "test"]) == 2
    assert "protocol name was 'metro' and is 'test'" in capsys.readouterr().err
    names = {"results.json", "subjects.csv", "report.md", "subjects.pdf", "subjects.png"}
    assert names <= {path.name for path in (tmp_path / "five").iterdir()}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_missing_is_rendered(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("promptsource", reason="promptsource is no dependency of this project; with it this test runs")
    original = tmp_path / "originals" / "story_cloze" / "2016" / "validation.jsonl"
    original.parent.mkdir(parents=True)
    row = {f"input_sentence_{n}": f"Sentence {n}." for n in range(1, 5)}
    row |= {"sentence_quiz1": "It ends well.", "sentence_quiz2": "It ends badly.", "answer_right_ending": 2}
    original.write_text(json.dumps(row) + "\n")
    command = ["eval", "t0", "--check", "--data", str(tmp_path / "p3"), "--render", str(tmp_path / "originals")]
    assert cli.main([*command, "--tasks", "story_cloze", "rte"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "│story_cloze │ incomplete │ 5 │ 1 │ 1871 │ 0 │ parquet│" in said
    assert "rte, template 'MNLI crowdsource': not in P3, and its original is not at" in said
