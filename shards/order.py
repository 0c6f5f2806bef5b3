"""The order of samples and the random numbers of a sample: pure functions of names, never of machines."""

import hashlib

import numpy as np


def permutation(fingerprint: str, data_seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order in which an epoch visits the samples.

    Raw generator words are sorted rather than shuffled by numpy: numpy promises the words to be the same in
    every version, but not its shuffle.

    Returns:
        int64, shape (num_samples,): every index below `num_samples` once.
    """
    words = _philox("order", fingerprint, data_seed, epoch).random_raw(num_samples)
    return np.argsort(words, kind="stable")


def sample_generator(fingerprint: str, data_seed: int, epoch: int, sample_index: int) -> np.random.Generator:
    """The random numbers of one visit of one sample (crop, flip, degradation).

    Args:
        fingerprint: Of the data set.
        data_seed: The trial's seed of data.
        epoch: Counted from 0.
        sample_index: The position of the sample in `Dataset.of_split`.
    """
    return np.random.Generator(_philox("sample", fingerprint, data_seed, epoch, sample_index))


def substitute_generator(
    fingerprint: str, data_seed: int, epoch: int, sample_index: int, attempt: int
) -> np.random.Generator:
    """The random numbers that choose what takes the place of a damaged sample, at each attempt to find a sound one."""
    return np.random.Generator(_philox("substitute", fingerprint, data_seed, epoch, sample_index, attempt))


def _philox(*names: str | int) -> np.random.Philox:
    text = "\n".join(str(name) for name in names)
    return np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))
