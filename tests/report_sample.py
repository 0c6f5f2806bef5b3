"""A report as a real sweep would fill it: crops cut from photographs, degraded and restored in ways that losses do."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import cache

import numpy as np
import skimage.data
from PIL import Image, ImageEnhance, ImageFilter

from sweeps.report.data import (
    CandidateRow,
    Crop,
    Curve,
    Difference,
    Estimate,
    MetricInfo,
    OnWholeSet,
    ReportData,
    TrialRow,
)
from tests import findings_sample

PSNR = MetricInfo(
    "psnr_y", "PSNR-Y", "dB", True, 2, "BT.601 luma, rounded to 8 bits, border of 4 px cut, mean of images"
)
SSIM = MetricInfo("ssim_y", "SSIM-Y", "", True, 4, "luma, Gaussian window of 11 px, border of 4 px cut")
LPIPS = MetricInfo("lpips", "LPIPS", "", False, 4, "AlexNet, version 0.1, RGB in [-1, 1]")
METRICS = (PSNR, SSIM, LPIPS)
BASELINE = {"psnr_y": 27.314, "ssim_y": 0.8012, "lpips": 0.3377}
HALF_WIDTH = {"psnr_y": 0.09, "ssim_y": 0.003, "lpips": 0.008}
NAMES = ("charbonnier", "l1", "0.8*l1 + 0.2*ssim", "mse", "l1 + 0.1*vgg", "l1 + 0.1*lpips", "gan")
SCALE = 4
CROP_SIZE = 128


def loss_names(count: int) -> tuple[str, ...]:
    more = (f"l1 + {0.01 * place:.2f}*contextual" for place in range(1, count + 1))
    return (*NAMES, *more)[:count]


def sample(
    *,
    num_losses: int = 6,
    num_crops: int = 4,
    num_seeds: int = 3,
    is_running: bool = False,
    is_searched: bool = False,
) -> ReportData:
    """`num_losses` trained losses and bicubic; the last trial of the second loss failed, one of the third stopped.

    With `is_searched` there are also tuned settings, rungs and a ladder.
    """
    names = loss_names(num_losses)
    rng = np.random.default_rng(7)
    rows = tuple(_row(place, name, num_seeds, rng) for place, name in enumerate(names))
    return ReportData(
        title="Which loss for 4x photographs?",
        sweep_id="photos-x4-7f3a91",
        is_running=is_running,
        verdict=(
            f"Train with {names[0]}: it beats bicubic by 1.21 dB PSNR-Y (95 % interval 1.12 to 1.30), "
            "but cannot be told apart from l1 on these 24 pictures."
        ),
        caveats=(
            "With 24 source pictures, differences below about 0.06 dB cannot be detected.",
            "One of the trials failed and was left out of its loss's mean: see the table of trials.",
        ),
        metrics=METRICS,
        distortion_metric="psnr_y",
        perception_metric="lpips",
        candidates=(*rows, _baseline_row()),
        why_not_told_from_real="",
        curve_metric=PSNR,
        curves=tuple(
            _curve(name, place, seed, rng) for place, name in enumerate(names) for seed in range(num_seeds)
        ),
        curve_baseline=27.05,
        ladders=findings_sample.ladders(names[-1], PSNR, _true_scores(0)["psnr_y"]) if is_searched else (),
        crops=tuple(_crop(place, names) for place in range(num_crops)),
        trials=tuple(
            _trial(name, place, seed) for place, name in enumerate(names) for seed in range(num_seeds)
        ),
        facts=(
            ("data set", "photos, 412 pictures, 38 held out"),
            ("fingerprint", "sha256:91c5d0e2b7aa4f13"),
            ("degradation", "bicubic with antialiasing, factor 4, rounded to 8 bits"),
            ("evaluation", "24 pictures, 96 tiles, whole tiles, EMA weights"),
            ("protocol", "3 seeds, 400 steps of 16 patches of 96 px, equal budget per loss"),
            ("environment", "Python 3.11, PyTorch 2.11, 4 GPUs on 1 node"),
            ("code", "srloss 0.1.0, commit 3f2c1ab, no local changes"),
        ),
        findings=findings_sample.findings(
            names, num_seeds=num_seeds, best=_true_scores(0)["psnr_y"], is_searched=is_searched
        ),
        command="srloss sweep photos.yaml --seeds 3 --set train.steps=400 --set data.shards=/data/photos-shards",
    )


def _around(mean: float, half: float) -> Estimate:
    return Estimate(mean, mean - half, mean + half)


def _true_scores(place: int) -> dict[str, float]:
    """Each next loss is less faithful and, for the first few, closer in perception."""
    return {
        "psnr_y": 28.524 - 0.03 * place - 0.055 * min(place, 6) ** 1.6,
        "ssim_y": 0.8391 - 0.0012 * place - 0.0008 * min(place, 6) ** 1.5,
        "lpips": 0.2581 - 0.026 * min(place, 5) + 0.006 * max(place - 5, 0),
    }


def _row(place: int, name: str, num_seeds: int, rng: np.random.Generator) -> CandidateRow:
    scores = _true_scores(place)
    spread = {metric: 0.25 * half for metric, half in HALF_WIDTH.items()}
    return CandidateRow(
        name=name,
        is_baseline=False,
        num_seeds=num_seeds,
        scores={metric: _around(mean, 12 * HALF_WIDTH[metric]) for metric, mean in scores.items()},
        seed_scores={m: tuple(rng.normal(mean, spread[m], num_seeds).tolist()) for m, mean in scores.items()},
        to_baseline={
            metric: Difference(_around(mean - BASELINE[metric], HALF_WIDTH[metric]), 0.0002 * 4**place % 0.8)
            for metric, mean in scores.items()
        },
        best_on=("psnr_y", "ssim_y") if place == 0 else ("lpips",) if place == 5 else (),
        tied_with_best_on=("psnr_y", "ssim_y") if place == 1 else ("ssim_y",) if place == 2 else (),
        train_seconds=151.3 + 31.7 * place + 160.2 * (place > 3),
        images_per_second=412.6 / (1 + 0.21 * place),
        on_whole_set=_on_whole_set(scores["psnr_y"], told=0.97 - 0.06 * min(place, 5)),
        device_hours=findings_sample.hours(place),
    )


def _on_whole_set(mean: float, *, told: float) -> OnWholeSet:
    """As a set with a few hard pictures has it."""
    return OnWholeSet(
        median=mean - 0.41, p5=mean - 5.3, p95=mean + 8.7, of_the_mean=mean - 1.9, rmse=420 * 10 ** (-mean / 20),
        region=2, told_from_real=Estimate(told, told - 0.08, min(told + 0.05, 1.0)),
    )  # fmt: skip


def _baseline_row() -> CandidateRow:
    return CandidateRow(
        name="bicubic",
        is_baseline=True,
        num_seeds=0,
        scores={metric: _around(mean, 12 * HALF_WIDTH[metric]) for metric, mean in BASELINE.items()},
        seed_scores={},
        to_baseline={},
        best_on=(),
        tied_with_best_on=(),
        train_seconds=None,
        images_per_second=None,
        on_whole_set=_on_whole_set(BASELINE["psnr_y"], told=0.996),
    )


def _curve(name: str, place: int, seed: int, rng: np.random.Generator) -> Curve:
    steps = tuple(range(20, 401, 20))
    end = _true_scores(place)["psnr_y"] - 0.2
    values = [end - 3.4 * float(np.exp(-step / 60)) + rng.normal(0, 0.035) for step in steps]
    rate = (151.3 + 31.7 * place + 160.2 * (place > 3)) / 400
    seconds = tuple(rate * step * (1 + 0.02 * seed) for step in steps)
    hours = tuple(findings_sample.RANKS * second / 3600 for second in seconds)
    return Curve(name, seed, steps, seconds, tuple(values), tuple(16 * step for step in steps), hours)


def _trial(name: str, place: int, seed: int) -> TrialRow:
    state, reason, steps = "finished", "all 400 steps", 400
    if (place, seed) == (1, 2):
        state, steps = "failed", 130
        reason = "NaN in term 'l1' at step 130 on rank 0; log: runs/photos-x4/l1-s2/trial.log"
    elif (place, seed) == (2, 1):
        state, reason, steps = "stopped_early", "wall-time cap of 200 s at step 311", 311
    return TrialRow(
        trial_id=f"{place:02d}{seed}a7c{place * 3 + seed:03x}",
        candidate=name,
        settings=f"seed={seed}",
        state=state,
        reason=reason,
        steps=steps,
        seconds=(151.3 + 31.7 * place) * steps / 400,
        attempts=2 if (place, seed) == (0, 1) else 1,
        stream_hash=f"{0x9E3779B97F4A * (seed + 3) % 16**12:012x}",
        command=f"srloss train photos.yaml --set loss='{name}' --set seed={seed} --set train.steps=400",
    )


# --- crops ------------------------------------------------------------------------------------------------------------

_PLACES = (
    ("astronaut", 160, 60),
    ("chelsea", 130, 90),
    ("coffee", 180, 130),
    ("astronaut", 40, 330),
    ("chelsea", 20, 20),
)


@cache
def _photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _psnr(image: Image.Image, truth: Image.Image) -> float:
    pair = (np.asarray(picture.convert("L"), np.float64) for picture in (image, truth))
    error = float(np.mean(np.square(np.subtract(*pair))))
    return 10 * float(np.log10(255**2 / error))


def _restored(bicubic: Image.Image, truth: Image.Image, place: int) -> Image.Image:
    """Towards the truth as a trained model would be, then smooth or crisp as the loss is."""
    better = Image.blend(bicubic, truth, 0.45 - 0.012 * min(place, 12))
    if place % 3 == 1:
        return better.filter(ImageFilter.GaussianBlur(0.5))
    if place % 3 == 2:
        return ImageEnhance.Sharpness(better).enhance(1.6 + 0.1 * min(place, 8))
    return better


def _crop(place: int, names: tuple[str, ...]) -> Crop:
    photo, left, top = _PLACES[place % len(_PLACES)]
    shift = 16 * (place // len(_PLACES))
    left, top = left + shift, top + shift
    truth = _photo(photo).crop((left, top, left + CROP_SIZE, top + CROP_SIZE))
    small = truth.resize((CROP_SIZE // SCALE, CROP_SIZE // SCALE), Image.Resampling.BICUBIC)
    bicubic = small.resize(truth.size, Image.Resampling.BICUBIC)
    versions = {"bicubic": bicubic} | {
        name: _restored(bicubic, truth, index) for index, name in enumerate(names)
    }
    shown = {"LR": small, **versions, "HR": truth}
    return Crop(
        title=f"{photo}, tile {place + 1}",
        reason="losses disagree most here" if place % 2 == 0 else "largest gain over bicubic",
        images=tuple((label, _png(image)) for label, image in shown.items()),
        scores={label: _psnr(image, truth) for label, image in versions.items()},
    )


def with_frames(data: ReportData) -> ReportData:
    """The same report, its first crop being a clip that pans over the photograph."""
    crop = replace(
        data.crops[0], notes={label: f"tOF 0.{len(label):03d} px" for label in data.crops[0].scores}
    )
    still = [(label, np.asarray(Image.open(io.BytesIO(content)))) for label, content in crop.images[1:]]
    frames = [(n, np.concatenate([a[32:96, 4 * t : 4 * t + 64] for t in range(7)], axis=1)) for n, a in still]
    rows = [(n, np.repeat([a[64, 4 * t : 4 * t + 96] for t in range(7)], 9, axis=0)) for n, a in still]
    moving = [
        replace(crop, kind=kind, scores={}, images=tuple((n, _png(Image.fromarray(a))) for n, a in images))
        for kind, images in (("frames", frames), ("slice", rows))
    ]
    return replace(data, crops=(*data.crops, *moving))


# --- what must not break the page -------------------------------------------------------------------------------------

NASTY = """<script>alert('x')</script> "quoted" 'single' & ünïcödé 学 | \\ `tick` \x00\x08 {{ 7*7 }}"""
NAN = float("nan")


def nasty(data: ReportData) -> ReportData:
    """The same report with every text, and the first loss's name, out of an attacker's or a poet's hand."""
    first = data.candidates[0]
    old = first.name
    return replace(
        data,
        title=NASTY,
        sweep_id=NASTY,
        verdict=NASTY,
        caveats=(NASTY,),
        why_not_told_from_real=NASTY,
        metrics=(replace(PSNR, label=NASTY, unit=NASTY, convention=NASTY), *data.metrics[1:]),
        curve_metric=replace(PSNR, label=NASTY),
        candidates=(replace(first, name=NASTY), *data.candidates[1:]),
        curves=tuple(replace(c, candidate=NASTY) if c.candidate == old else c for c in data.curves),
        crops=tuple(
            replace(
                crop,
                title=NASTY,
                reason=NASTY,
                images=tuple((NASTY if label == old else label, png) for label, png in crop.images),
            )
            for crop in data.crops
        ),
        trials=(
            replace(
                data.trials[0], candidate=NASTY, reason=NASTY, settings=NASTY, command=NASTY, state=NASTY
            ),
            *data.trials[1:],
        ),
        facts=((NASTY, NASTY),),
        findings=findings_sample.renamed(data.findings, old, NASTY),
        command=NASTY,
    )


