"""The reference's data steps, draw by draw."""

import json

import numpy as np
import pytest

from metro_jax.data import reference


@pytest.fixture(scope="module")
def masking(golden_dir):
    return json.loads((golden_dir / "masking.json").read_text())


@pytest.fixture(scope="module")
def pipeline(golden_dir):
    return json.loads((golden_dir / "pipeline.json").read_text())


@pytest.mark.golden
def test_crops(pipeline):
    for case in pipeline["random_crop"]["cases"]:
        random = np.random.RandomState(reference.sample_seed(case["seed"], case["epoch"], case["index"]))
        assert reference.crop_start(case["length"], case["limit"], random) == case["start"]
        assert min(case["length"], case["limit"]) == case["kept"]


@pytest.mark.golden
def test_blocks(pipeline):
    for case in pipeline["complete_doc"]:
        blocks = reference.complete_doc_blocks(case["line_sizes"], case["block_size"])
        assert [list(block) for block in blocks] == case["blocks"], case["name"]


@pytest.mark.golden
def test_masks(masking):
    settings = masking["mlm"]["exact"]["settings"]
    for case in masking["mlm"]["exact"]["cases"]:
        assert reference.sample_seed(case["seed"], case["epoch"], case["index"]) == case["numpy_seed"]
        drawn = reference.mask_draws(
            len(case["item"]),
            settings["mask_prob"],
            settings["leave_unmasked_prob"],
            settings["random_token_prob"],
            settings["vocab_size"],
            np.random.RandomState(case["numpy_seed"]),
        )
        inputs, targets = reference.apply_masks(np.array(case["item"]), drawn, settings["mask_symbol_id"], pad=1)
        assert inputs.tolist() == case["masked_input"]
        assert targets.tolist() == case["target"]


@pytest.mark.golden
def test_spans(masking):
    for case in masking["t5"]["generate_masks_exact"]:
        masked, empties = reference.span_draws(
            case["length"],
            case["mask_prob"],
            case["empty_prob"],
            case["mask_multiple_length"],
            np.random.RandomState(case["numpy_seed"]),
        )
        assert np.flatnonzero(masked).tolist() == case["masked_positions"]
        assert empties.tolist() == (case["empty_positions"] or [])
    for case in masking["t5"]["cases"]:
        inputs, targets = reference.apply_spans(
            case["item"],
            case["mask"],
            case["empty_positions"] or [],
            masking["t5"]["sentinel_begin"],
            case["max_positions"],
        )
        assert (inputs, targets) == (case["inputs"], case["targets"]), case["name"]


@pytest.mark.golden
def test_truncation_and_padded_lengths(pipeline):
    for case in pipeline["truncate"]:
        assert reference.truncate([0, *case["raw"]], case["limit"], eos=2) == case["source"]
        assert reference.truncate(case["raw"], case["limit"], eos=2) == case["target"]
    for length, padded in pipeline["pad_to_multiple_of_8"].items():
        assert reference.round_up(int(length)) == padded
