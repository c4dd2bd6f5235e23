"""The table and the JSON of a plan."""

import dataclasses
import json

import pytest

from metro_jax.training.plan import report
from metro_jax.training.plan.steps import TooLargeError
from metro_jax.training.plan.topology import GIB


def test_the_table_says_memory_work_traffic_and_time(plan):
    text = report.as_text(plan)
    for part in (
        "data=2 fsdp=2 model=1, 2 microbatches",
        "activations and temporaries      4.75 GiB",
        "30.75 GiB   fits: 26% used",
        "3.000e+15 per step of 1,048,576 tokens, 2.861e+09 per token; 33% more are computed again",
        "all-gather           over fsdp",
        "no measurement",
        "days for 125,000 steps",
        report.ASSUMPTIONS,
    ):
        assert part in text


def test_json_is_complete_and_adds_up(plan, tmp_path):
    report.write_json(plan, str(tmp_path / "plan.json"))
    data = json.loads((tmp_path / "plan.json").read_text())
    memory = data["memory"]
    assert memory["peak"] == sum(memory[k] for k in ("parameters", "optimizer", "batch", "activations and temporaries"))
    assert data["fits"] is True
    assert data["model_flops_per_token"] * data["tokens_per_step"] == pytest.approx(3e15)
    assert sum(c["sent_bytes_per_step"] for c in data["collectives"]) == pytest.approx(
        sum(c.sent_per_step for c in plan.collectives), abs=3
    )
    best, worst = data["estimate"]["step_seconds"]
    assert data["estimate"]["days"] == pytest.approx([125_000 * best / 86400, 125_000 * worst / 86400])
    assert data["estimate"]["assumptions"] == report.ASSUMPTIONS


def test_a_step_that_is_too_large_says_by_how_much(too_large):
    assert not too_large.fits
    text = report.as_text(too_large)
    assert "needs 21.50 GiB per device, 5.75 GiB more than the 15.75 there are" in text
    assert report.as_json(too_large)["memory"]["peak"] == 21.5 * GIB


def test_an_error_without_numbers_is_shown():
    error = TooLargeError("RESOURCE_EXHAUSTED: out of memory")
    assert (error.used, error.limit) == (None, None)


def test_low_effort_is_marked(plan):
    text = report.as_text(dataclasses.replace(plan, level="O0", estimate=None))
    assert "at O0, which shows neither traffic nor time as they are" in text
    assert "roofline" not in text
