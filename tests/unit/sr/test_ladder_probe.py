"""The readings of the ladder against scikit-learn, Hanley and McNeil, Student, and networks of which the truth is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import skimage
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from sr.features.network import FeatureNetwork, Features
from sr.ladder import probe
from sr.ladder.config import Probe, StopRule
from sr.ladder.probe import Seen, auc_interval, cut, describe, mean_interval, own_scores, patch_side, read
from sr.ladder.records import Comparison, Reading
from sr.ladder.rules import compare
from sr.resize import bicubic, upscale_bicubic

DRAWS = 300


def judged(reading: Reading) -> Comparison:
    return compare(reading, StopRule(), Probe())


# --- patches ---


def test_the_patch_is_no_larger_than_the_smallest_clip() -> None:
    clips = [SimpleNamespace(height=64, width=48), SimpleNamespace(height=40, width=96)]
    assert patch_side(clips, 32) == 32  # type: ignore[arg-type]
    assert patch_side(clips, 48) == 40  # type: ignore[arg-type]


def places(num_frames: int, height: int, width: int, *, size: int, most: int) -> np.ndarray:
    """Frame, top and left of each patch, told from the pixels."""
    clip = torch.zeros(1, num_frames, 3, height, width, dtype=torch.float64)
    clip[0, :, 0] = torch.arange(num_frames)[:, None, None]
    clip[0, :, 1] = torch.arange(height)[None, :, None]
    clip[0, :, 2] = torch.arange(width)[None, None, :]
    sr, hr = cut(clip / 255, clip / 255, size=size, most=most)
    assert torch.equal(sr, hr)
    assert hr.dtype == torch.uint8
    assert tuple(hr.shape[1:]) == (3, size, size)
    return hr[:, :, 0, 0].numpy().astype(int)


def test_patches_are_spread_evenly_and_do_not_overlap() -> None:
    found = places(7, 100, 150, size=16, most=21)
    assert len({tuple(place) for place in found}) == 21
    for i, one in enumerate(found):
        for other in found[:i]:
            assert one[0] != other[0] or max(abs(one - other)[1:]) >= 16
    assert set(np.bincount(found[:, 0], minlength=7)) <= {2, 3, 4}
    for axis, side in ((1, 100), (2, 150)):
        thirds = np.bincount((found[:, axis] + 8) * 3 // side, minlength=3)
        assert thirds.min() >= 5
    assert np.array_equal(found, places(7, 100, 150, size=16, most=21))


def test_few_patches_are_from_the_middle_and_many_are_all() -> None:
    assert places(3, 20, 50, size=16, most=1).tolist() == [[1, 2, 17]]
    assert len(places(1, 16, 16, size=16, most=8)) == 1
    assert places(2, 34, 32, size=16, most=99)[:, 1].tolist() == [0, 0, 17, 17] * 2


def test_patches_are_as_they_would_be_stored() -> None:
    sr = torch.tensor([-0.3, 0.2, 1.7]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 16, 16)
    patches, _ = cut(sr, torch.zeros(1, 1, 3, 16, 16), size=16, most=1)
    assert patches[0, :, 0, 0].tolist() == [0, 51, 255]


# --- networks ---


class Sharpness(FeatureNetwork):
    """Sees how strong edges are."""

    tap_names = default_taps = ("x", "y")

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        all_taps = {"x": pictures.diff(dim=-1).abs(), "y": pictures.diff(dim=-2).abs()}
        return {tap: all_taps[tap] for tap in taps}


class Colour(FeatureNetwork):
    """Sees colours."""

    tap_names = default_taps = ("input",)

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        return dict.fromkeys(taps, pictures)


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_description_is_the_mean_of_each_channel_of_each_tap_in_their_order() -> None:
    patches = bytes_of(150, 3, 8, 8)
    found = describe(Sharpness(), ("y", "x"), patches)
    numbers = patches.numpy() / 255
    down = np.abs(np.diff(numbers, axis=2)).mean(axis=(2, 3))
    across = np.abs(np.diff(numbers, axis=3)).mean(axis=(2, 3))
    assert found.dtype == np.float32
    assert found == pytest.approx(np.concatenate([down, across], axis=1), abs=1e-6)


class Judge(nn.Module):
    """Its logit map is the first channel, normalised by the batch while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.norm(pictures)[:, :1], {}


