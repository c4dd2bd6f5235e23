import math

import pytest

from metro_jax.decoding import bucket_batch, bucket_length


@pytest.mark.parametrize("maximum", [1, 7, 16, 100, 512, 1000, 1024])
def test_length_buckets_hold_and_waste_little(maximum):
    buckets = [bucket_length(n, maximum=maximum) for n in range(1, maximum + 1)]
    assert all(n <= bucket <= maximum for n, bucket in enumerate(buckets, 1))
    assert buckets == sorted(buckets)
    # A bucket is at most 3/2 of the one below, so less than half of the tokens of an input is added as padding.
    assert all(bucket < 1.5 * n for n, bucket in enumerate(buckets, 1) if n > 16)
    assert len(set(buckets)) <= 2 * math.log2(max(maximum, 2))


def test_buckets_are_fixed_points():
    assert {bucket_length(bucket_length(n)) - bucket_length(n) for n in range(1, 1025)} == {0}
    assert {bucket_batch(bucket_batch(n)) - bucket_batch(n) for n in range(1, 1025)} == {0}


def test_batch_buckets():
    assert [bucket_batch(n) for n in (1, 2, 3, 4, 5, 7, 9, 13, 1000, 1024)] == [1, 2, 3, 4, 6, 8, 12, 16, 1024, 1024]
    assert all(n <= bucket_batch(n) < 1.5 * n for n in range(1, 1025))


def test_own_buckets():
    assert [bucket_length(n, [64, 8]) for n in (1, 8, 9, 64)] == [8, 8, 64, 64]
    assert bucket_length(20, [8, 32, 64], maximum=40) == 32
    with pytest.raises(ValueError, match=r"33 tokens fits none of the buckets \[8, 32, 64\] \(limit 40\)"):
        bucket_length(33, [64, 8, 32], maximum=40)
    with pytest.raises(ValueError, match="fits none"):
        bucket_length(1, [])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bucket_length(1025), "1025 tokens is longer than the limit of 1024 .* truncate"),
        (lambda: bucket_length(50, maximum=49), "50 tokens is longer than the limit of 49"),
        (lambda: bucket_length(0), "length=0"),
        (lambda: bucket_batch(0), "batch=0"),
        (lambda: bucket_batch(5000), "5000 rows is more than the limit of 1024: split"),
    ],
)
def test_errors_say_value_limit_and_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
