"""The fresh classifier tells what can be told, says nothing where there is nothing, and disturbs nobody."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.adversary import build_discriminator
from sr.config import AdversarialConfig
from sr.ladder.fresh import train_fresh
from sr.metrics.perception_distortion import auc
from sr.section import Component

CPU = torch.device("cpu")
PATCH_D = Component(type="patch_d", channels=8, levels=2)  # type: ignore[call-arg]
CONFIG = AdversarialConfig(discriminator=PATCH_D)


class Enlarge(nn.Module):
    """A generator that is nearly right, with something in it that a mode would change."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, lr: Tensor) -> Tensor:
        frames = self.dropout(lr).flatten(0, 1) * self.gain
        return F.interpolate(frames, scale_factor=2, mode="bilinear").unflatten(0, lr.shape[:2])


class Echo(nn.Module):
    """A perfect generator, of what it is given."""

    def forward(self, lr: Tensor) -> Tensor:
        return lr


def pictures(count: int, seed: int) -> Tensor:
    """Blotches of many sizes with fine grain in them, float in [0, 1], shape (count, 1, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    grain = torch.rand(count, 3, 32, 32, generator=generator) - 0.5
    return (F.interpolate(coarse, size=32, mode="bilinear") + 0.3 * grain).clamp(0, 1)[:, None]


def blurred(hr: Tensor) -> Tensor:
    return F.avg_pool2d(hr[:, 0], 2)[:, None]


def batches(count: int, *, is_exact: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(count):
        hr = pictures(8, step)
        yield hr, hr if is_exact else blurred(hr)


def fit(generator: nn.Module, steps: int, *, config: AdversarialConfig = CONFIG, seed: int = 0) -> nn.Module:
    material = batches(steps, is_exact=isinstance(generator, Echo))
    return train_fresh(config, generator, material, steps=steps, seed=seed, device=CPU)


def judged(classifier: nn.Module, generator: nn.Module) -> float:
    hr = pictures(200, 10**6)
    fake_hr = pictures(200, 10**6 + 1)
    with torch.no_grad():
        fake = generator.eval()(fake_hr if isinstance(generator, Echo) else blurred(fake_hr))
        scores = [classifier(x)[0].reshape(len(x), -1).mean(dim=1).numpy() for x in (hr, fake)]
    return auc(*scores)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_tells_blurred_from_sharp_and_not_a_perfect_copy() -> None:
    assert judged(fit(Enlarge(), 25), Enlarge()) > 0.9
    assert judged(fit(Echo(), 25), Echo()) == pytest.approx(0.5, abs=0.1)


def test_nobody_is_disturbed() -> None:
    generator = Enlarge().train()
    before = torch.random.get_rng_state()
    classifier = fit(generator, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generator.training
    assert generator.dropout.training
    assert generator.gain.requires_grad
    assert generator.gain.grad is None
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    frozen = Enlarge().eval()
    assert same(fit(frozen, 3), classifier), "the mode that the generator came with has no influence"
    assert not frozen.training


def test_equal_calls_give_equal_weights_whatever_was_drawn_before() -> None:
    first = fit(Enlarge(), 5)
    torch.rand(7)
    assert same(first, fit(Enlarge(), 5))
    assert not same(first, fit(Enlarge(), 5, seed=1))


def test_it_begins_as_new() -> None:
    config = AdversarialConfig(discriminator=Component(type="vgg_d", channels=4, dense_channels=8))  # type: ignore[call-arg]
    assert same(fit(Enlarge(), 0, config=config, seed=3), build_discriminator(config, seed=3))


def test_what_a_file_cannot_hold_is_no_evidence() -> None:
    class Overshoot(nn.Module):
        def forward(self, lr: Tensor) -> Tensor:
            # White becomes whiter than white, and all the rest moves by less than half a level.
            return torch.where(lr == 1, 1.5, lr + 0.4 / 255)

    def white(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(count):
            hr = pictures(4, step).mul(2).clamp(0, 1).mul(255).round() / 255
            yield hr, hr

    over = train_fresh(CONFIG, Overshoot(), white(5), steps=5, seed=0, device=CPU)
    exact = train_fresh(CONFIG, Echo(), white(5), steps=5, seed=0, device=CPU)
    assert same(over, exact)


def test_the_penalty_is_the_trials() -> None:
    penalised = CONFIG.model_copy(update={"r1_gamma": 10.0, "r1_every": 2})
    assert not same(fit(Enlarge(), 3), fit(Enlarge(), 3, config=penalised))
    assert judged(fit(Enlarge(), 20, config=penalised), Enlarge()) > 0.8


def test_it_says_how_far_it_is_and_when_data_end() -> None:
    told: list[str] = []
    material = batches(30)
    train_fresh(CONFIG, Enlarge(), material, steps=25, seed=0, device=CPU, at=told.append)
    assert told[0] == "fresh classifier: step 0 of 25"
    assert len(told) == 2
    assert len(list(material)) == 5, "no more batches are taken than steps"
    with pytest.raises(ValueError, match="ended after 2 of 3 steps"):
        train_fresh(CONFIG, Enlarge(), batches(2), steps=3, seed=0, device=CPU)
