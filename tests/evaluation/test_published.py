"""Which published model a checkpoint is compared with."""

import pytest

from metro_jax.evaluation import published


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gonglinyuan/metro_t0pp_basepp", "t0pp_basepp"),
        ("somewhere/metro_t0_base/", "t0_base"),
        ("t0p_largepp", "t0p_largepp"),
        ("quickstart_run/model", None),
        ("my_t0_base_v2", None),
    ],
)
def test_the_name_of_the_model_says_it(model: str, name: str | None) -> None:
    assert published.find(None, model) == name


def test_it_can_be_named() -> None:
    assert published.find("gonglinyuan/metro_t0p_basepp", "x") == "t0p_basepp"
    assert published.find("none", "gonglinyuan/metro_t0pp_basepp") is None
    with pytest.raises(ValueError, match=r"t0pp_baseppp: did you mean 't0pp_basepp'"):
        published.find("t0pp_baseppp", "x")


def test_what_training_has_shown() -> None:
    assert published.seen(None, None) is None
    assert published.seen(None, "t0_largepp") == ()
    assert published.seen(None, "t0p_base") == ("hellaswag", "story_cloze")
    assert len(published.seen("t0pp", "t0_base") or ()) == 5
    with pytest.raises(ValueError, match="--trained-on t1"):
        published.seen("t1", None)