def _odd_row(name: str, score: Estimate, difference: Difference | None) -> CandidateRow:
    return CandidateRow(
        name=name,
        is_baseline=False,
        num_seeds=2,
        scores={"psnr_y": score},
        seed_scores={"psnr_y": (score.mean, NAN)},
        to_baseline={"psnr_y": difference} if difference else {},
        best_on=(),
        tied_with_best_on=(),
        train_seconds=None,
        images_per_second=NAN,
        on_whole_set=OnWholeSet(NAN, -math.inf, math.inf, None, NAN, None, score),
    )


ODD_ROWS = (
    _odd_row("nan", Estimate(NAN, NAN, NAN), Difference(Estimate(NAN, NAN, NAN), None)),
    _odd_row("inf", Estimate(math.inf, 20, math.inf), Difference(Estimate(math.inf, 0, math.inf), NAN)),
    _odd_row("half", Estimate(27.2, 27.0, 27.4), Difference(Estimate(-0.004, -math.inf, 0.1), 1.0)),
    _odd_row("point", Estimate(27.2, 27.2, 27.2), Difference(Estimate(0.0, 0.0, 0.0), None)),
    _odd_row("bare", Estimate(-0.0, -1, 1), None),
)

_SMALL = sample(num_losses=2, num_crops=1)
ODD_INPUTS = {
    "running": replace(_SMALL, is_running=True),
    "one candidate": sample(num_losses=1, num_crops=1, num_seeds=1),
    "no candidates": replace(_SMALL, candidates=()),
    "only the baseline": replace(_SMALL, candidates=_SMALL.candidates[-1:]),
    "no baseline": replace(_SMALL, candidates=_SMALL.candidates[:-1], curve_baseline=None),
    "forty candidates": sample(num_losses=40, num_crops=1),
    "nothing on the whole set": replace(
        _SMALL, candidates=tuple(replace(row, on_whole_set=None) for row in _SMALL.candidates)
    ),
    "few sources": replace(
        _SMALL,
        why_not_told_from_real="3 held-out pictures; it takes 4 or more",
        candidates=tuple(
            replace(row, on_whole_set=row.on_whole_set and replace(row.on_whole_set, told_from_real=None))
            for row in _SMALL.candidates
        ),
    ),
    "no crops": replace(_SMALL, crops=()),
    "empty crop": replace(_SMALL, crops=(Crop("nothing", "", (), {}), *_SMALL.crops)),
    "crop that is no PNG": replace(_SMALL, crops=(Crop("broken", "", (("LR", b""), ("other", b"GIF")), {}),)),
    "no curves": replace(_SMALL, curves=()),
    "empty curve": replace(_SMALL, curves=(Curve("l1", 0, (), (), ()),)),
    "one point": replace(_SMALL, curves=(Curve("l1", 0, (10,), (1.5,), (27.0,)),)),
    "step zero only": replace(_SMALL, curves=(Curve("l1", 0, (0,), (0.0,), (27.0,)),), curve_baseline=NAN),
    "NaN in a curve": replace(
        _SMALL, curves=(Curve("l1", 0, (1, 2, 3), (1.0, 2.0, NAN), (27.0, NAN, math.inf)),)
    ),
    "curve of an unknown loss": replace(_SMALL, curves=(Curve("gone", 0, (1, 2), (1.0, 2.0), (1.0, 2.0)),)),
    "no trials": replace(_SMALL, trials=()),
    "trial of an unknown loss": replace(
        _SMALL, trials=(TrialRow("x", "gone", "", "failed", "", 0, NAN, 0, "", ""), *_SMALL.trials)
    ),
    "unknown state": replace(_SMALL, trials=(replace(_SMALL.trials[0], state="lost"),)),
    "no caveats": replace(_SMALL, caveats=()),
    "no metrics": replace(_SMALL, metrics=()),
    "one metric": replace(_SMALL, metrics=(LPIPS,), distortion_metric="lpips"),
    "planes of unknown metrics": replace(_SMALL, distortion_metric="?", perception_metric="??"),
    "odd estimates": replace(_SMALL, candidates=(*ODD_ROWS, _SMALL.candidates[-1])),
    "empty words": replace(_SMALL, title="", sweep_id="", verdict="", command="", facts=()),
}