@pytest.mark.parametrize("is_training", [True, False])
def test_own_scores_are_mean_logits_in_evaluation_mode(is_training: bool) -> None:
    judge, patches = Judge().train(is_training), bytes_of(70, 3, 8, 8)
    found = own_scores(judge, patches)
    assert found == pytest.approx(patches[:, 0].double().mean(dim=(1, 2)).numpy() / 255, abs=1e-4)
    assert judge.training is is_training
    assert judge.norm.num_batches_tracked == 0


# --- AUC and its interval ---


def test_the_auc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    real, fake = random.integers(0, 9, 60) + 1.0, random.integers(0, 9, 60) + 0.0
    found = auc_interval(real, fake, [f"s{i % 12}" for i in range(60)], draws=DRAWS)
    assert found.value == pytest.approx(roc_auc_score([1] * 60 + [0] * 60, np.r_[real, fake]))
    assert found.low < found.value < found.high


def hanley_mcneil(auc: float, count: int) -> float:
    """Standard error of an AUC of independent exponential scores, as many of each kind.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", equation 1.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    return float(np.sqrt((auc * (1 - auc) + (count - 1) * (q1 + q2 - 2 * auc**2)) / count**2))


def test_the_error_of_independent_patches_is_hanley_and_mcneils() -> None:
    random = np.random.default_rng(1)
    widths = []
    for _ in range(8):
        real, fake = random.exponential(3, 150), random.exponential(1, 150)
        found = auc_interval(real, fake, [f"s{i}" for i in range(150)], draws=DRAWS)
        widths.append(found.high - found.low)
    assert np.mean(widths) / (2 * 1.645) == pytest.approx(hanley_mcneil(0.75, 150), rel=0.1)


def correlated(random: np.random.Generator, count: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two networks for HR and for SR, shape (2, count) each; both have an AUC of .75."""
    covariance = [[1, rho], [rho, 1]]
    real, fake = (random.multivariate_normal([0, 0], covariance, count).T for _ in range(2))
    return real + np.sqrt(2) * stats.norm.ppf(0.75), fake


def differing(real: np.ndarray, fake: np.ndarray, sources: np.ndarray, *, seed: int) -> Reading:
    """The reading of scores that need no reader."""
    count = int(sources.max()) + 1
    times, whole = probe._times(count, DRAWS, seed), [np.full(len(sources), True)]
    drawn = [probe._drawn((a, b), sources, whole, times) for a, b in zip(real, fake, strict=True)]
    difference = drawn[0] - drawn[1]
    intervals = [probe._interval(values, count) for values in (*drawn, difference)]
    return Reading(*intervals, float(difference[1:].std()), count, len(sources))


def test_power_is_what_the_specification_says() -> None:
    """SE <= margin / 2.93 for 80 %: about 240 patches of each kind at AUC .75, correlation .7, margin .05."""
    random = np.random.default_rng(2)
    readings = [differing(*correlated(random, 240, 0.72), np.arange(240), seed=i) for i in range(40)]
    errors = [reading.standard_error or 0 for reading in readings]
    assert np.mean(errors) == pytest.approx(hanley_mcneil(0.75, 240) * np.sqrt(2 * (1 - 0.7)), rel=0.1)
    assert np.mean(errors) == pytest.approx(0.05 / 2.93, rel=0.1)
    passed = np.mean([judged(reading) == Comparison.EQUALLY_GOOD for reading in readings])
    assert 0.65 <= passed <= 0.93
    few = [differing(*correlated(random, 60, 0.72), np.arange(60), seed=i) for i in range(12)]
    assert np.mean([judged(reading) == Comparison.EQUALLY_GOOD for reading in few]) < 0.3


