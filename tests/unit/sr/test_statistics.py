"""Statistics against brute force, scipy and known answers."""

import itertools

import numpy as np
import pytest
from scipy import stats

from sr.statistics import PerSource, bootstrap_interval, holm, per_source, sign_flip_p, smallest_p


def build(per_clip: np.ndarray, clips_per_source: int) -> PerSource:
    """Per-clip values, shape (seeds, clips), with consecutive clips belonging together."""
    clips = [f"c{i}" for i in range(per_clip.shape[1])]
    sources = {clip: f"s{i // clips_per_source}" for i, clip in enumerate(clips)}
    return per_source([dict(zip(clips, row, strict=True)) for row in per_clip], sources)


def test_the_mean_is_over_clips_also_where_sources_have_different_numbers() -> None:
    data = per_source([{"a": 1.0, "b": 2.0, "c": 6.0}], {"a": "x", "b": "x", "c": "y"})
    assert data.mean == pytest.approx(3.0)
    assert data.counts.tolist() == [2, 1]


def test_sign_flip_p_is_the_brute_force_one() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, size=(1, 7))
    totals = [abs(np.dot(signs, values[0])) for signs in itertools.product((1, -1), repeat=7)]
    expected = np.mean([total >= abs(values.sum()) - 1e-12 for total in totals])
    assert sign_flip_p(build(values, 1)) == pytest.approx(expected)


def test_sign_flip_p_agrees_with_scipys_permutation_test() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, size=(1, 10))
    theirs = stats.permutation_test(
        (values[0], np.zeros(10)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip_p(build(values, 1)) == pytest.approx(theirs, abs=1e-9)


def test_many_sources_are_sampled_to_about_the_same_p() -> None:
    values = np.random.default_rng(4).normal(0.35, 1, size=(1, 40))
    assert sign_flip_p(build(values, 1)) == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue, abs=0.01)


def test_the_smallest_p_is_reached_when_all_agree() -> None:
    for sources in (3, 6, 10):
        assert sign_flip_p(build(np.ones((1, sources)), 1)) == smallest_p(sources)
    assert smallest_p(6) == pytest.approx(0.03125)


def test_tiles_of_one_picture_do_not_count_as_independent() -> None:
    """Thirty tiles of three pictures prove no more than three pictures."""
    values = np.random.default_rng(5).normal(1.0, 0.01, size=(1, 30))
    assert sign_flip_p(build(values, 10)) == smallest_p(3) == 0.25
    assert sign_flip_p(build(values, 1)) < 0.001


def test_holm_is_the_textbook_one() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(6)
    hits = 0
    for trial in range(200):
        effects = generator.normal(0.5, 1, size=(1, 20))
        tiles = np.repeat(effects, 3, axis=1) + generator.normal(0, 0.1, size=(1, 60))
        low, high = bootstrap_interval(build(tiles, 3), seed=trial)
        hits += low <= 0.5 <= high
    # A percentile bootstrap of 20 clusters is known to be a little narrow.
    assert 0.88 <= hits / 200 <= 0.98


def test_the_interval_widens_when_seeds_disagree() -> None:
    clips = np.random.default_rng(7).normal(0, 1, size=24)
    agree = build(np.stack([clips, clips, clips]), 3)
    disagree = build(np.stack([clips - 1, clips, clips + 1]), 3)
    widths = [high - low for low, high in (bootstrap_interval(agree), bootstrap_interval(disagree))]
    assert widths[1] > widths[0] * 1.2


def test_paired_differences_are_far_narrower_than_the_parts() -> None:
    generator = np.random.default_rng(8)
    pictures = np.repeat(generator.normal(30, 5, size=8), 4)
    one = build((pictures + generator.normal(0.5, 0.1, 32))[None], 4)
    other = build((pictures + generator.normal(0, 0.1, 32))[None], 4)
    low, high = bootstrap_interval(one - other)
    assert 0 < low < 0.5 < high < 0.7
    wide = bootstrap_interval(one)
    assert wide[1] - wide[0] > 20 * (high - low)


def test_a_baseline_stands_against_every_seed() -> None:
    seeds = build(np.array([[2.0, 3.0], [4.0, 5.0]]), 1)
    baseline = build(np.array([[1.0, 1.0]]), 1)
    assert (seeds - baseline).seed_means.tolist() == [1.5, 3.5]
    assert (baseline - seeds).mean == pytest.approx(-2.5)
