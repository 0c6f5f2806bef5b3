"""Full-reference metrics that imitate an eye: piq's, the learned ones, and those in the DCT domain."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from sr.metrics.protocol import PSNR_CAP_DB, luma


def gmsd(sr: Tensor, hr: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014), by piq."""
    import piq

    return piq.gmsd(sr, hr, data_range=1.0, reduction="none")


def haarpsi(sr: Tensor, hr: Tensor) -> Tensor:
    """Haar wavelet-based perceptual similarity index (Reisenhofer et al. 2018), by piq."""
    import piq

    return piq.haarpsi(sr, hr, data_range=1.0, reduction="none")


def ms_ssim(sr: Tensor, hr: Tensor) -> Tensor:
    """Multi-scale SSIM on luma, five scales (Wang, Simoncelli, Bovik 2003), by piq; data range 255."""
    import piq

    return piq.multi_scale_ssim(luma(sr)[:, None], luma(hr)[:, None], data_range=255.0, reduction="none")


def mdsi(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean deviation similarity index (Nafchi et al. 2016), by piq."""
    import piq

    return piq.mdsi(sr, hr, data_range=1.0, reduction="none")


def vif(sr: Tensor, hr: Tensor) -> Tensor:
    """Visual information fidelity in the pixel domain (Sheikh and Bovik 2006), by piq."""
    import piq

    return piq.vif_p(sr, hr, data_range=1.0, reduction="none")


def dss(sr: Tensor, hr: Tensor) -> Tensor:
    """DCT subband similarity (Balanov et al. 2015), by piq."""
    import piq

    return piq.dss(sr, hr, data_range=1.0, reduction="none")


def psnr_hvs(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR weighted by contrast sensitivity, on luma (Egiazarian et al. 2006), capped at 100 dB."""
    from sr import hvs

    return hvs.psnr_hvs(luma(sr)[:, None], luma(hr)[:, None]).clamp(max=PSNR_CAP_DB)


def psnr_hvs_m(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR-HVS with masking, on luma (Ponomarenko et al. 2007), capped at 100 dB."""
    from sr import hvs

    return hvs.psnr_hvs_m(luma(sr)[:, None], luma(hr)[:, None]).clamp(max=PSNR_CAP_DB)


def lpips(sr: Tensor, hr: Tensor) -> Tensor:
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018).

    Raises:
        ValueError: AlexNet's weights are not there; names the file, its folders and the alternatives.
    """
    return _distance(_lpips(), sr, hr)


def dists(sr: Tensor, hr: Tensor) -> Tensor:
    """Deep image structure and texture similarity (Ding et al. 2020).

    Raises:
        ValueError: Its weights are not there; names the file, its folders and the alternatives.
    """
    return _distance(_dists(), sr, hr)


def _distance(network: nn.Module, sr: Tensor, hr: Tensor) -> Tensor:
    return network.to(sr.device).per_picture(sr.float(), hr.float()).double()  # type: ignore[operator]


@functools.cache
def _lpips() -> nn.Module:
    """Built once: hundreds of megabytes are read."""
    from sr.losses.lpips import Lpips

    return Lpips(net="alex").eval()


@functools.cache
def _dists() -> nn.Module:
    from sr.losses.dists import Dists

    return Dists().eval()
