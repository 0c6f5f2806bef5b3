import numpy as np
import pytest
import skimage
import torch
from scipy.fft import dctn
from scipy.stats import mannwhitneyu
from skimage.color import rgb2ycbcr

from sr.metrics.perception_distortion import auc, features, pareto_front, region, rmse, separability
from sr.resize import bicubic, upscale_bicubic

Patches = tuple[torch.Tensor, list[str]]


@pytest.fixture(scope="module")
def patches() -> Patches:
    """12 tiles of 32 x 32 from each of 8 regions of 4 photographs; a region counts as a source."""
    tiles, sources = [], []
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        picture = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1).float() / 255
        for half in range(2):
            for i in range(12):
                top, left = 32 * (i // 4) + 150 * half, 32 * (i % 4) + 150
                tiles.append(picture[:, top : top + 32, left : left + 32])
                sources.append(f"{name}{half}")
    return torch.stack(tiles), sources


def test_rmse_is_pirms() -> None:
    hr = skimage.data.astronaut()[:64, 100:164]
    sr = (
        np.clip(hr.astype(float) + np.random.default_rng(0).normal(0, 12, hr.shape), 0, 255)
        .round()
        .astype(np.uint8)
    )
    pair = [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (sr, hr)]
    squares = [((rgb2ycbcr(sr) - rgb2ycbcr(hr))[4:-4, 4:-4, 0] ** 2).mean(), 0.0]
    assert rmse(pair[0], pair[1]) == pytest.approx(np.sqrt(squares[0]), abs=1e-4)
    both = rmse(torch.cat([pair[0], pair[1]]), torch.cat([pair[1], pair[1]]))
    assert both == pytest.approx(np.sqrt(np.mean(squares)), abs=1e-4)  # Not the mean of the roots.
    with pytest.raises(ValueError, match="at least 9 x 9"):
        rmse(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (11.5, 1), (11.51, 2), (12.5, 2), (12.6, 3), (16, 3), (16.01, None)]
)
def test_regions_are_pirms(value: float, expected: int | None) -> None:
    assert region(value) == expected


def test_the_pareto_front_is_what_nobody_beats() -> None:
    points = [(1.0, 9.0), (2.0, 5.0), (2.0, 6.0), (3.0, 5.0), (4.0, 1.0), (4.0, 1.0)]
    assert pareto_front(points) == [0, 1, 4, 5]


def test_auc_is_mann_whitneys() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 8, 60) + 1, random.integers(0, 8, 40)
    assert auc(a, b) == pytest.approx(mannwhitneyu(a, b).statistic / (60 * 40))
    assert (auc(b, b), auc(a + 100, b), auc(b, a + 100)) == (0.5, 1.0, 0.0)


def test_features_are_of_scipys_dct() -> None:
    patch = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grey = 16 + np.tensordot([65.481, 128.553, 24.966], patch[0].numpy(), axes=1)
    blocks = [grey[i : i + 8, j : j + 8] for i in range(0, 9, 4) for j in range(0, 17, 4)]
    size = np.mean([np.abs(dctn(block, norm="ortho")) for block in blocks], axis=0)
    assert features(patch)[0, :64] == pytest.approx(np.log(size + 0.1).ravel(), abs=1e-9)
    assert features(patch).shape == (1, 130)


def test_the_same_pictures_can_not_be_told_apart(patches: Patches) -> None:
    found = separability(patches[0], patches[0], patches[1])
    assert (found.auc, found.low, found.high) == (0.5, 0.5, 0.5)
    assert (found.num_sources, found.num_patches) == (4, 48)


def test_two_samples_of_one_kind_can_not_be_told_apart_and_the_interval_says_so() -> None:
    found = []
    for seed in range(12):
        random = torch.Generator().manual_seed(seed)
        a, b = (torch.rand(120, 3, 16, 16, generator=random) for _ in range(2))
        found.append(separability(a, b, [f"s{i % 30}" for i in range(120)], seed=seed, draws=200))
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.04)
    assert sum(one.low < 0.5 < one.high for one in found) >= 10


def test_blurred_pictures_are_told_apart_and_slightly_changed_ones_less(patches: Patches) -> None:
    hr, sources = patches
    blurred = upscale_bicubic(bicubic(hr, height=16, width=16), 2).clamp(0, 1)
    found = separability(blurred, hr, sources)
    assert found.auc > 0.97
    assert found.low > 0.9
    faint = separability(0.1 * blurred + 0.9 * hr, hr, sources)
    assert 0.4 < faint.auc < found.auc - 0.1


def test_it_is_the_same_each_time_and_only_test_sources_are_scored(patches: Patches) -> None:
    hr, sources = patches
    other = (hr + 0.02 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert separability(other, hr, sources, seed=3, draws=50) == separability(
        other, hr, sources, seed=3, draws=50
    )
    # SR that differs on training sources alone is not told from HR on the others.
    random = np.random.default_rng(0)
    training = set(random.permutation(sorted(set(sources)))[:4].tolist())
    mask = torch.tensor([source in training for source in sources]).view(-1, 1, 1, 1)
    assert separability(torch.where(mask, other, hr), hr, sources, draws=50).auc == 0.5


@pytest.mark.parametrize(
    ("shape", "num_sources", "message"),
    [
        ((8, 3, 12, 16), 8, "at least 16 x 16"),
        ((8, 3, 16, 16), 3, "from 3 sources"),
        ((8, 3, 16, 16), 0, "0 sources"),
    ],
)
def test_too_little_is_refused(shape: tuple[int, ...], num_sources: int, message: str) -> None:
    sources = [str(i % num_sources) for i in range(8)] if num_sources else []
    with pytest.raises(ValueError, match=message):
        separability(torch.rand(shape), torch.rand(shape), sources)
