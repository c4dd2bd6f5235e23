"""Settings are found by name; the small one is the full one's path."""

import pytest

from metro_jax.quickstart.settings import SETTINGS, find_settings


def test_the_full_setting_asks_for_ninety_percent() -> None:
    assert find_settings("full").required_review_accuracy == 0.9
    assert find_settings("small").required_review_accuracy is None
    assert all(settings.vocab_size % 128 == 0 for settings in SETTINGS.values())


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'smal' is not known.*did you mean 'small'"):
        find_settings("smal")
