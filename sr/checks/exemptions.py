"""What the losses that come along do not promise, and why; a loss of your own says it by an attribute `exempt`."""

from __future__ import annotations

from collections.abc import Mapping

_PRIOR = "looks at the output alone: a prior of smooth pictures, to go beside a loss that looks at the target"
_RESIDUAL = "the target itself has a residual along its own optical flow, as its description says"

SHIPPED: dict[str, Mapping[str, str]] = {
    "tv": dict.fromkeys(
        (
            "minimum at identity",
            "rises with blur",
            "rises with JPEG",
            "rises with a shift",
            "sees places",
            "NaN in the target",
        ),
        _PRIOR,
    ),
    "warp": {
        "minimum at identity": _RESIDUAL,
        "rises with blur": _RESIDUAL,
        "rises with JPEG": _RESIDUAL,
        "rises with a shift": _RESIDUAL,
        "precision": "the target's optical flow and its mask of what is visible amplify rounding",
    },
    "sobel": {
        "fine patterns": "its differences skip the pixel in the middle: period 2 is invisible to it, as its description says",
    },
    "contextual": {
        "crops agree": "whether a like feature occurs elsewhere depends on how large the picture is"
    },
    "focal_frequency": {
        "finite differences": "its weights are held fixed in the gradient, as the paper defines it",
    },
}
"""Name of a loss to the checks that do not apply, each with the reason."""
