"""Which pictures a report shows, and how they fit into the page: against a plain search over all that could be chosen."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sr.ledger import Ledger, State, Status
from sweeps.report import collect_crops as choosing
from sweeps.report import pictures
from sweeps.report.build import write_report
from sweeps.report.collect import collect
from sweeps.report.data import Crop
from sweeps.report.pins import Clips, clip_of
from sweeps.report.render import render
from sweeps.spec import expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep
from sweeps.verdict import draw
from tests.report_sample import sample

SCALE = 2


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def noise(height: int, width: int, rng: np.random.Generator, *, levels: int = 256) -> bytes:
    return png(rng.integers(0, levels, (height, width, 3), dtype=np.uint8))


def crop_of(side: int, rng: np.random.Generator, **more: Any) -> Crop:
    """LR, two versions and HR; noise, so that every pixel costs three bytes."""
    sides = {"LR": side // SCALE, "bicubic": side, "l1": side, "HR": side}
    images = tuple((label, noise(one, one, rng)) for label, one in sides.items())
    return Crop(f"crop of {side}", "", images, {}, **more)


def bytes_of(crop: Crop) -> int:
    return sum(4 * -(-len(content) // 3) for _, content in crop.images)


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [2_000_000, 900_000, 500_000, 240_000, 50_000, 0])
def test_what_fits_is_shown_as_large_as_possible_and_nothing_more(budget: int) -> None:
    rng = np.random.default_rng(0)
    crops = [crop_of(side, rng, name=str(n)) for n, side in enumerate((160, 96, 140, 160, 64, 160))]
    shown = pictures.fitting(crops, budget=budget)
    assert sum(map(bytes_of, shown)) <= budget
    costs = {side: [cost(crop, side) for crop in crops] for side in (160, 128, 96, 64)}
    enough = [side for side, all_ in costs.items() if sum(all_[:4]) <= budget]
    side = enough[0] if enough else 64
    assert [crop.name for crop in shown] == [str(n) for n in greedily(costs[side], budget, first=4)]
    for crop in shown:
        whole = pictures.size(dict(crops[int(crop.name)].images)["HR"])
        assert pictures.size(dict(crop.images)["HR"]) == tuple(min(one, side) for one in whole)


def cost(crop: Crop, side: int) -> int:
    """Of noise cut anywhere: a part of it is as large as any other."""
    whole = pictures.size(crop.images[-1][1])[0]
    part = min(side, whole) / whole
    images = []
    for label, content in crop.images:
        array = decoded(content)
        keep = round(len(array) * part)
        images.append((label, pictures.smallest(png(array[:keep, :keep]))))
    return bytes_of(replace(crop, images=tuple(images)))


def greedily(costs: list[int], budget: int, *, first: int) -> list[int]:
    taken: list[int] = []
    for place, one in enumerate(costs):
        if sum(costs[p] for p in taken) + one <= budget:
            taken.append(place)
        elif place < first:
            break
    return taken


def test_as_many_as_the_reader_asked_for_are_made_to_fit() -> None:
    rng = np.random.default_rng(1)
    crops = [crop_of(160, rng, name=str(n), is_pinned=True) for n in range(8)]
    budget = 8 * cost(crops[0], 96) + 10_000
    shown = pictures.fitting(crops, budget=budget)
    assert [crop.name for crop in shown] == list("01234567")
    assert all("the 96 \u00d7 96 px of 160 \u00d7 160" in crop.reason for crop in shown)
    assert len(pictures.fitting([replace(crop, is_pinned=False) for crop in crops], budget=budget)) == 4


def test_a_window_is_where_the_versions_differ_most_and_on_the_pixels_of_lr() -> None:
    rng = np.random.default_rng(2)
    height, width, side = 40, 52, 16
    versions = [rng.integers(100, 120, (height, width, 3)).astype(np.uint8) for _ in range(3)]
    versions[0][19:31, 23:37] += 90
    lr = noise(height // SCALE, width // SCALE, rng)
    images = [("LR", lr), *((f"v{n}", png(one)) for n, one in enumerate(versions)), ("HR", png(versions[0]))]
    spread = np.stack(versions).astype(float).var(axis=0).sum(axis=-1)
    best = max(
        (
            (top, left)
            for top in range(0, height - side + 1, SCALE)
            for left in range(0, width - side + 1, SCALE)
        ),
        key=lambda at: spread[at[0] : at[0] + side, at[1] : at[1] + side].sum(),
    )
    window = pictures.busiest(images, side)
    assert window == pictures.Window(best[1], best[0], side, side)
    assert pictures.busiest(images, 52) is None
    crop = Crop("", "", tuple(images), {})
    cut = dict(pictures._small(crop, side).images)
    for label, content in images:
        factor = SCALE if label == "LR" else 1
        top, left, size = best[0] // factor, best[1] // factor, side // factor
        assert np.array_equal(decoded(cut[label]), decoded(content)[top : top + size, left : left + size])


def test_the_smaller_of_png_and_webp_is_taken_and_neither_loses_anything() -> None:
    rng = np.random.default_rng(3)
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    for content in (
        png(np.stack([ramp, ramp, ramp], axis=-1)),
        png(np.zeros((1, 1, 3), np.uint8)),
        noise(32, 48, rng),
        dict(sample(num_losses=1, num_crops=1).crops[0].images)["HR"],
    ):
        small = pictures.smallest(content)
        assert len(small) <= len(content)
        assert np.array_equal(decoded(small), decoded(content))
        assert pictures.mime(small) == Image.open(io.BytesIO(small)).get_format_mimetype()
    assert pictures.smallest(b"GIF") == b"GIF"
    assert len(pictures.smallest(dict(sample(num_losses=1, num_crops=1).crops[0].images)["HR"])) < 30_000


def test_forty_losses_stay_below_five_megabytes_whatever_the_pictures_take() -> None:
    data = sample(num_losses=40, num_crops=0)
    dot = png(np.zeros((1, 1, 3), np.uint8))
    labels = ["LR", *(row.name for row in data.candidates), "HR"]
    notes = dict.fromkeys(labels, "tOF 0.123 px, warping error 0.00012")
    crop = Crop("picture.png, tile 1", "why", tuple((label, dot) for label in labels), {}, notes=notes)
    page = render(
        replace(data, crops=tuple(replace(crop, name=str(n)) for n in range(13)), crops_left_out=40)
    )
    assert len(page.encode()) + pictures.BUDGET < 5_000_000
    assert "40 more clips with --full-images" in page


# --- which clip a reader means ----------------------------------------------------------------------------------------

CLIPS = Clips(
    {
        f"{source}#{tile}": source
        for source in ("cats/chelsea.png", "dogs/rex.png", "rex.png", "a:1.png", "moon.png")
        for tile in range(3)
    },
    {
        "cats/chelsea.png#0": "c0", "cats/chelsea.png#2": "c2", "dogs/rex.png#1": "r1", "rex.png#0": "x", "a:1.png#0": "a",
    },
    "",
)  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "clip"),
    [
        ("cats/chelsea.png#2", "cats/chelsea.png#2"),
        ("chelsea", "cats/chelsea.png#2"),
        ("chelsea.png", "cats/chelsea.png#2"),
        ("cats/chelsea", "cats/chelsea.png#2"),
        ("chelsea:1", "cats/chelsea.png#0"),
        ("dogs/rex.png:2", "dogs/rex.png#1"),
        ("rex.png", "rex.png#0"),
        ("a:1.png", "a:1.png#0"),
        ("a:1.png:1", "a:1.png#0"),
    ],
)
def test_a_clip_is_found_by_what_a_reader_would_call_it(wish: str, clip: str) -> None:
    assert clip_of(wish, CLIPS, order=["rex.png#0", "cats/chelsea.png#2", "cats/chelsea.png#0"]) == clip


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("chelsae:1", "--crop chelsae:1: .* no picture of that name; did you mean cats/chelsea.png?"),
        (
            "xyzzy",
            "no picture of that name; there are a:1.png, cats/chelsea.png, dogs/rex.png, moon.png, rex.png",
        ),
        ("rex", "fits dogs/rex.png, rex.png; write more"),
        ("chelsea:7", "cats/chelsea.png has tiles 1 to 3"),
        ("chelsea:0", "cats/chelsea.png has tiles 1 to 3"),
        (
            "chelsea:2",
            "no pictures of cats/chelsea.png#1 were kept .*5 of 15 clips.*; choose tiles 1, 3 of it",
        ),
        ("moon", "no pictures of moon.png#0 were kept .*; choose a:1.png#0, cats/chelsea.png#0"),
    ],
)
def test_a_clip_that_is_not_there_is_told_with_what_is(wish: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_of(wish, CLIPS, order=())


def test_without_the_data_set_no_clip_can_be_asked_for() -> None:
    with pytest.raises(ValueError, match="--crop x: the held-out clips cannot be listed: gone"):
        clip_of("x", Clips({}, {}, "gone"), order=())


# --- which crops a sweep's report shows -------------------------------------------------------------------------------

SOURCES, TILES = 9, 2
ALL = [f"p{source}.png#{tile}" for source in range(SOURCES) for tile in range(TILES)]
Shown = Callable[..., dict[str, Crop]]


def keep(ledger: Ledger, folder: str, rng: np.random.Generator, *, side: int, over_time: bool) -> None:
    for clip in ALL:
        file = ledger.folder / folder / f"{clip}.png"
        (file.parent / "over_time").mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise(side, side, rng, levels=4))
        if over_time:
            for kind in ("frames", "slice"):
                (file.parent / "over_time" / f"{clip}.{kind}.png").write_bytes(noise(8, 24, rng))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, dict[str, dict[str, dict[str, Any]]]]:
    """Three losses on eighteen clips, the values of which are drawn; clips have frames."""
    rng = np.random.default_rng(4)
    config = parse_sweep(
        {"parameters": {"loss": ["l1", "mse", "ssim"]}, "trial": {"data": {"path": "nowhere"}, "scale": SCALE}}, where="t"
    )  # fmt: skip
    folder = SweepFolder(tmp_path_factory.mktemp("store") / "sweeps" / "t-1")
    sweep = Sweep(config, expand(config), folder, "srloss sweep t.yaml")
    plan = [[trial.trial_id, trial.candidate, trial.variant] for trial in sweep.trials]
    folder.write_plan(
        {"sweep": config.model_dump(mode="json"), "trials": plan, "command": "x", "created": ""}
    )
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    ledgers = [("bicubic", folder.baseline("bicubic"))]
    ledgers += [(trial.candidate, sweep.ledger(trial)) for trial in sweep.trials]
    for place, (name, ledger) in enumerate(ledgers):
        ledger.create(sweep.trials[0].config, command="x")
        rows = [
            {"clip": clip, "source": clip.partition("#")[0], "psnr_y": 30 + place % 3 + rng.normal(),
             "haarpsi": rng.uniform(0.8, 0.9), "tof": rng.uniform(), "ssim_y": 0.9}
            for clip in ALL
        ]  # fmt: skip
        if name != "bicubic":
            ledger.begin_attempt()
        ledger.append({"kind": "validation", "step": 10, "seconds": 1.0, "samples": 10, "val/psnr_y": 30.0})
        ledger.write_evaluation(rows)
        ledger.set_status(Status(State.FINISHED, "all", 10, 1.0, 1))
        tables[name] = {row["clip"]: row for row in rows}
        keep(ledger, "crops", rng, side=20, over_time=True)
    for kind, side in (("lr", 10), ("hr", 20)):
        keep(ledgers[0][1], kind, rng, side=side, over_time=kind == "hr")
    return sweep, tables


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Clips({clip: clip.partition("#")[0] for clip in ALL}, {clip: f"{clip}.png" for clip in ALL}, "")
    monkeypatch.setattr(choosing, "_clips", lambda _sweep: known)


@pytest.mark.usefixtures("clips")
def test_crops_are_where_losses_disagree_and_the_ends_of_the_winner(judged: tuple[Sweep, Any]) -> None:
    sweep, tables = judged
    verdict = draw(sweep)
    winner = verdict.ranking[0].name
    found = choosing.collect_crops(sweep, verdict, pinned=["p3:2"])
    still = [crop for crop in found.crops if crop.kind == "crop"]
    losses = [tables[name] for name in ("l1", "mse", "ssim")]
    apart = {clip: np.ptp([table[clip]["haarpsi"] for table in losses]) for clip in ALL}
    gain = {clip: tables[winner][clip]["psnr_y"] - tables["bicubic"][clip]["psnr_y"] for clip in ALL}
    expected, sources = ["p3.png#1"], {"p3.png"}
    for clip in sorted(ALL, key=lambda clip: -apart[clip]):
        if clip.partition("#")[0] not in sources and len(expected) < 7:
            expected.append(clip)
            sources.add(clip.partition("#")[0])
    best, worst = max(gain, key=gain.__getitem__), min(gain, key=gain.__getitem__)
    assert {crop.name for crop in still} == {*expected, best, worst}
    assert [crop.name for crop in still][:2] == expected[:2]
    assert [crop.name for crop in still if crop.is_pinned] == ["p3.png#1"]
    by_name = {crop.name: crop for crop in still}
    assert f"{winner} gains most over bicubic here: {gain[best]:+.2f} dB" in by_name[best].reason
    assert f"{winner} gains least over bicubic here" in by_name[worst].reason
    assert f"HaarPSI of the losses differs by {apart[expected[1]]:.4f} here" in by_name[expected[1]].reason
    assert by_name[best].scores == {name: table[best]["psnr_y"] for name, table in tables.items()}
    assert found.left_out == len(ALL) - len(still)


@pytest.mark.usefixtures("clips")
def test_clips_of_several_frames_are_shown_over_time_with_what_was_measured(
    judged: tuple[Sweep, Any],
) -> None:
    sweep, tables = judged
    verdict = draw(sweep)
    found = choosing.collect_crops(sweep, verdict)
    moving = [crop for crop in found.crops if crop.kind != "crop"]
    first = found.crops[0].name
    assert [(crop.name, crop.kind) for crop in moving][:2] == [(first, "frames"), (first, "slice")]
    assert len(moving) == 4
    for crop in moving:
        assert [label for label, _ in crop.images] == [
            "bicubic",
            *(c.name for c in draw(sweep).ranking),
            "HR",
        ]
        assert crop.notes["l1"] == f"tOF {tables['l1'][crop.name]['tof']:.3f} px"
    page = render(replace(sample(num_losses=1, num_crops=0), crops=found.crops))
    assert '<h3 class="over-time">Over time</h3>' in page
    assert moving[0].notes["mse"] in page


@pytest.mark.usefixtures("clips")
def test_full_images_are_files_beside_a_small_page(judged: tuple[Sweep, Any], tmp_path: Path) -> None:
    sweep, _ = judged
    write_report(sweep, tmp_path / "r.html", full_images=True, pinned=["p1.png#0"])
    page = (tmp_path / "r.html").read_text()
    files = {str(path.relative_to(tmp_path)) for path in (tmp_path / "r_images").rglob("*.png")}
    assert len(files) == len(ALL) * (6 + 5 + 5)
    assert set(re.findall(r'src="(.*?)"', page)) == files
    assert page.count('loading="lazy"') == len(files)
    assert "img-src data: 'self';" in page
    assert "--full-images" not in page
    hr = sweep.folder.baseline("bicubic").folder / "hr" / "p1.png#0.png"
    assert (tmp_path / "r_images" / "p1.png-0" / "crop-05-HR.png").read_bytes() == hr.read_bytes()
    write_report(sweep, tmp_path / "r.html")
    assert "'self'" not in (tmp_path / "r.html").read_text()


@pytest.mark.usefixtures("clips")
def test_before_anything_is_evaluated_the_newest_previews_are_shown(tmp_path: Path) -> None:
    config = parse_sweep(
        {"parameters": {"loss": ["l1", "mse", "ssim"], "seed": [0, 1]}, "trial": {"data": {"path": "nowhere"}, "scale": SCALE}},
        where="t",
    )  # fmt: skip
    sweep = Sweep(config, expand(config), SweepFolder(tmp_path / "sweeps" / "t-1"), "srloss sweep t.yaml")
    rng = np.random.default_rng(5)
    lr, hr = noise(10, 12, rng), noise(20, 24, rng)
    left = {("l1", 0): [5, 10], ("l1", 1): [15], ("mse", 1): [10]}
    made: dict[tuple[str, int, int], bytes] = {}
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        ledger.create(trial.config, command="x")
        for step in left.get((trial.candidate, trial.config.seed), []):
            made[trial.candidate, trial.config.seed, step] = noise(20, 24, rng)
            ledger.write_previews("sr", step, {"cat.0.png": made[trial.candidate, trial.config.seed, step]})
            ledger.write_previews("lr", step, {"cat.0.png": lr})
            ledger.write_previews("hr", step, {"cat.0.png": hr})
    verdict = draw(sweep)
    found = choosing.collect_crops(sweep, verdict)
    (crop,) = found.crops
    shown = {label: decoded(content) for label, content in crop.images}
    assert list(shown) == ["LR", "bicubic", "l1", "mse", "HR"]
    assert np.array_equal(shown["l1"], decoded(made["l1", 1, 15]))
    assert np.array_equal(shown["mse"], decoded(made["mse", 1, 10]))
    assert np.array_equal(shown["HR"], decoded(hr))
    assert shown["bicubic"].shape == shown["HR"].shape
    assert crop.notes == {"l1": "step 15", "mse": "step 10"}
    page = render(collect(sweep, verdict))
    assert "Nothing has been evaluated yet" in page
    assert "step 15" in page
    with pytest.raises(ValueError, match=r"did you mean p3\.png"):
        choosing.collect_crops(sweep, verdict, pinned=["q3"])
