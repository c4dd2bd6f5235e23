"""The closing tables say what happened and the picture is written."""

import io
import pathlib

from rich.console import Console

from metro_jax.quickstart import prompts, report

PRETRAINING = [
    {"step": 10, "generator_loss": 9.5, "rtd_loss": 1.0, "nll_loss": 9.25},
    {"step": 20, "generator_loss": 8.5, "rtd_loss": 0.5, "nll_loss": 8.125},
]
FINETUNING = [{"step": 10, "loss": 7.0}, {"step": 20, "loss": 0.75}]


def _rows() -> list:
    examples = prompts.evaluation_examples(6, seed=0)
    return prompts.accuracies(examples, [index % 3 == 0 for index in range(len(examples))])


def test_rows_have_accuracy_and_chance_of_every_template() -> None:
    examples = prompts.evaluation_examples(6, seed=0)
    rows = prompts.accuracies(examples, [example.family == "topic" for example in examples])
    assert {row["accuracy"] for row in rows if row["family"] == "topic"} == {1.0}
    assert {row["accuracy"] for row in rows if row["family"] != "topic"} == {0.0}
    assert {row["chance"] for row in rows if row["family"] == "completion"} == {0.5}
    assert {row["examples"] for row in rows} == {6}
    assert prompts.mean_accuracy(rows, "topic") == 1.0


def test_tables_name_losses_families_templates_and_files(tmp_path: pathlib.Path) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    rows = _rows()
    report.show(
        console,
        report.losses_table(PRETRAINING, FINETUNING),
        report.accuracy_table(rows),
        report.files_table(tmp_path, {"model/": "the model"}),
    )
    text = console.export_text()
    for expected in ("generator", "9.500", "8.500", "0.500", "8.125", "7.000", "0.750", "family held out", "model/"):
        assert expected in text
    assert all(row["template"] in text for row in rows)


def test_picture_is_written_and_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "report.png"
    path.write_text("old")
    report.plot(path, PRETRAINING, FINETUNING, _rows())
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["report.png"]
