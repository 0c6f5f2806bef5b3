"""Adversarial losses: of the generator and of the discriminator, two functions each, on logits of any shape.

The labels' smoothing and noise are settings of the loss, so that a weighted list says all about the game that is played.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.collective import mean_over_ranks, rand_rows
from sr.features.network import Features
from sr.losses.term import Term


class AdversarialLoss(Term):
    """Base of the games: a trial may play one of them. Its weight is never calibrated, for the opponent learns."""

    needs = ("fake_logits", "real_logits")
    calibrated = False

    def forward(self, sr: Tensor, hr: Tensor, *, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        """Returns the generator's loss; the pictures themselves are not looked at."""
        del sr, hr
        return self.generator_loss(fake_logits, real_logits)

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """What the generator minimises: a scalar that falls as `fake` is judged more real."""
        raise TypeError(f"{type(self).__name__} must define generator_loss()")

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """What the discriminator minimises: a scalar that falls as it tells the two apart."""
        raise TypeError(f"{type(self).__name__} must define discriminator_loss()")

    def penalty(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """What is added to the discriminator's loss besides; zero for most."""
        del discriminator, fake
        return real.new_zeros(())

    def correct(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the judgements are right, as bool tensors: of the fake ones, of the real ones."""
        return fake < 0, real > 0


class _Labelled(AdversarialLoss):
    """Games with labels to aim at: 1 for real, 0 for fake, made softer or noisy as asked."""

    def __init__(self, *, label_smoothing: float = 0.0, label_noise: float = 0.0) -> None:
        super().__init__()
        for name, value in (("label_smoothing", label_smoothing), ("label_noise", label_noise)):
            if not 0 <= value < 0.5:
                raise ValueError(f"{name}: {value} makes labels useless; give a number from 0 to below 0.5")
        self.label_smoothing = label_smoothing
        self.label_noise = label_noise

    def _real(self, logits: Tensor, *, smooth: bool) -> Tensor:
        """Labels of real pictures; one-sided smoothing is the discriminator's alone (Salimans et al. 2016)."""
        return 1 - (self.label_smoothing if smooth else 0.0) - self._noise(logits)

    def _fake(self, logits: Tensor) -> Tensor:
        return self._noise(logits)

    def _noise(self, logits: Tensor) -> Tensor:
        if not self.label_noise:
            return torch.zeros_like(logits)
        return rand_rows(*logits.shape).to(logits) * self.label_noise


class GanVanilla(_Labelled):
    """The original game in its non-saturating form: binary cross-entropy with the labels real and fake.

    Source: Goodfellow et al., NeurIPS 2014; in SRGAN (Ledig et al., CVPR 2017) with
    weight 1e-3 (from the literature, unverified).
    """

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Minus the log of the probability that the fake is real; log 2 at logit 0."""
        del real
        return F.binary_cross_entropy_with_logits(fake, self._real(fake, smooth=False))

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean of both cross-entropies; log 2 at logits 0."""
        on_real = F.binary_cross_entropy_with_logits(real, self._real(real, smooth=True))
        on_fake = F.binary_cross_entropy_with_logits(fake, self._fake(fake))
        return (on_real + on_fake) / 2


class GanLeastSquares(_Labelled):
    """Least squares instead of cross-entropy: a gradient also for what is judged right but lies far away.

    Source: Mao et al., ICCV 2017, "Least Squares Generative Adversarial Networks", labels 0 and 1.
    """

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean squared distance of the judgement from 1."""
        del real
        return F.mse_loss(fake, self._real(fake, smooth=False))

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean of both squared distances from the labels."""
        return (F.mse_loss(real, self._real(real, smooth=True)) + F.mse_loss(fake, self._fake(fake))) / 2

    def correct(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Judgements nearer to their own label than to the other's."""
        return fake < 0.5, real > 0.5


class GanHinge(AdversarialLoss):
    """The hinge game: the discriminator stops where it is sure enough.

    Source: Lim and Ye, 2017, "Geometric GAN"; Miyato et al., ICLR 2018.
    """

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Minus the mean judgement."""
        del real
        return -fake.mean()

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean of what is short of a margin of 1 on either side; 1 at logits 0."""
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


class GanWasserstein(AdversarialLoss):
    """Wasserstein's distance, by a critic whose gradient is held near 1 (WGAN-GP).

    Source: Gulrajani et al., NeurIPS 2017, "Improved Training of Wasserstein GANs", penalty 10.
    """

    def __init__(self, *, gradient_penalty: float = 10.0) -> None:
        super().__init__()
        self.gradient_penalty = gradient_penalty

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Minus the mean judgement."""
        del real
        return -fake.mean()

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean judgement of fakes minus that of real pictures."""
        return fake.mean() - real.mean()

    def penalty(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """Squared distance from 1 of the gradient's norm at random points between each real picture and its fake."""
        share = rand_rows(len(real), *[1] * (real.ndim - 1)).to(real)
        between = (share * real + (1 - share) * fake).detach().requires_grad_()
        return (
            self.gradient_penalty * (_input_gradient(discriminator, between).norm(dim=1) - 1).square().mean()
        )

    def correct(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Judgements on the right side of the midpoint: a critic's zero means nothing."""
        middle = mean_over_ranks((fake.mean() + real.mean()) / 2)
        return fake < middle, real > middle


class GanRelativistic(_Labelled):
    """The relativistic average game: is this more real than the others are on average?

    Source: Jolicoeur-Martineau, ICLR 2019; as in ESRGAN (Wang et al. 2018), with weight 5e-3 there (from
    the literature, unverified).
    """

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean cross-entropy of both kinds with their labels exchanged."""
        more, less = self._relative(fake, real)
        as_real = F.binary_cross_entropy_with_logits(more, self._real(more, smooth=False))
        as_fake = F.binary_cross_entropy_with_logits(less, self._fake(less))
        return (as_real + as_fake) / 2

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean cross-entropy of both kinds, each relative to the average of the other."""
        more, less = self._relative(fake, real)
        on_real = F.binary_cross_entropy_with_logits(less, self._real(less, smooth=True))
        on_fake = F.binary_cross_entropy_with_logits(more, self._fake(more))
        return (on_real + on_fake) / 2

    def correct(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Judgements on the right side of the other kind's average."""
        more, less = self._relative(fake, real)
        return more < 0, less > 0

    @staticmethod
    def _relative(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        return fake - mean_over_ranks(real.mean()), real - mean_over_ranks(fake.mean())


class FeatureMatching(Term):
    """The live discriminator's activations of SR and HR agree: mean L1 over its taps; it needs a gan_* term beside it.

    Source: Wang et al., CVPR 2018 (pix2pixHD), section 3.3, weight 10 there (from the literature, unverified).
    From 0 up, in the units of the discriminator's activations.
    """

    needs = ("fake_features", "real_features")
    calibrated = False

    def forward(self, sr: Tensor, hr: Tensor, *, fake_features: Features, real_features: Features) -> Tensor:
        """Returns the mean over taps of the mean absolute difference; the pictures themselves are not looked at."""
        del sr, hr
        differences = [F.l1_loss(value, real_features[tap].detach()) for tap, value in fake_features.items()]
        return torch.stack(differences).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Half the mean squared norm of the discriminator's gradient at real pictures.

    Source: Mescheder et al., ICML 2018, "Which Training Methods for GANs do actually Converge?", equation 9, gamma 1.
    """
    gradient = _input_gradient(discriminator, real.detach().requires_grad_())
    return gradient.square().sum(dim=1).mean() / 2


def _input_gradient(discriminator: nn.Module, pictures: Tensor) -> Tensor:
    """Gradient of each sample's summed judgement at its pictures, with a graph; shape (B, all the rest).

    Of a map of judgements the mean over positions is taken, so that the penalty does not grow with the crop.
    """
    logits, _ = discriminator(pictures)
    per_sample = logits.reshape(len(pictures), -1).mean(dim=1)
    return torch.autograd.grad(per_sample.sum(), pictures, create_graph=True)[0].flatten(1)
