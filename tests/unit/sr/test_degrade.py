"""Degradations against independent implementations, and that what they draw depends on the clip only."""

import inspect
import io
import json
import math
import textwrap
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage
import torch
import torchvision.transforms.v2.functional as transforms
import yaml
from PIL import Image

from shards.manifest import load
from sr.config import parse_trial
from sr.configfile import ConfigError
from sr.data import open_stream, training_keys
from sr.degrade import DEGRADATIONS, complete_degradation, degrade
from sr.degrade.draws import Draws
from sr.ledger import Ledger
from sr.resize import bicubic
from sr.world import World

REDUCING = sorted(name for name, factory in DEGRADATIONS.items() if factory.reduces and name != "chain")
OTHERS = sorted(name for name, factory in DEGRADATIONS.items() if not factory.reduces)


def photo(height: int = 64, width: int = 80) -> np.ndarray:
    """uint8, shape (3, H, W)."""
    return np.ascontiguousarray(
        skimage.data.astronaut()[40 : 40 + height, 180 : 180 + width].transpose(2, 0, 1)
    )


def clips(number: int, frames: int = 2, height: int = 32, width: int = 40) -> torch.Tensor:
    whole = torch.from_numpy(photo(height + 8, width + 8)).float() / 255
    moved = [whole[:, i : i + height, i : i + width] for i in range(number * frames)]
    return torch.stack(moved).reshape(number, frames, 3, height, width)


def apply(hr: torch.Tensor, kind: str, *, scale: int = 2, key: str = "k", **parameters: Any) -> torch.Tensor:
    """One step without the final rounding; a key per clip."""
    draws = Draws(tuple(f"{key}{i}" for i in range(len(hr))))
    return DEGRADATIONS[kind](**parameters)(hr, scale=scale, draws=draws)


def chain(*steps: Any) -> dict[str, Any]:
    return {"kind": "chain", "parameters": {"steps": [*steps]}}


def as_chain(kind: str) -> dict[str, Any]:
    return {"kind": kind, "parameters": {}} if kind in REDUCING else chain("bicubic_aa", kind)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().item())


# --- against independent implementations ---


