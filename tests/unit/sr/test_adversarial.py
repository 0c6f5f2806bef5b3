"""Adversarial losses by hand-made numbers, and trials that play the game."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sr import collective
from sr.adversary import Adversary, Phase, build_discriminator
from sr.config import AdversarialConfig, EngineConfig, parse_trial
from sr.configfile import ConfigError
from sr.ledger import Ledger, State
from sr.losses import LOSSES
from sr.losses.adversarial import AdversarialLoss, FeatureMatching, GanWasserstein, r1_penalty
from sr.section import Component
from sr.train import TrialDivergedError, train
from sr.world import single_process

WORLD = single_process("cpu")
GAMES = ("gan_vanilla", "gan_lsgan", "gan_hinge", "gan_wgan", "gan_ragan")
FAKE = torch.tensor([-1.0, 0.5], dtype=torch.float64)
REAL = torch.tensor([2.0, 0.25], dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def game(name: str, **settings: Any) -> AdversarialLoss:
    loss = LOSSES[name](**settings)
    assert isinstance(loss, AdversarialLoss)
    return loss


def mean(*values: float) -> float:
    return sum(values) / len(values)


RELATIVE_FAKE = [value - 1.125 for value in (-1.0, 0.5)]
RELATIVE_REAL = [value + 0.25 for value in (2.0, 0.25)]
BY_HAND = {
    "gan_vanilla": (
        mean(softplus(1), softplus(-0.5)),
        mean(softplus(-2), softplus(-0.25), softplus(-1), softplus(0.5)),
    ),
    "gan_lsgan": (mean(4, 0.25), mean(1, 0.5625, 1, 0.25)),
    "gan_hinge": (0.25, mean(0, 0.75, 0, 1.5)),
    "gan_wgan": (0.25, -0.25 - 1.125),
    "gan_ragan": (
        mean(*[softplus(-x) for x in RELATIVE_FAKE], *[softplus(x) for x in RELATIVE_REAL]),
        mean(*[softplus(-x) for x in RELATIVE_REAL], *[softplus(x) for x in RELATIVE_FAKE]),
    ),
}


@pytest.mark.parametrize("name", GAMES)
def test_both_sides_by_hand(name: str) -> None:
    generator, discriminator = BY_HAND[name]
    assert game(name).generator_loss(FAKE, REAL).item() == pytest.approx(generator, rel=1e-12)
    assert game(name).discriminator_loss(FAKE, REAL).item() == pytest.approx(discriminator, rel=1e-12)


@pytest.mark.parametrize("name", GAMES)
def test_the_two_sides_pull_in_opposite_directions(name: str) -> None:
    # Between the labels: least squares pulls what lies beyond its label back to it.
    fake = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    (up,) = torch.autograd.grad(game(name).generator_loss(fake, REAL), fake)
    (down,) = torch.autograd.grad(game(name).discriminator_loss(fake, REAL), fake)
    assert (up < 0).any()
    assert (up <= 0).all()
    assert (down >= 0).all()


def test_smoothing_is_one_sided_and_noise_stays_within_its_width() -> None:
    smooth = game("gan_lsgan", label_smoothing=0.1)
    at_target = torch.full((5,), 0.9, dtype=torch.float64)
    assert smooth.discriminator_loss(torch.zeros(5), at_target).item() == pytest.approx(0)
    assert smooth.generator_loss(torch.ones(5), at_target).item() == pytest.approx(0)
    noisy = game("gan_lsgan", label_noise=0.2)
    torch.manual_seed(0)
    # The mean square of a number drawn from [0, 0.2] is 0.04 / 3.
    value = noisy.discriminator_loss(torch.zeros(100_000), torch.ones(100_000)).item()
    assert value == pytest.approx(0.04 / 3, rel=0.02)
    # Labels of real pictures lie from 0.8 to 1: about 0.9, which is therefore the best judgement.
    value = noisy.discriminator_loss(torch.zeros(100_000), torch.full((100_000,), 0.9)).item()
    assert value == pytest.approx((0.04 / 12 + 0.04 / 3) / 2, rel=0.02)
    with pytest.raises(ValueError, match=r"label_noise: 0\.5"):
        game("gan_vanilla", label_noise=0.5)


class Linear(nn.Module):
    """A discriminator whose input gradient is known: the same vector everywhere."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        weights = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.vector = nn.Parameter(weights / weights.norm() * norm)

    def forward(self, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return (pictures * self.vector).flatten(1).sum(1), {}


def test_penalties_of_a_linear_critic_are_known() -> None:
    pictures = torch.rand(3, 3, 4, 4, dtype=torch.float64)
    for norm in (1.0, 3.0):
        critic = Linear(norm)
        assert r1_penalty(critic, pictures).item() == pytest.approx(norm**2 / 2)
        penalty = GanWasserstein(gradient_penalty=10).penalty(critic, 1 - pictures, pictures)
        assert penalty.item() == pytest.approx(10 * (norm - 1) ** 2, abs=1e-12)
    penalty.backward()
    assert critic.vector.grad is not None
    assert critic.vector.grad.norm() == pytest.approx(40)


class Quadratic(nn.Module):
    """A discriminator whose gradient at a picture is that picture."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return pictures.square().flatten(1).sum(1) / 2, {}


def test_the_critics_slope_is_taken_at_random_points_between() -> None:
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.rand(4, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    collective.begin_step(7, 0, rank=0, samples=4)
    penalty = GanWasserstein(gradient_penalty=2).penalty(Quadratic(), fake, real).item()
    collective.begin_step(7, 0, rank=0, samples=4)
    share = collective.rand_rows(4, 1, 1, 1).double()
    assert len(set(share.flatten().tolist())) == 4
    norms = (share * real + (1 - share) * fake).flatten(1).norm(dim=1)
    assert penalty == pytest.approx(2 * (norms - 1).square().mean().item(), rel=1e-6)


def test_the_penalty_at_real_pictures_comes_every_so_often_and_so_much_stronger() -> None:
    def learn(**settings: Any) -> list[float]:
        config = AdversarialConfig(discriminator=Component(type="patch_d", channels=8), **settings)  # type: ignore[call-arg]
        adversary = Adversary(
            config,
            game("gan_hinge"),
            seed=0,
            betas=(0.9, 0.99),
            world=WORLD,
            engine=EngineConfig(),
            accumulation_steps=1,
        )
        hr = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return [adversary.learn([(hr * 0.5, hr)], step=i, learning_rate=1e-9)["penalty"] for i in range(7)]

    assert learn() == [0.0] * 7
    every = learn(r1_gamma=2.0, r1_every=1)
    third = learn(r1_gamma=2.0, r1_every=3)
    assert all(value > 0 for value in every)
    # Spectral norms settle over the first calls, so the slope is nearly, not quite, the same.
    assert [value > 0 for value in third] == [True, False, False, True, False, False, True]
    assert third[6] == pytest.approx(3 * every[6], rel=0.05)


def test_the_averaged_discriminator_follows_slowly_and_is_what_is_kept() -> None:
    config = AdversarialConfig(
        discriminator=Component(type="vgg_d", channels=4, dense_channels=8),  # type: ignore[call-arg]
        ema_decay=0.9,
    )
    adversary = Adversary(
        config,
        game("gan_hinge"),
        seed=0,
        betas=(0.9, 0.99),
        world=WORLD,
        engine=EngineConfig(),
        accumulation_steps=1,
    )
    hr = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    name, parameter = next(iter(adversary.engine.module.named_parameters()))
    expected = parameter.detach().clone()
    for update in range(3):
        adversary.learn([(hr * 0.5, hr)], step=update, learning_rate=1e-2)
        # Early steps weigh more, so that the average does not remember the start.
        expected.lerp_(parameter.detach(), 1 - min(0.9, (1 + update) / (10 + update)))
    kept = adversary.state_dict()
    assert torch.allclose(kept["discriminator_ema"][name], expected)
    assert not torch.allclose(kept["discriminator"]["module"][name], expected)


def test_feature_matching_is_the_mean_over_taps_and_leaves_the_target_alone() -> None:
    fake = {"a": torch.zeros(1, 2, requires_grad=True), "b": torch.zeros(1, 8, requires_grad=True)}
    real = {"a": torch.ones(1, 2, requires_grad=True), "b": torch.full((1, 8), 3.0)}
    value = FeatureMatching()(torch.zeros(1), torch.zeros(1), fake_features=fake, real_features=real)
    assert value.item() == pytest.approx(2)
    value.backward()
    assert real["a"].grad is None


@pytest.fixture
def adversarial(tiny: dict[str, Any]) -> dict[str, Any]:
    """Twelve steps: four of pixels, four of ramp, four of the full game, with everything that draws or remembers."""
    return {
        **tiny,
        "loss": "l1 + 0.01*gan_vanilla(label_noise=0.1, label_smoothing=0.1) + 0.1*feature_matching",
        "adversarial": {
            "discriminator": {"type": "patch_d", "channels": 8},
            "start_step": 4,
            "ramp_steps": 3,
            "pixel_loss": "mse",
            "r1_gamma": 1.0,
            "r1_every": 3,
            "updates_per_step": 2,
        },
        "training": {**tiny["training"], "steps": 12, "log_every": 1, "validate_every": 2},
    }


def run(folder: Path, plain: dict[str, Any], **options: Any) -> Ledger:
    ledger = Ledger(folder)
    config = parse_trial(plain)
    ledger.create(config, command="test")
    train(config, world=WORLD, ledger=ledger, **options)
    return ledger


def test_a_trial_goes_through_its_phases_and_the_ledger_tells(
    adversarial: dict[str, Any], tmp_path: Path
) -> None:
    ledger = run(tmp_path / "trial", adversarial)
    assert ledger.status().state is State.FINISHED
    rows = ledger.rows("train")
    assert [set(row["terms"]) for row in rows[:4]] == [{"mse"}] * 4
    assert all("discriminator" not in row for row in rows[:4])
    assert [row["discriminator"]["weight"] for row in rows[4:]] == [0.25, 0.5, 0.75, *[1.0] * 5]
    assert [row["discriminator"]["phase"] for row in rows[4:]] == ["ramp"] * 3 + ["adversarial"] * 5
    assert [row["discriminator"]["updates"] for row in rows[4:]] == list(range(2, 18, 2))
    full = rows[-1]["terms"]
    assert set(full) == {"l1", "gan_vanilla", "feature_matching"}
    assert full["gan_vanilla"]["weighted"] == pytest.approx(0.01 * full["gan_vanilla"]["raw"])
    assert all(0 < term["gradient_share"] < 1 for term in full.values())
    assert 0 <= rows[-1]["discriminator"]["accuracy"] <= 1


@pytest.mark.parametrize("dies_at", [2, 6, 10])
def test_a_trial_killed_in_any_phase_ends_bit_identical(
    adversarial: dict[str, Any], tmp_path: Path, dies_at: int
) -> None:
    from tests.unit.sr.test_train import KilledError, equal, final_state

    def die(metrics: dict[str, float]) -> None:
        if metrics["step"] == dies_at:
            raise KilledError

    undisturbed = run(tmp_path / "a", adversarial)
    with pytest.raises(KilledError):
        run(tmp_path / "b", adversarial, report=die)
    resumed = run(tmp_path / "b", adversarial)
    one, other = final_state(undisturbed), final_state(resumed)
    for part in ("engine", "ema", "discriminator", "discriminator_ema", "adversary"):
        assert equal(one[part], other[part]), part


def test_the_generators_start_does_not_depend_on_the_game(
    adversarial: dict[str, Any], tmp_path: Path
) -> None:
    from tests.unit.sr.test_train import equal, final_state

    short = {**adversarial, "training": {**adversarial["training"], "steps": 2}}
    plain = {**short, "loss": "mse", "adversarial": None}
    with_game, without = run(tmp_path / "a", short), run(tmp_path / "b", plain)
    assert equal(final_state(with_game)["ema"], final_state(without)["ema"])


def test_the_discriminator_learns_to_tell_and_its_weights_get_no_gradient_from_the_generator() -> None:
    config = AdversarialConfig(discriminator=Component(type="patch_d", channels=8))  # type: ignore[call-arg]
    adversary = Adversary(
        config,
        game("gan_hinge"),
        seed=0,
        betas=(0.9, 0.99),
        world=WORLD,
        engine=EngineConfig(),
        accumulation_steps=1,
    )
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(8, 3, 32, 32, generator=generator)
    sr = nn.functional.avg_pool2d(hr, 3, 1, 1).requires_grad_()
    from sr.losses.term import Views

    judged = adversary.judge(Views(sr, hr))
    assert judged.fake_logits is not None
    assert judged.real_logits is not None
    judged.fake_logits.sum().backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert not judged.real_logits.requires_grad
    assert all(p.grad is None and p.requires_grad for p in adversary.engine.module.parameters())
    rows = [adversary.learn([(sr, hr)], step=i, learning_rate=2e-3) for i in range(30)]
    assert rows[-1]["accuracy"] > 0.95
    assert rows[-1]["balance"] > rows[0]["balance"]


def test_a_discriminator_that_wins_sits_out_and_comes_back() -> None:
    config = AdversarialConfig(
        discriminator=Component(type="patch_d", channels=8),  # type: ignore[call-arg]
        skip_above_accuracy=0.6,
    )
    adversary = Adversary(
        config,
        game("gan_hinge"),
        seed=0,
        betas=(0.9, 0.99),
        world=WORLD,
        engine=EngineConfig(),
        accumulation_steps=1,
    )
    hr = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = [adversary.learn([(hr * 0, hr)], step=i, learning_rate=2e-3) for i in range(60)]
    assert rows[-1]["skipped"] > 0
    assert rows[-1]["updates"] + rows[-1]["skipped"] == 60
    before = rows[-1]["updates"]
    # Now nobody can tell, so its running accuracy falls to a half and it learns again.
    rows = [adversary.learn([(hr, hr)], step=i, learning_rate=2e-3) for i in range(200)]
    assert rows[-1]["updates"] > before


def test_phases_follow_from_the_step_alone() -> None:
    config = AdversarialConfig(
        discriminator=Component(type="patch_d", channels=8),  # type: ignore[call-arg]
        start_step=10,
        ramp_steps=4,
    )
    adversary = Adversary(
        config,
        game("gan_hinge"),
        seed=0,
        betas=(0.9, 0.99),
        world=WORLD,
        engine=EngineConfig(),
        accumulation_steps=1,
    )
    assert [adversary.phase(step) for step in (0, 9, 10, 13, 14)] == [
        Phase.PIXEL,
        Phase.PIXEL,
        Phase.RAMP,
        Phase.RAMP,
        Phase.ADVERSARIAL,
    ]
    assert [adversary.weight(step) for step in (9, 10, 13, 14)] == pytest.approx([0, 0.2, 0.8, 1])


def test_equal_seeds_give_equal_discriminators() -> None:
    config = AdversarialConfig(discriminator=Component(type="patch_d", channels=8))  # type: ignore[call-arg]
    first, second, other = (build_discriminator(config, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_discriminator_that_diverges_stops_the_trial_and_says_so(
    adversarial: dict[str, Any], tmp_path: Path
) -> None:
    adversarial["adversarial"]["learning_rate_factor"] = 1e30
    with pytest.raises(TrialDivergedError, match=r"step \d+: the discriminator's loss.*learning_rate_factor"):
        run(tmp_path / "trial", adversarial)


@pytest.mark.parametrize(
    ("loss", "section", "message"),
    [
        ("gan_vanilla + gan_hinge", {}, "gan_vanilla and gan_hinge are two games"),
        ("l1 + feature_matching", {}, "feature_matching needs a discriminator that learns"),
        (
            "l1 + gan_vanilla",
            {"discriminator": "vgg"},
            "adversarial.discriminator: unknown discriminator 'vgg'",
        ),
        ("l1 + gan_vanilla", {"start_steps": 1}, "adversarial.start_steps: unknown key 'start_steps'"),
        ("l1", {"start_steps": 1}, "adversarial: start_steps: unknown key 'start_steps'"),
        ("gan_vanilla", {"start_step": 5}, "adversarial.pixel_loss: missing"),
    ],
)
def test_mistakes_are_told(tiny: dict[str, Any], loss: str, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_trial({**tiny, "loss": loss, "adversarial": section})


def test_a_loss_without_a_game_has_no_opponent_whatever_the_sweep_shares(tiny: dict[str, Any]) -> None:
    shared = {**tiny, "adversarial": {"start_step": 3}}
    assert parse_trial({**shared, "loss": "l1"}) == parse_trial({**tiny, "loss": "l1"})
    config = parse_trial({**tiny, "loss": "l1 + gan_ragan"})
    assert config.adversarial is not None
    assert config.adversarial.discriminator.type == "unet_sn_d"
