"""metro_t0_finetune.ipynb: a table learned, shown and written for PyTorch."""

import csv
import json
import pathlib

import numpy as np

import metro_jax
from tests.notebooks.conftest import cell, pictures, printed

LOOK = """{
    "before": before,
    "after": after,
    "losses": losses,
    "held_out": [list(row) for row in held_out],
    "held_out_losses": list(held_out_losses.values()),
    "logits": [logits.tolist(), logits_again.tolist()],
    "ids": ids.tolist(),
    "heavy": [name for name in ("tensorflow", "torch", "seqio", "clu") if name in sys.modules],
}"""
ROWS = [("Say one thing about the cat.", "the cat sat"), ("Say one thing about two dogs.", "two dogs run")] * 8


def test_a_table_is_learned_and_exported(run_notebook, tmp_path: pathlib.Path) -> None:
    """Two prompts, eight times each: the tiny model can learn them, so the rows held out are answered rightly."""
    with open(tmp_path / "table.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("prompt", "answer"), *ROWS])
    notebook, seen = run_notebook(
        "metro_t0_finetune.ipynb", LOOK, TABLE="table.csv", OUTPUT="exported", STEPS=60, BATCH_SIZE=8, LEARNING_RATE=1e-2
    )
    assert seen["heavy"] == []
    assert "12 rows to train on, 4 held out" in printed(cell(notebook, "table"))
    assert all(isinstance(answer, str) for answer in seen["before"] + seen["after"])
    assert np.isfinite(seen["losses"]).all()
    assert len(seen["losses"]) == 60
    assert seen["held_out_losses"][-1] < 0.1 * seen["held_out_losses"][0]
    assert seen["after"] == [answer for _, answer in seen["held_out"]] != seen["before"]
    assert "4 of 4 as wanted" in printed(cell(notebook, "after"))
    assert len(pictures(cell(notebook, "curve"))) == 1
    trained, read_back = np.asarray(seen["logits"])
    np.testing.assert_array_equal(read_back, trained)
    # In this process, which knows the trained model only by its folder.
    model = metro_jax.MetroT0.from_pretrained(tmp_path / "exported")
    np.testing.assert_allclose(model.logits(np.asarray(seen["ids"]), np.asarray([[2]])), trained, atol=1e-4)
    names = {path.name for path in (tmp_path / "exported").iterdir()}
    assert {"config.json", "model.safetensors", "sp.model", "dict.txt", "tokenizer_config.json"} <= names
    assert "AutoModelForSeq2SeqLM" in json.loads((tmp_path / "exported" / "config.json").read_text())["auto_map"]
