"""The metrics by name, and the profiles they are reported in. To add a metric: a function and one line in METRICS."""

from __future__ import annotations

from dataclasses import dataclass

from sr.metrics import consistency, faces, perceptual, pixel, seeds, temporal
from sr.metrics.protocol import Metric, Protocol

_Y = Protocol("sr-y", 255.0, "y")
_RGB = Protocol("rgb", 1.0, "rgb")
_LEVELS = Protocol("rgb", 255.0, "rgb")
_EYE = Protocol("perceptual", 1.0, "rgb")
_EYE_Y = Protocol("perceptual", 255.0, "y")
_INPUT = Protocol("consistency", 1.0, "rgb", crop="none")
_CAST = Protocol("consistency", 1.0, "lab")
_SEED0 = Protocol("seed0", 255.0, "rgb", crop="none", quantised=False, over_frames="sum")
_SEED2 = Protocol("seed2", 1.0, "rgb", crop="none", quantised=False)
_SEED4 = Protocol("seed4", 255.0, "rgb", crop="none")
_SEED4_Y = Protocol("seed4", 255.0, "y", crop="none")
_CLIP = Protocol("temporal", 1.0, "rgb", per="clip")
_CLIP_Y = Protocol("temporal", 1.0, "y", per="clip")
_CLIP_LEVELS = Protocol("temporal", 255.0, "rgb", per="clip")
_FACE = Protocol("faces", 255.0, "rgb", crop="none")

_ILK = "flow by scikit-image's optical_flow_ilk, radius 7, on luma; all consecutive frames"
_ALL_CHANNELS = "three channels together, mean of per-clip values"
_FACE_RULE = "dlib: HOG detector, 5 landmarks, 128 numbers; nan where HR shows no face"

