"""What a degradation is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sr.degrade.draws import Draws


class Degradation(Protocol):
    """One entry of DEGRADATIONS, built from its settings: keyword parameters of plain types with defaults.

    `__init__` raises ValueError, beginning with the name of the setting, where one is out of range.
    """

    @property
    def reduces(self) -> bool:
        """Whether it makes pictures `scale` times smaller; else it leaves their size."""
        ...

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Degrades clips.

        Args:
            clips: float32, shape (B, T, 3, H, W), in [0, 1] but for overshoot of the step before.
            scale: Reduction factor; H and W are multiples of it in front of the step that reduces.
            draws: The only source of randomness.

        Returns:
            float32, shape (B, T, 3, H', W'); it need neither be clipped nor rounded.
        """
        ...
