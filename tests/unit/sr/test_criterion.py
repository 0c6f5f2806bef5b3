"""The criterion: weights, calibration, accounts, and features that are computed once."""

import pytest
import skimage
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.features.network import FeatureNetwork, Features, Weights
from sr.losses import LOSSES
from sr.losses.criterion import Criterion
from sr.losses.term import FeatureLoss, Term, Views
from sr.resize import bicubic, upscale_bicubic


@pytest.fixture(scope="module")
def views() -> Views:
    """Bicubic reconstructions and originals of four crops of a photograph, shape (4, 1, 3, 48, 48)."""
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    hr = torch.stack([image[:, y : y + 48, 200:248] for y in (20, 90, 160, 300)])[:, None]
    lr = bicubic(hr, height=24, width=24)
    return Views(upscale_bicubic(lr, 2).clamp(0, 1).requires_grad_(), hr, lr)


def criterion_of(weights: dict[str, float]) -> Criterion:
    return Criterion({name: LOSSES[name]() for name in weights}, list(weights.values()))


class Counting(FeatureNetwork):
    """Two convolutions that remember how they were called."""

    tap_names = ("shallow", "deep")
    weights = Weights("counting", "0" * 64, "drawn in a test")

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        # Not frozen, so that a graph of the target would show.
        self.kernels = [torch.randn(4, c, 3, 3, generator=generator).requires_grad_() for c in (3, 4)]
        self.calls: list[tuple[tuple[str, ...], bool, tuple[int, ...]]] = []

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        shallow = F.conv2d(pictures, self.kernels[0].to(pictures)).relu()
        found = {"shallow": shallow, "deep": F.conv2d(shallow, self.kernels[1].to(pictures)).relu()}
        self.calls.append((taps, found["deep"].requires_grad, tuple(pictures.shape)))
        return {tap: found[tap] for tap in taps}


class Difference(FeatureLoss):
    """Mean absolute difference of all taps."""

    def compare(self, sr: Features, hr: Features) -> Tensor:
        return torch.stack([F.l1_loss(sr[tap], hr[tap]) for tap in self.taps]).mean()


def test_calibration_gives_every_term_the_gradient_size_of_l1(views: Views) -> None:
    names = ("l1", "mse", "charbonnier", "ssim")
    criterion = criterion_of(dict.fromkeys(names, 1.0))
    criterion.calibrate(views)
    (gradient,) = torch.autograd.grad(F.l1_loss(views.sr, views.hr), views.sr)
    norms = criterion.gradient_norms(views, criterion(views)[1])
    assert norms == pytest.approx(dict.fromkeys(names, gradient.norm().item()), rel=1e-4)


def test_calibration_refuses_a_term_without_gradient(views: Views) -> None:
    with pytest.raises(ValueError, match="'mse': gradient RMS at the bicubic output is 0"):
        criterion_of({"mse": 1}).calibrate(Views(views.hr, views.hr))


def test_the_sum_is_what_its_accounts_say(views: Views) -> None:
    criterion = criterion_of({"l1": 0.8, "ssim": 0.2})
    total, raw = criterion(views)
    accounts = criterion.account(raw, criterion.observe(views, raw))
    assert total.item() == pytest.approx(0.8 * raw["l1"].item() + 0.2 * raw["ssim"].item(), rel=1e-6)
    assert total.item() == pytest.approx(sum(account.weighted for account in accounts.values()), rel=1e-6)
    assert sum(account.gradient_share for account in accounts.values()) == pytest.approx(1)
    # The graph is still there for the generator.
    assert torch.isfinite(torch.autograd.grad(total, views.sr)[0]).all()


def test_terms_are_computed_in_float32_under_autocast(views: Views) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = criterion_of({"mse": 1})(Views(views.sr.bfloat16(), views.hr))
    assert total.dtype == torch.float32


def test_terms_on_one_network_share_its_activations(views: Views) -> None:
    network = Counting()
    terms = {"a": Difference(network, ("shallow",)), "b": Difference(network, ("shallow", "deep"))}
    total, raw = Criterion(terms, [1.0, 2.0])(views)
    assert [call[0] for call in network.calls] == [("shallow", "deep")] * 2
    assert [has_graph for _, has_graph, _ in network.calls] == [False, True]
    assert network.calls[0][2] == (4, 3, 48, 48)
    alone = [term(views.sr, views.hr).item() for term in terms.values()]
    assert [value.item() for value in raw.values()] == pytest.approx(alone)
    assert total.item() == pytest.approx(alone[0] + 2 * alone[1])


def test_different_networks_do_not_share(views: Views) -> None:
    first, second = Counting(), Counting()
    second.kernels[0].data *= 2
    terms = {"a": Difference(first, ("deep",)), "b": Difference(second, ("deep",))}
    _, raw = Criterion(terms, [1.0, 1.0])(views)
    assert raw["b"].item() == pytest.approx(2 * raw["a"].item(), rel=1e-5)


def test_a_term_gets_what_it_needs_and_nothing_else(views: Views) -> None:
    class OfLr(Term):
        needs = ("lr",)

        def forward(self, sr: Tensor, hr: Tensor, *, lr: Tensor) -> Tensor:
            del hr
            return (sr[..., ::2, ::2] - lr).abs().mean()

    criterion = Criterion({"of_lr": OfLr(), "l1": nn.L1Loss()}, [1.0, 0.0])
    assert criterion.needs == {"lr"}
    assert criterion(views)[0].item() == pytest.approx(
        (views.sr[..., ::2, ::2] - views.lr).abs().mean().item()
    )


def test_adversarial_terms_wait_for_their_weight(views: Views) -> None:
    criterion = criterion_of({"l1": 1.0, "gan_vanilla": 3.0})
    criterion.adversarial_weight = 0.0
    assert set(criterion(views)[1]) == {"l1"}
    criterion.adversarial_weight = 0.5
    zeros = torch.zeros(4, 1)
    judged = Views(views.sr, views.hr, fake_logits=zeros, real_logits=zeros)
    total, raw = criterion(judged)
    assert raw["gan_vanilla"].item() == pytest.approx(0.693147, rel=1e-5)
    assert total.item() == pytest.approx(raw["l1"].item() + 0.5 * 3 * 0.693147, rel=1e-5)
    criterion.calibrate(views)
    assert criterion.calibration["gan_vanilla"] == 1.0