METRICS: dict[str, Metric] = {
    "psnr_y": Metric(
        pixel.psnr_y, "PSNR-Y", "dB", True, 2, "luma (BT.601 studio range), mean of per-clip values", _Y,
        in_decibels_of_mse=True,
    ),
    "ssim_y": Metric(
        pixel.ssim_y, "SSIM-Y", "", True, 4, "luma, Gaussian window 11, sigma 1.5, no downsampling", _Y, min_side=11
    ),
    "psnr_rgb": Metric(pixel.psnr_rgb, "PSNR-RGB", "dB", True, 2, _ALL_CHANNELS, _RGB, in_decibels_of_mse=True),
    "gmsd": Metric(
        perceptual.gmsd, "GMSD", "", False, 4,
        "luma gradients, lower is better, no network weights (piq)", _EYE, min_side=8,
    ),
    "haarpsi": Metric(
        perceptual.haarpsi, "HaarPSI", "", True, 4, "Haar wavelets, RGB, no network weights (piq)", _EYE, min_side=16
    ),
    "mse_y": Metric(pixel.mse_y, "MSE-Y", "levels²", False, 2, "luma (BT.601 studio range), 0..255", _Y),
    "ssim_rgb": Metric(
        pixel.ssim_rgb, "SSIM-RGB", "", True, 4,
        "mean of three channels, Gaussian window 11, sigma 1.5, no downsampling", _RGB, min_side=11,
    ),
    "mse_rgb": Metric(pixel.mse_rgb, "MSE-RGB", "levels²", False, 2, "three channels together, 0..255", _LEVELS),
    "ms_ssim": Metric(
        perceptual.ms_ssim, "MS-SSIM-Y", "", True, 4, "luma, five scales, Gaussian window 11 (piq)", _EYE_Y, min_side=161
    ),
    "mdsi": Metric(
        perceptual.mdsi, "MDSI", "", False, 4,
        "gradients and chroma, lower is better, no network weights (piq)", _EYE, min_side=8,
    ),
    "vif": Metric(
        perceptual.vif, "VIFp", "", True, 4,
        "pixel domain, luma .299 .587 .114; above 1 where contrast is raised (piq)", _EYE, min_side=41,
    ),
    "dss": Metric(
        perceptual.dss, "DSS", "", True, 4,
        "similarity of 8 x 8 DCT sub-bands, nearly blind to the mean level, no network weights (piq)",
        _EYE, min_side=40,
    ),
    "psnr_hvs": Metric(
        perceptual.psnr_hvs, "PSNR-HVS", "dB", True, 2, "luma, 8 x 8 DCT weighted by contrast sensitivity", _EYE_Y,
        min_side=8, in_decibels_of_mse=True,
    ),
    "psnr_hvs_m": Metric(
        perceptual.psnr_hvs_m, "PSNR-HVS-M", "dB", True, 2, "luma, 8 x 8 DCT, contrast sensitivity and masking",
        _EYE_Y, min_side=8, in_decibels_of_mse=True,
    ),
    "lpips": Metric(
        perceptual.lpips, "LPIPS", "", False, 4, "v0.1, AlexNet, lower is better; needs AlexNet's weights", _EYE,
        min_side=31,
    ),
    "dists": Metric(
        perceptual.dists, "DISTS", "", False, 4, "VGG16, lower is better; needs its weights", _EYE, min_side=16
    ),
    "lr_psnr": Metric(
        consistency.lr_psnr, "LR-PSNR", "dB", True, 2,
        "SR (8 bits), brought down by antialiased bicubic, to the generator's input", _INPUT, ("lr",),
        in_decibels_of_mse=True,
    ),
    "colour_shift": Metric(
        pixel.colour_shift, "colour shift", "ΔE ab", False, 3,
        "length of the mean (a*, b*) difference in CIE Lab, D65: a cast, not edges", _CAST,
    ),
    "tof": Metric(
        temporal.tof, "tOF", "px", False, 3, f"distance of optical flows; {_ILK}", _CLIP_Y, ("clip",), min_side=16
    ),
    "tlp": Metric(
        temporal.tlp, "tLP", "", False, 3,
        "100 x difference of frame-to-frame LPIPS (AlexNet); all consecutive frames", _CLIP, ("clip",), min_side=31,
    ),
    "warping_error": Metric(
        temporal.warping_error, "warping error", "", False, 5,
        f"squared, sum of channels on 0..1, HR's flow, forward-backward mask; {_ILK}", _CLIP, ("clip",), min_side=16,
    ),
    "flicker": Metric(
        temporal.flicker, "flicker", "levels", False, 3,
        "mean difference of frame-to-frame changes, 0..255; all consecutive frames", _CLIP_LEVELS, ("clip",),
    ),
    "psnr_seed0": Metric(
        seeds.psnr_seed0, "PSNR (seed 0)", "dB", True, 2, "sum over the frames of a clip, not clipped", _SEED0
    ),
    "ssim_seed0": Metric(
        seeds.ssim_seed0, "SSIM (seed 0)", "", True, 6,
        "global, constants .01 and .03 neither squared nor scaled, sum over the frames of a clip, not clipped", _SEED0,
    ),
    "mse_seed2": Metric(seeds.mse_seed2, "MSE (seed 2)", "", False, 5, "0..1, not clipped", _SEED2),
    "psnr_seed2": Metric(
        seeds.psnr_seed2, "PSNR (seed 2)", "dB", True, 3, "maximum 1, mean over frames, not clipped", _SEED2,
        in_decibels_of_mse=True,
    ),
    "ssim_seed2": Metric(
        seeds.ssim_seed2, "SSIM (seed 2)", "", True, 4, "maximum 1, mean of three channels, not clipped", _SEED2,
        min_side=11,
    ),
    "mse_seed4": Metric(seeds.mse_seed4, "MSE (seed 4)", "levels²", False, 4, "0..255 [recon: RGB]", _SEED4),
    "psnr_seed4": Metric(
        seeds.psnr_seed4, "PSNR (seed 4)", "dB", True, 4, "mean of per-picture PSNR, 0..255 [recon: RGB]", _SEED4,
        in_decibels_of_mse=True,
    ),
    "ssim_seed4": Metric(
        seeds.ssim_seed4, "SSIM (seed 4)", "", True, 4, "0..255 [recon: RGB, Gaussian window 11]", _SEED4, min_side=11
    ),
    "sharpness_seed4": Metric(
        seeds.sharpness_seed4, "sharpness difference (seed 4)", "", False, 4,
        "[recon] mean gradient of luma, (HR - SR) / HR; positive: smoother than HR", _SEED4_Y,
        min_side=2, zero_is_best=True,
    ),
    "sharpness_levels_seed4": Metric(
        seeds.sharpness_levels_seed4, "absolute sharpness difference (seed 4)", "levels/px", False, 4,
        "[recon] mean gradient of luma, HR - SR; positive: smoother than HR", _SEED4_Y, min_side=2, zero_is_best=True,
    ),
    "ffr": Metric(
        faces.ffr, "FFR", "", False, 3, f"share of frames not recognised, distance above .6 [recon]; {_FACE_RULE}",
        _FACE, extra="faces",
    ),
    "ffr_no_face": Metric(
        faces.ffr_no_face, "FFR, no face", "", False, 3, f"share of frames where SR shows no face; {_FACE_RULE}",
        _FACE, extra="faces",
    ),
    "ffr_mismatch": Metric(
        faces.ffr_mismatch, "FFR, mismatch", "", False, 3,
        f"share of frames where SR shows another face, distance above .6; {_FACE_RULE}", _FACE, extra="faces",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """Metrics that are reported together."""

    metrics: tuple[str, ...]
    """Keys of METRICS."""
    convention: str


DEFAULT_PROFILE = "sr-y"

PROFILES: dict[str, Profile] = {
    "sr-y": Profile(
        ("psnr_y", "ssim_y", "mse_y"),
        "8 bits, `scale` pixels cut from each border, BT.601 luma in studio range, data range 255, mean over frames",
    ),
    "rgb": Profile(
        ("psnr_rgb", "ssim_rgb", "mse_rgb"),
        "8 bits, `scale` pixels cut from each border, three channels, mean over frames",
    ),
    "seed0": Profile(
        ("psnr_seed0", "ssim_seed0"),
        "0..255, not clipped or rounded, no crop; sum over the frames of a clip, mean over clips; global SSIM",
    ),
    "seed2": Profile(
        ("mse_seed2", "psnr_seed2", "ssim_seed2"),
        "RGB, maximum 1, not clipped or rounded, no crop, mean over frames",
    ),
    "seed4": Profile(
        ("ssim_seed4", "mse_seed4", "psnr_seed4", "sharpness_seed4", "sharpness_levels_seed4"),
        "0..255, 8 bits, no crop, mean of per-picture values; sharpness and colour are reconstructions [recon]",
    ),
    "faces": Profile(
        ("ffr", "ffr_no_face", "ffr_mismatch"),
        "seed 4's failed face recognition, reconstructed [recon]; 8 bits, no crop; needs the extra `faces`",
    ),
    "weights-free": Profile(
        ("gmsd", "haarpsi", "mdsi", "dss", "psnr_hvs", "psnr_hvs_m", "colour_shift"),
        "8 bits, `scale` pixels cut from each border, mean over frames; no network weights, any size from 40 pixels",
    ),
    "perceptual": Profile(
        ("lpips", "dists", "ms_ssim", "gmsd", "haarpsi", "mdsi", "vif", "dss", "psnr_hvs", "psnr_hvs_m"),
        "8 bits, `scale` pixels cut from each border, mean over frames; pictures of at least 161 pixels",
    ),
    "consistency": Profile(
        ("lr_psnr", "colour_shift"), "8 bits; SR against its own input, and its colours against HR's"
    ),
    "temporal": Profile(
        ("tof", "tlp", "warping_error", "flicker"),
        "8 bits, `scale` pixels cut from each border, clips of at least two frames, all consecutive frames",
    ),
}