def imresize(picture: np.ndarray, scale: int) -> np.ndarray:
    """A plane reduced as MATLAB documents imresize: each output pixel by itself, 2-D weights, mirrored border."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    height, width = picture.shape
    reach = 2 * scale + 1
    mirrored = np.pad(picture.astype(np.float64), reach, mode="symmetric")
    out = np.empty((height // scale, width // scale))
    offsets = np.arange(-reach, reach + 1)
    for i, j in np.ndindex(*out.shape):
        # MATLAB counts from 1: u = x / s + (1 - 1 / s) / 2 with s = 1 / scale.
        u, v = ((n + 1) * scale + (1 - scale) / 2 - 1 for n in (i, j))
        top, left = math.floor(u), math.floor(v)
        rows = np.array([cubic((u - top - o) / scale) for o in offsets])
        columns = np.array([cubic((v - left - o) / scale) for o in offsets])
        weights = np.outer(rows, columns)
        patch = mirrored[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        out[i, j] = (weights * patch).sum() / weights.sum()
    return out


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_bicubic_aa_is_imresize_up_to_the_border(scale: int) -> None:
    picture = photo(48, 72)
    hr = torch.from_numpy(picture).float() / 255
    got = apply(hr[None, None], "bicubic_aa", scale=scale)[0, 0].numpy()
    wanted = np.stack([imresize(plane / 255, scale) for plane in picture])
    assert np.abs(got - wanted).max() < 1e-6
    stored = degrade(hr[None], kind="bicubic_aa", scale=scale, parameters={}, keys=["k"])
    assert np.array_equal((stored[0] * 255).round().numpy(), (wanted.clip(0, 1) * 255).round())


def test_bicubic_aa_has_the_known_weights_for_halving() -> None:
    # Keys' kernel at 1/4, 3/4, 5/4 and 7/4, halved, by hand: 111, 29, -9 and -3 of 256.
    impulse = torch.zeros(1, 1, 1, 2, 64)
    impulse[..., 32] = 1
    row = apply(impulse, "bicubic_aa", scale=2)[0, 0, 0, 0] * 256
    assert row[13:19].tolist() == pytest.approx([0, -3, 29, 111, -9, 0], abs=1e-4)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize(("kind", "flag"), [("bicubic_cv2", cv2.INTER_CUBIC), ("bilinear", cv2.INTER_LINEAR)])
def test_without_antialiasing_as_opencv(kind: str, flag: int, scale: int) -> None:
    hr = photo(48, 72).astype(np.float32) / 255
    theirs = cv2.resize(hr.transpose(1, 2, 0), (72 // scale, 48 // scale), interpolation=flag)
    ours = apply(torch.from_numpy(hr)[None, None], kind, scale=scale)[0, 0].permute(1, 2, 0)
    assert np.abs(ours.numpy() - theirs).max() < 1e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("phase", ["first", "centre"])
def test_blur_down_is_a_sampled_gaussian_at_its_phase(scale: int, phase: str) -> None:
    plane = photo(48, 72)[1] / 255
    offset = (scale - 1) / 2 if phase == "centre" else 0.0
    reach = 6.5 if offset % 1 else 6
    padded = np.pad(plane, 16, mode="edge")
    wanted = np.empty((48 // scale, 72 // scale))
    y, x = np.mgrid[: padded.shape[0], : padded.shape[1]] - 16.0
    for i, j in np.ndindex(*wanted.shape):
        dy, dx = y - (scale * i + offset), x - (scale * j + offset)
        weights = np.exp(-(dy**2 + dx**2) / (2 * 1.6**2)) * (abs(dy) <= reach) * (abs(dx) <= reach)
        wanted[i, j] = (weights * padded).sum() / weights.sum()
    hr = torch.from_numpy(plane).float().expand(1, 1, 3, 48, 72)
    got = apply(hr, "blur_down", scale=scale, phase=phase)[0, 0, 1].numpy()
    assert np.abs(got - wanted).max() < 1e-5


def test_gaussian_blur_is_scipys() -> None:
    hr = clips(1, frames=1)
    ours = apply(hr, "gaussian_blur", sigma=[1.7, 1.7], size=15)[0, 0, 0].numpy()
    theirs = scipy.ndimage.gaussian_filter(hr[0, 0, 0].double().numpy(), 1.7, radius=7, mode="nearest")
    assert np.abs(ours - theirs).max() < 1e-6


def test_seed0_coded_is_torchvisions_resize_and_blur() -> None:
    hr = clips(2, frames=3)
    got = apply(hr, "seed0_coded")
    widths = Draws(("k0", "k1")).uniform("seed0_coded.sigma", (0.1, 2.0), frames=3, per_frame=True)
    assert len(np.unique(widths)) == 6
    for clip, frame in np.ndindex(2, 3):
        small = transforms.resize(hr[clip, frame], [16, 20], antialias=False)
        blurred = transforms.gaussian_blur(small, [3, 3], [float(widths[clip, frame])])
        assert (got[clip, frame] - blurred).abs().max() < 1e-5


def test_seed0_told_is_a_fixed_blur_of_bicubic() -> None:
    hr = clips(1)
    small = bicubic(hr, height=16, width=20)
    wanted = transforms.gaussian_blur(small, [3, 3], [0.8])
    assert (apply(hr, "seed0_told", sigma=0.8) - wanted).abs().max() < 1e-5
    assert torch.equal(apply(hr, "seed0_told", key="a"), apply(hr, "seed0_told", key="b"))


@pytest.mark.parametrize(("name", "subsampling"), [("4:2:0", 2), ("4:4:4", 0)])
def test_jpeg_is_pillows_file(name: str, subsampling: int) -> None:
    pixels = photo()
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=37, subsampling=subsampling)
    wanted = np.asarray(Image.open(file)).transpose(2, 0, 1)
    hr = torch.from_numpy(pixels).float()[None, None] / 255
    got = apply(hr, "jpeg", quality=[37, 37], subsampling=name)[0, 0] * 255
    assert np.array_equal(got.round().numpy(), wanted)


def test_h264_keeps_what_its_quality_allows_and_any_size() -> None:
    hr = clips(1, frames=4, height=31, width=33)
    good, bad = (psnr(apply(hr, "h264", crf=[crf, crf]), hr) for crf in (1, 40))
    assert good > 32  # Colour at half the resolution costs most of it.
    assert bad < good - 6


def test_noise_has_the_distribution_it_says() -> None:
    hr = torch.full((4, 3, 3, 96, 96), 0.5)
    got = (apply(hr, "noise", sigma=[15, 15]) - hr) * 255
    assert got.std().item() == pytest.approx(15, rel=0.003)
    assert abs(got.mean().item()) < 0.1
    frames = got.flatten(2).flatten(0, 1)
    assert (torch.corrcoef(frames) - torch.eye(12)).abs().max() < 0.03
    channels = got.movedim(2, 0).flatten(1)
    assert (torch.corrcoef(channels) - torch.eye(3)).abs().max() < 0.02
    # Kurtosis tells a Gaussian from anything flatter.
    assert (got / got.std()).pow(4).mean().item() == pytest.approx(3, abs=0.05)
    grey = apply(hr, "noise", sigma=[15, 15], grey=True) - hr
    assert torch.allclose(grey[:, :, 0], grey[:, :, 2])


def test_strengths_are_drawn_evenly_for_each_clip_or_frame() -> None:
    hr = torch.full((200, 2, 1, 24, 24), 0.5)
    strength = (apply(hr, "noise", sigma=[0, 25]) - hr).mul(255).flatten(2).std(dim=2)
    assert strength.min() < 1
    assert strength.max() > 23
    assert strength.mean().item() == pytest.approx(12.5, abs=1.5)
    # Two frames of a clip differ by the error of the estimate only, unless drawn by themselves.
    apart = (strength[:, 0] - strength[:, 1]).abs().mean()
    assert apart < 0.8
    each = (apply(hr, "noise", sigma=[0, 25], per_frame=True) - hr).mul(255).flatten(2).std(dim=2)
    assert (each[:, 0] - each[:, 1]).abs().mean() > 4
    qualities = Draws(tuple("abcdefghijklmnopqrstuvwxyz")).integers("q", (30, 32), frames=4, per_frame=True)
    assert set(qualities.flatten().tolist()) == {30, 31, 32}


# --- what the draws depend on ---


@pytest.mark.parametrize("kind", [*REDUCING, *OTHERS])
def test_a_clip_gets_the_same_in_any_batch(kind: str) -> None:
    hr = clips(3)
    one = degrade(hr, scale=2, keys=["a", "b", "c"], **as_chain(kind))
    turned = degrade(hr.flip(0), scale=2, keys=["c", "b", "a"], **as_chain(kind)).flip(0)
    assert torch.equal(one, turned)
    alone = degrade(hr[1], scale=2, keys=["b"], **as_chain(kind))
    assert alone.shape == (2, 3, 16, 20)
    assert torch.equal(one[1], alone)
    assert torch.equal((one * 255).round() / 255, one)


@pytest.mark.parametrize("kind", ["seed0_coded", "gaussian_blur", "noise", "jpeg", "h264"])
def test_another_key_gets_something_else(kind: str) -> None:
    hr = clips(1)
    seen = [degrade(hr, scale=2, keys=[f"0/{epoch}/clip"], **as_chain(kind)) for epoch in range(4)]
    assert any(not torch.equal(seen[0], other) for other in seen[1:])


def test_two_steps_of_a_kind_draw_by_themselves() -> None:
    hr = torch.full((1, 1, 3, 64, 64), 0.5)
    noise = {"type": "noise", "sigma": [10, 10]}
    steps = chain("bilinear", noise, noise)
    twice = (degrade(hr, scale=2, keys=["a"], **steps) - 0.5) * 255
    assert twice.std().item() == pytest.approx(10 * math.sqrt(2), rel=0.05)


def test_draws_are_made_on_the_cpu_and_are_these() -> None:
    # Fixed for all time: a data set degraded today must be the same one tomorrow.
    draws = Draws(("0/0/clip",))
    assert draws.uniform("x", (0, 1), frames=2, per_frame=True)[0].tolist() == pytest.approx(PINNED[:2])
    assert draws.normal("x", (1,), device=torch.device("cpu"))[0, 0].item() == pytest.approx(PINNED[2])
    assert draws.normal("x", (2,), device=torch.device("meta")).shape == (1, 2)


PINNED = [0.3460160749000164, 0.3175141195436728, -0.271623432636261]


def test_training_draws_depend_on_epoch_and_clip_not_on_ranks(
    photos: Any, tiny: dict[str, Any], tmp_path: Any
) -> None:
    config = parse_trial({**tiny, "training": {**tiny["training"], "global_batch_size": 4}})

    def keys(rank: int, world_size: int) -> list[str]:
        world = World(rank=rank, world_size=world_size, device=torch.device("cpu"))
        stream = open_stream(config, load(photos), world, Ledger(tmp_path))
        found = [key for _ in range(3) for key in training_keys(stream.next_batch(), config)]
        stream.close()
        return found

    alone = keys(0, 1)
    assert len(set(alone)) == 12
    assert {key.split("/")[1] for key in alone} == {"0", "1", "2"}
    assert sorted(keys(0, 2) + keys(1, 2)) == sorted(alone)
    assert all(key.startswith("0/") for key in alone)
    config = parse_trial({**tiny, "seed": 5, "training": {**tiny["training"], "global_batch_size": 4}})
    assert all(key.startswith("5/") for key in keys(0, 1))


# --- chains and configuration ---


def test_a_chain_takes_its_steps_in_order() -> None:
    hr = clips(1)
    blur = {"type": "gaussian_blur", "sigma": [2.0, 2.0], "size": 9}
    before = degrade(hr, scale=2, keys=["a"], **chain(blur, "bicubic_aa"))
    after = degrade(hr, scale=2, keys=["a"], **chain("bicubic_aa", blur))
    first = apply(hr, "gaussian_blur", sigma=[2.0, 2.0], size=9)
    by_hand = apply(first, "bicubic_aa").clamp(0, 1).mul(255).round().div(255)
    assert torch.equal(before, by_hand)
    assert (before - after).abs().max() > 0.02


def test_the_recipe_in_the_docstring_is_a_configuration() -> None:
    text = inspect.getdoc(DEGRADATIONS["chain"]) or ""
    recipe = yaml.safe_load(textwrap.dedent(text[text.index("    degradation:") :]))["degradation"]
    full = complete_degradation(recipe, "degradation")
    assert len(full["steps"]) == 7
    parameters = {"steps": full["steps"]}
    lr = degrade(clips(1), kind="chain", scale=4, parameters=parameters, keys=["a"])
    assert lr.shape == (1, 2, 3, 8, 10)


@pytest.mark.parametrize("kind", sorted(DEGRADATIONS))
def test_settings_are_filled_in_and_stay(kind: str) -> None:
    value: Any = kind if kind in REDUCING else {"type": "chain", "steps": ["bicubic_aa", kind]}
    if kind == "chain":
        value = {"type": "chain", "steps": ["blur_down", {"type": "chain", "steps": ["bilinear"]}]}
        with pytest.raises(ConfigError, match="has 2 steps that reduce"):
            complete_degradation(value, "degradation")
        value["steps"][0] = "noise"
    full = json.loads(json.dumps(complete_degradation(value, "degradation")))
    assert json.loads(json.dumps(complete_degradation(full, "degradation"))) == full
    for step in full.get("steps", []):
        assert len(step) > 1 or step["type"] in ("bicubic_aa", "bilinear", "bicubic_cv2")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("noise", r"d: 'noise' leaves the size.*steps: \[bicubic_aa, noise\]"),
        ({"type": "chain"}, r"d\.steps: missing"),
        ({"type": "chain", "steps": ["noise"]}, r"d\.steps: noise has 0 steps that reduce.*bicubic_aa"),
        ({"type": "chain", "steps": ["bicubic_a"]}, r"d\.steps\.0: unknown degradation.*Did you mean 'bicubic_aa'"),
        ({"type": "chain", "steps": ["bilinear", {"type": "jpeg", "qality": 3}]}, r"d\.steps\.1\.qality: unknown"),
        ({"type": "chain", "steps": ["bilinear", "given"]}, r"d\.steps\.1: unknown degradation 'given'"),
        ({"type": "chain", "steps": ["bilinear", {"type": "jpeg", "quality": [0, 5]}]}, r"d\.steps\.1\.quality: got \[0, 5\]"),
        ({"type": "chain", "steps": ["bilinear", {"type": "noise", "sigma": [9, 5]}]}, r"d\.steps\.1\.sigma: got \[9, 5\]"),
        ({"type": "chain", "steps": ["bilinear", {"type": "h264", "preset": "quick"}]}, r"d\.steps\.1\.preset: got 'quick'"),
        ({"type": "blur_down", "sigma": 0.0}, r"d\.sigma: got 0"),
        ({"type": "blur_down", "size": 12}, r"d\.size: got 12"),
        ({"type": "blur_down", "phase": "last"}, r"d\.phase: .*'last'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        complete_degradation(value, "d")


def test_degrade_refuses_what_does_not_fit() -> None:
    hr = clips(2)
    with pytest.raises(ValueError, match="1 keys for 2 clips"):
        degrade(hr, kind="bicubic_aa", scale=2, parameters={}, keys=["a"])
    with pytest.raises(ValueError, match="'jpeg' leaves the size"):
        degrade(hr, kind="jpeg", scale=2, parameters={}, keys=["a", "b"])
    with pytest.raises(ValueError, match="40 x 32, not a multiple of scale 3"):
        degrade(hr, kind="bicubic_aa", scale=3, parameters={}, keys=["a", "b"])


# --- what the pictures are like ---


def test_only_antialiased_pictures_are_reductions_of_their_truth() -> None:
    hr = torch.from_numpy(photo(128, 128)).float()[None, None] / 255
    down = bicubic(hr, height=64, width=64)

    def agreement(kind: str, **parameters: Any) -> float:
        return psnr(degrade(hr, kind=kind, scale=2, parameters=parameters, keys=["a"]), down)

    assert agreement("bicubic_aa") > 51
    assert 20 < agreement("bicubic_cv2") < 40
    # As published, BD's pixels lie half a pixel off.
    assert agreement("blur_down", phase="centre") > agreement("blur_down") + 1


def test_pictures_lie_where_they_should() -> None:
    # A linear ramp shows the phase: bicubic and bilinear sample it in the middle of each block.
    ramp = torch.arange(64.0).div(255).expand(1, 1, 3, 64, 64)
    for kind, middle in (("bicubic_aa", 0.5), ("bicubic_cv2", 0.5), ("bilinear", 0.5), ("blur_down", 0.0)):
        row = apply(ramp, kind)[0, 0, 0, 16, 8:-8] * 255
        wanted = torch.arange(32.0)[8:-8] * 2 + middle
        assert (row - wanted).abs().max() < 1e-3, kind


def test_mixed_precision_does_not_change_the_data() -> None:
    hr = clips(1)
    outside = degrade(hr, kind="bicubic_aa", scale=2, parameters={}, keys=["a"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = degrade(hr, kind="bicubic_aa", scale=2, parameters={}, keys=["a"])
    assert torch.equal(inside, outside)
