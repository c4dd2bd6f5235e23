"""Settings of a tokenizer: reading, defaults, the Hub's form, unusable files."""

import dataclasses
import json

import pytest

from metro_jax.text.config import TokenizerConfig, VocabularyError


def test_absent_fields_get_the_published_values():
    assert TokenizerConfig.from_json(b"{}", "file") == TokenizerConfig(True, 512, True)


def test_write_then_read():
    config = TokenizerConfig(lower=False, n_sentinel_tokens=3, clean_up_tokenization_spaces=False)
    assert TokenizerConfig.from_json(config.to_json(), "file") == config


def test_replace_leaves_what_is_none():
    assert TokenizerConfig().replace(lower=False, n_sentinel_tokens=None) == TokenizerConfig(lower=False)


def test_special_tokens_may_be_written_as_objects():
    data = json.dumps({"bos_token": {"content": "<s>", "lstrip": False}, "n_sentinel_tokens": 4}).encode()
    assert TokenizerConfig.from_json(data, "file").n_sentinel_tokens == 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"lower": "yes"}', "lower='yes'"),
        (b'{"clean_up_tokenization_spaces": null}', "clean_up_tokenization_spaces=None"),
        (b'{"n_sentinel_tokens": -1}', "n_sentinel_tokens=-1"),
        (b'{"n_sentinel_tokens": true}', "n_sentinel_tokens=True"),
        (b'{"n_sentinel_tokens": 1.5}', "n_sentinel_tokens=1.5"),
        (b'{"eos_token": "[SEP]"}', "eos_token is '\\[SEP\\]'"),
    ],
)
def test_unusable_settings_say_where_and_why(data, reason):
    with pytest.raises(VocabularyError, match=rf"^some/tokenizer_config.json.*{reason}.*; "):
        TokenizerConfig.from_json(data, "some/tokenizer_config.json")


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TokenizerConfig().lower = False  # type: ignore[misc]


@pytest.mark.golden
def test_written_as_the_reference_has_it(golden_dir):
    folder = golden_dir / "hub_tiny"
    config = TokenizerConfig.from_json((folder / "tokenizer_config.json").read_bytes(), "file")
    written, reference = json.loads(config.to_json()), json.loads((folder / "tokenizer_config.json").read_bytes())
    # The folder brings no code: its place is named across repositories.
    (code, none), (name, _) = (fields.pop("auto_map")["AutoTokenizer"] for fields in (written, reference))
    assert (code, none) == (f"gonglinyuan/metro_t0pp_basepp--{name.split('--')[-1]}", None)
    assert written == reference
    assert json.loads(config.special_tokens_json()) == json.loads((folder / "special_tokens_map.json").read_bytes())
