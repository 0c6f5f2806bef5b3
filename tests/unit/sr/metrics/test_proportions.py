import numpy as np
import pytest
from scipy.stats import binomtest

from sr.metrics.proportions import compare_failures, mcnemar_exact, wilson


@pytest.mark.parametrize(("failures", "n"), [(473, 753), (435, 753), (0, 10), (10, 10), (1, 3), (7, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(failures: int, n: int, confidence: float) -> None:
    theirs = binomtest(failures, n).proportion_ci(confidence_level=confidence, method="wilson")
    assert wilson(failures, n, confidence=confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (0, 5), (10, 10), (38, 0), (60, 98), (1, 12), (1200, 900), (4000, 0)]
)
def test_mcnemar_is_scipys_binomial_test_of_the_discordant_pairs(b: int, c: int) -> None:
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_seed4s_473_against_435_depends_on_the_pairs_which_it_does_not_give() -> None:
    nested, crossed = mcnemar_exact(38, 0), mcnemar_exact(318, 280)
    assert nested < 1e-10
    assert crossed == pytest.approx(0.13, abs=0.01)


def test_failures_are_paired_by_picture() -> None:
    first = np.array([True, True, True, False, False, True])
    second = np.array([True, False, False, False, True, False])
    assert compare_failures(first, second) == mcnemar_exact(3, 1)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="4 failures of 3"):
        wilson(4, 3)
    with pytest.raises(ValueError, match="n >= 1"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="can't be negative"):
        mcnemar_exact(-1, 3)
    with pytest.raises(ValueError, match="same pictures"):
        compare_failures(np.zeros(3, dtype=bool), np.zeros(4, dtype=bool))
