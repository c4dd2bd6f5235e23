import pytest

from metro_jax.decoding import Beam, Greedy, Sample


def test_options_are_hashable_values():
    assert len({Greedy(), Greedy(), Beam(), Beam(num_beams=4), Sample(), Sample(top_p=0.5)}) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Beam(num_beams=0), "num_beams=0 must be a whole number of at least 1"),
        (lambda: Beam(num_beams=2.5), "num_beams=2.5"),
        (lambda: Beam(num_beams=True), "num_beams=True"),
        (lambda: Beam(num_beams=2, num_return_sequences=3), "num_return_sequences=3 is more than num_beams=2"),
        (lambda: Beam(length_penalty=float("nan")), "length_penalty=nan"),
        (lambda: Beam(early_stopping="never"), "early_stopping='never' must be True or False"),
        (lambda: Beam(length_rule="4.35"), "did you mean '4.36'"),
        (lambda: Sample(temperature=0.0), r"decode with Greedy\(\)"),
        (lambda: Sample(temperature=float("inf")), "temperature=inf"),
        (lambda: Sample(top_k=-1), "top_k=-1"),
        (lambda: Sample(top_p=0.0), "top_p=0.0 is a probability above 0"),
        (lambda: Sample(top_p=1.5), "top_p=1.5"),
    ],
)
def test_bad_values_say_what_and_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()