def clustered(random: np.random.Generator, num_sources: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two networks that are equally good in the long run, and each better on some pictures."""
    content = random.normal(size=(2, num_sources, 1)) + random.normal(size=(1, num_sources, each))
    seen = 0.8 + 0.6 * random.normal(size=(2, num_sources, 1))
    noise = random.normal(scale=0.5, size=(2, 2, num_sources, each))
    shape = (2, num_sources * each)
    return (content + seen + noise[0]).reshape(shape), (content + noise[1]).reshape(shape)


def test_the_interval_of_the_difference_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    of_pictures, of_patches = 0, 0
    for i in range(100):
        real, fake = clustered(random, 10, 6)
        sources = np.repeat(np.arange(10), 6)
        for is_naive in (False, True):
            found = differing(real, fake, np.arange(60) if is_naive else sources, seed=i).difference
            assert found is not None
            covers = found.low <= 0 <= found.high
            of_pictures, of_patches = (
                of_pictures + (covers and not is_naive),
                of_patches + (covers and is_naive),
            )
    assert 0.83 <= of_pictures / 100 <= 0.97
    assert of_patches / 100 < 0.8


def test_draws_do_not_lie_above_the_auc_where_pictures_differ_more_than_sr_and_hr() -> None:
    random = np.random.default_rng(4)
    shifts = []
    for i in range(30):
        content = 3 * np.repeat(random.normal(size=8), 6)
        real, fake = content + 1 + random.normal(size=48), content + random.normal(size=48)
        drawn = probe._drawn(
            (real, fake), np.repeat(np.arange(8), 6), [np.full(48, True)], probe._times(8, DRAWS, i)
        )
        shifts.append(drawn[1:].mean() - drawn[0])
    assert abs(np.mean(shifts)) < 0.006


# --- readings ---


def two_kinds(num_sources: int, each: int, channels: int = 12, *, seed: int = 0) -> tuple[Seen, list[str]]:
    """What a network sees where SR differs from HR a little, in two channels."""
    random = np.random.default_rng(seed)
    content = np.repeat(random.normal(size=(num_sources, channels)), each, axis=0)
    hr, sr = (content + random.normal(size=content.shape) for _ in range(2))
    sr[:, :2] -= 0.8
    sources = [f"s{i // each}" for i in range(num_sources * each)]
    return Seen((5 + 3 * sr).astype(np.float32), (5 + 3 * hr).astype(np.float32)), sources


def test_a_reading_is_what_scikit_learn_makes_of_it_by_hand() -> None:
    seen, names = two_kinds(12, 6)
    reading = read(seen, None, names, draws=DRAWS)
    sources = np.array(names)
    second = sorted(set(names))
    second = {second[i] for i in np.random.default_rng(0).permutation(12)[6:]}
    aucs = []
    for scored in (
        np.array([name in second for name in names]),
        np.array([name not in second for name in names]),
    ):
        x = {
            part: np.concatenate([seen.hr[rows], seen.sr[rows]]).astype(float)
            for part, rows in (("fitted", ~scored), ("scored", scored))
        }
        labels = np.repeat([1, 0], 36)
        scaler = StandardScaler().fit(x["fitted"])
        search = GridSearchCV(
            LogisticRegression(max_iter=1000),
            {"C": [1e-4, 1e-3, 1e-2, 1e-1, 1, 10]},
            scoring="neg_log_loss",
            cv=GroupKFold(5),
        ).fit(scaler.transform(x["fitted"]), labels, groups=np.tile(sources[~scored], 2))
        aucs.append(roc_auc_score(labels, search.decision_function(scaler.transform(x["scored"]))))
    assert reading.discriminator.value == pytest.approx(np.mean(aucs), abs=1e-3)
    assert 0.6 < reading.discriminator.value < 0.9
    assert (reading.perceptual, reading.difference, reading.standard_error) == (None, None, None)
    assert (reading.num_sources, reading.num_patches) == (12, 72)
    assert judged(reading) == Comparison.NO_PERCEPTUAL


def test_a_reading_is_repeatable_and_its_difference_that_of_both() -> None:
    (one, sources), (other, _) = two_kinds(8, 4), two_kinds(8, 4, seed=1)
    first, again = (read(one, other, sources, draws=4000) for _ in range(2))
    assert first == again
    turned = read(other, one, sources, draws=4000)
    assert turned.discriminator == first.perceptual
    assert first.difference is not None
    assert turned.difference is not None
    assert first.difference.value == pytest.approx(-turned.difference.value)
    assert first.difference.low == pytest.approx(-turned.difference.high)
    assert first.standard_error == pytest.approx(turned.standard_error)
    # Student's t of 8 pictures lies between the error and the end of the interval.
    half = (first.difference.high - first.difference.low) / 2
    assert first.standard_error == pytest.approx(half / stats.t.ppf(0.95, 7), rel=0.06)


def test_what_gives_the_picture_away_does_not_help() -> None:
    """In each picture SR differs from HR in a way of its own: nothing that would help with another picture."""
    random = np.random.default_rng(5)
    own_way = np.repeat(random.normal(size=(12, 40)), 8, axis=0)
    name_tag = np.repeat(3 * np.eye(12), 8, axis=0)
    hr, sr = (
        np.concatenate([name_tag, random.normal(size=own_way.shape) + sign * own_way], axis=1)
        for sign in (1, -1)
    )
    sources = [f"s{i // 8}" for i in range(96)]
    found = read(Seen(sr, hr), None, sources, draws=DRAWS).discriminator
    assert found.low < 0.5 < found.high or found.high < 0.5
    # A reader that has seen other patches of the same pictures would be right nearly always.
    leaking = read(Seen(sr, hr), None, [str(i) for i in range(96)], draws=100).discriminator
    assert leaking.low > 0.8


@pytest.mark.parametrize("num_sources", [2, 3])
def test_very_few_pictures_give_numbers_but_no_decision(num_sources: int) -> None:
    (one, sources), (other, _) = two_kinds(num_sources, 6), two_kinds(num_sources, 6, seed=1)
    reading = read(one, other, sources, draws=100)
    assert reading.perceptual is not None
    assert reading.difference is not None
    for found in (reading.discriminator, reading.perceptual, reading.difference):
        assert np.isfinite([found.value, found.low, found.high]).all()
    assert np.isfinite(reading.standard_error or 0)
    assert judged(reading) == Comparison.UNDECIDABLE


def test_a_single_picture_is_refused_and_so_is_what_does_not_fit() -> None:
    seen, sources = two_kinds(2, 4)
    with pytest.raises(ValueError, match=r"at least 2 validation pictures .* got 1; pack more"):
        read(seen, None, ["s"] * 8, draws=100)
    with pytest.raises(ValueError, match="got 8 SR patches, 8 HR patches and 7 sources"):
        read(seen, None, sources[:7], draws=100)
    broken = Seen(seen.sr, np.where(seen.hr == seen.hr.max(), np.nan, seen.hr))
    with pytest.raises(ValueError, match="perceptual network: what it sees is infinite or not a number"):
        read(seen, broken, sources, draws=100)


# --- planted cases ---


@pytest.fixture(scope="module")
def photographs() -> tuple[Tensor, Tensor, list[str]]:
    """SR (blurred), HR, sources: 5 patches of 32 x 32 from each of 12 regions of 4 photographs."""
    patches, sources = [], []
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        picture = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)
        for region in range(3):
            for i in range(5):
                top, left = 80 * region + 16 * i, 40 + 70 * i
                patches.append(picture[:, top : top + 32, left : left + 32])
                sources.append(f"{name}{region}")
    hr = torch.stack(patches)
    blurred = upscale_bicubic(bicubic(hr.double() / 255, height=16, width=16), 2)
    return blurred.clamp(0, 1).mul(255).round().to(torch.uint8), hr, sources


def seen_by(network: FeatureNetwork, pictures: tuple[Tensor, Tensor, list[str]]) -> Seen:
    return Seen(*(describe(network, network.default_taps, patches) for patches in pictures[:2]))


def test_a_network_is_as_good_as_itself(photographs: tuple[Tensor, Tensor, list[str]]) -> None:
    seen = seen_by(Sharpness(), photographs)
    reading = read(seen, seen, photographs[2], draws=DRAWS)
    assert reading.difference is not None
    assert (reading.difference.value, reading.difference.low, reading.difference.high) == (0, 0, 0)
    assert judged(reading) == Comparison.EQUALLY_GOOD


def test_who_sees_blur_is_better_than_who_sees_colours(photographs: tuple[Tensor, Tensor, list[str]]) -> None:
    sharpness, colour = (seen_by(network, photographs) for network in (Sharpness(), Colour()))
    reading = read(sharpness, colour, photographs[2], draws=DRAWS)
    assert reading.perceptual is not None
    assert reading.discriminator.value > reading.perceptual.value + 0.1
    assert judged(reading) == Comparison.DISCRIMINATOR_BETTER
    turned = read(colour, sharpness, photographs[2], draws=DRAWS)
    assert judged(turned) == Comparison.PERCEPTUAL_BETTER


def test_a_starved_sample_decides_nothing_not_even_for_one_and_the_same_network(
    photographs: tuple[Tensor, Tensor, list[str]],
) -> None:
    sr, hr, sources = (part[:35] for part in photographs)
    seen = seen_by(Sharpness(), (sr, hr, sources))
    reading = read(seen, seen, sources, draws=DRAWS)
    assert (reading.num_sources, reading.difference.high if reading.difference else None) == (7, 0)
    assert judged(reading) == Comparison.UNDECIDABLE


def test_two_equal_but_noisy_networks_are_undecidable_on_few_patches() -> None:
    found = []
    for seed in range(4):
        (one, sources), (other, _) = two_kinds(9, 2, 4, seed=2 * seed), two_kinds(9, 2, 4, seed=2 * seed + 1)
        found.append(judged(read(one, other, sources, draws=DRAWS)))
    assert Comparison.EQUALLY_GOOD not in found
    assert found.count(Comparison.UNDECIDABLE) >= 3


# --- means ---


def test_the_interval_of_a_mean_is_about_students() -> None:
    ratios = []
    for seed in range(12):
        values = np.random.default_rng(seed).normal(30, 2, 8)
        clips = {f"c{i}": float(value) for i, value in enumerate(values)}
        found = mean_interval(clips, {clip: f"of {clip}" for clip in clips}, draws=2000)
        assert found.value == pytest.approx(values.mean())
        low, high = stats.t.interval(0.9, 7, values.mean(), stats.sem(values))
        ratios.append((found.high - found.low) / (high - low))
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


def test_a_mean_is_over_clips_that_have_a_value_and_its_interval_over_pictures() -> None:
    values = {f"c{i}": 1.0 + i // 4 for i in range(16)}
    sources = {clip: f"s{i // 4}" for i, clip in enumerate(values)}
    known = mean_interval(values, {**sources, "other": "s9"}, draws=500)
    with_gaps = mean_interval(
        {**values, "c99": np.nan, "c98": np.inf}, {**sources, "c99": "s7", "c98": "s0"}, draws=500
    )
    assert known == with_gaps
    assert known.value == 2.5
    alone = mean_interval(values, {clip: clip for clip in values}, draws=500)
    assert known.high - known.low > 2 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="got 1; pack more"):
        mean_interval({"c0": 1.0, "c15": np.nan}, sources, draws=500)
