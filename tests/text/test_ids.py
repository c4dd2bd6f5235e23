"""Special ids and the exchange with Hub numbering."""

import numpy as np
import pytest

from metro_jax.text.ids import BOS, EOS, PAD, UNK, swap_ids


def test_the_hubs_special_ids_become_ours():
    assert swap_ids([0, 1, 2, 3]) == [BOS, PAD, EOS, UNK]


@pytest.mark.parametrize("ids", [0, 1, 7, -100, [], [0, 1, 2, -100], [[1, 0], [5]], (0, 1)])
def test_swapping_twice_changes_nothing_and_keeps_the_type(ids):
    assert swap_ids(swap_ids(ids)) == ids
    assert type(swap_ids(ids)) is type(ids)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.int8])
def test_arrays_swap_like_lists(dtype):
    rows = [[0, 1, 2], [3, 1, 100]]
    swapped = swap_ids(np.array(rows, dtype))
    assert swapped.tolist() == swap_ids(rows)
    assert swapped.dtype == dtype
    assert int(swap_ids(dtype(1))) == 0


def test_labels_that_are_ignored_stay():
    assert swap_ids(np.array([-100, -1])).tolist() == [-100, -1]


@pytest.mark.parametrize("wrong", ["01", 1.0, None, True, np.array([0.5]), np.array([True]), [0, "1"]])
def test_other_things_are_refused(wrong):
    with pytest.raises(TypeError, match="pass integers"):
        swap_ids(wrong)
