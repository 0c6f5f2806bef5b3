"""Losses on what changes from frame to frame; all of them need clips of at least two frames."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.flow import optical_flow
from sr.losses.term import Term, as_frames
from sr.warp import visible, warp


class TemporalDifference(nn.Module):
    """Mean absolute error of the change from frame to frame: punishes flicker, and is blind to what stands still.

    mean |(s_t - s_{t-1}) - (y_t - y_{t-1})|, from 0 up, on the scale of the pictures. L1 of temporal derivatives.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss of clips (B, T, C, H, W), T >= 2.

        Raises:
            ValueError: The pictures are no clips, or clips of one frame.
        """
        _check_clips("temporal_diff", sr, hr)
        return F.l1_loss(sr.diff(dim=1), hr.diff(dim=1))


class WarpLoss(nn.Module):
    """Mean difference of each frame and its predecessor, moved along the optical flow of the HR clip.

    mean M |s_t - warp(s_{t-1})|, squared for `criterion="l2"`. The flow is that of HR, without a graph, and M hides what
    was occluded or came into the picture. HR itself does not have zero loss: where light, noise or motion blur change,
    its own residual remains, and nothing is subtracted for it. A frozen clip of nothing but the mean colour has none, so
    this term needs one beside it that compares with HR.

    Source: after Lai et al., ECCV 2018, "Learning Blind Video Temporal Consistency", short-term loss.
    """

    def __init__(self, *, criterion: Literal["l1", "l2"] = "l1") -> None:
        super().__init__()
        self.criterion: Literal["l1", "l2"] = criterion

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss of clips (B, T, 3, H, W), T >= 2.

        Raises:
            ValueError: The pictures are no clips, or clips of one frame.
        """
        _check_clips("warp", sr, hr)
        with torch.no_grad():
            before, now = as_frames(hr[:, :-1]), as_frames(hr[:, 1:])
            flow = optical_flow(now, before)
            mask = visible(flow, optical_flow(before, now))
            # A pixel that is no number has no flow either, and would be taken for hidden.
            mask = mask.masked_fill(hr.isnan().any(), torch.nan)
        residual = as_frames(sr[:, 1:]) - warp(as_frames(sr[:, :-1]), flow)
        return (mask * _size(residual, self.criterion)).mean()


class PingPong(Term):
    """Mean difference of a clip's frames on the way there and on the way back: punishes detail that drifts.

    The model sees the clip to its end and then backwards to its start; a frame must look the same both times.

    Source: Chu et al., ACM TOG 2020, "Learning Temporal Coherence via Self-Supervision for GAN-based Video Generation"
    (TecoGAN), section 3.3; their weight is 0.5 (from the literature, unverified).
    """

    needs: ClassVar[tuple[str, ...]] = ("sr_backward",)
    # Bicubic enlargement has no memory: at it, both ways are the same and the gradient is zero.
    calibrated: ClassVar[bool] = False

    def __init__(self, *, criterion: Literal["l1", "l2"] = "l1") -> None:
        super().__init__()
        self.criterion: Literal["l1", "l2"] = criterion

    def forward(self, sr: Tensor, hr: Tensor, *, sr_backward: Tensor | None = None) -> Tensor:
        """Returns the scalar loss of clips (B, T, C, H, W), T >= 2; `hr` is not looked at.

        Args:
            sr: The clip on the way there.
            hr: The target; only its shape matters.
            sr_backward: The same frames in the same order, as seen on the way back.

        Raises:
            ValueError: There is no second pass of the same shape, or the pictures are no clips.
        """
        _check_clips("pingpong", sr, hr)
        if sr_backward is None or sr_backward.shape != sr.shape:
            got = "none" if sr_backward is None else f"one of shape {tuple(sr_backward.shape)}"
            raise ValueError(
                f"loss term 'pingpong': needs the way back of the clip {tuple(sr.shape)}, got {got}; "
                "run the generator over the clip and its reverse, and give the frames in the order of `sr`"
            )
        return _size(sr - sr_backward, self.criterion).mean()


def _size(difference: Tensor, criterion: Literal["l1", "l2"]) -> Tensor:
    return difference.abs() if criterion == "l1" else difference.square()


def _check_clips(name: str, sr: Tensor, hr: Tensor) -> None:
    if sr.shape != hr.shape:
        raise ValueError(
            f"loss term '{name}': SR has shape {tuple(sr.shape)} and HR {tuple(hr.shape)}; give the same frames of both"
        )
    if sr.ndim != 5 or sr.shape[1] < 2:
        raise ValueError(
            f"loss term '{name}': needs clips (B, T, C, H, W) of two or more consecutive frames, got {tuple(sr.shape)}; "
            "pack clips of two or more frames (srloss shard pack ... --frames), or remove the term"
        )
