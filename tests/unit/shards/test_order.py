"""The order and the random numbers are functions of their names alone."""

import subprocess
import sys

import numpy as np
import pytest

from shards.order import permutation, sample_generator

FINGERPRINT = "ab" * 32


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_every_index_comes_once(count: int) -> None:
    assert sorted(permutation(FINGERPRINT, 3, 0, count)) == list(range(count))


def test_the_order_is_the_same_in_another_process() -> None:
    code = (
        f"from shards.order import permutation; print(list(map(int, permutation({FINGERPRINT!r}, 5, 2, 20))))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(permutation(FINGERPRINT, 5, 2, 20).tolist())


def test_the_order_is_the_one_of_every_version() -> None:
    # Frozen: another order would silently change what an old trial's data seed means.
    assert permutation(FINGERPRINT, 0, 0, 10).tolist() == [8, 1, 4, 2, 9, 6, 7, 0, 5, 3]


def test_fingerprint_seed_and_epoch_each_change_the_order() -> None:
    names = [(FINGERPRINT, 0, 0), ("cd" * 32, 0, 0), (FINGERPRINT, 1, 0), (FINGERPRINT, 0, 1)]
    orders = {tuple(permutation(*name, 50).tolist()) for name in names}
    assert len(orders) == len(names)


def test_each_name_changes_the_draws_of_a_sample() -> None:
    names = [(FINGERPRINT, 0, 0, 0), ("cd" * 32, 0, 0, 0), (FINGERPRINT, 1, 0, 0), (FINGERPRINT, 0, 1, 0)]
    names += [
        (FINGERPRINT, 0, 0, 1),
        (FINGERPRINT, 11, 1, 1),
        (FINGERPRINT, 1, 11, 1),
        (FINGERPRINT, 1, 1, 11),
    ]
    draws = {tuple(sample_generator(*name).integers(2**30, size=4).tolist()) for name in names}
    assert len(draws) == len(names)


def test_draws_do_not_depend_on_numpys_global_state() -> None:
    np.random.seed(1)  # noqa: NPY002 - the global state is what must not matter
    first = sample_generator(FINGERPRINT, 0, 0, 0).random(5)
    np.random.seed(2)  # noqa: NPY002 - the global state is what must not matter
    assert np.array_equal(first, sample_generator(FINGERPRINT, 0, 0, 0).random(5))


def test_orders_of_epochs_are_uniform() -> None:
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), permutation(FINGERPRINT, 0, epoch, 5)] += 1
    assert np.abs(counts - 400).max() < 100
