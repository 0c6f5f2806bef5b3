"""The README's commands for data, on small sources of each layout; and a sweep on what they packed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import skimage
import yaml
from PIL import Image

from shards.manifest import load
from sr.train import train
from sr.world import single_process
from sweeps.driver import evaluate_folder
from sweeps.spec import parse_sweep
from sweeps.sweep import create
from sweeps.verdict import draw
from tests.e2e.test_readme import bash, block

pytestmark = pytest.mark.timeout(300)


def photo(number: int, shift: int = 0, side: int = 96) -> np.ndarray:
    """A part of one of several photographs, no two the same."""
    photos = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket())
    image = photos[number % 4]
    y, x = 30 * (number // 4) + shift, 20 + 2 * shift
    return np.ascontiguousarray(image[y : y + side, x : x + side])


def png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with the sources that the README names."""
    vimeo(tmp_path / "vimeo_septuplet")
    recordings(tmp_path / "recordings")
    shards(tmp_path / "SHARDS")
    for number in range(4):
        split = "val" if number == 3 else "train"
        for frame in range(14):
            png(
                tmp_path / "REDS" / f"{split}_sharp" / f"{number:03d}" / f"{frame:08d}.png",
                photo(number, frame),
            )
    for number in range(6):
        png(tmp_path / "RealSR" / "HR" / f"{number}.png", photo(number))
        png(tmp_path / "RealSR" / "LR" / f"{number}.png", photo(number)[::2, ::2])
    return tmp_path


def vimeo(folder: Path) -> None:
    names = [f"00001/{number:04d}" for number in range(1, 13)]
    for number, name in enumerate(names):
        for frame in range(7):
            png(folder / "sequences" / name / f"im{frame + 1}.png", photo(number, frame))
    (folder / "sep_trainlist.txt").write_text("\n".join(names[:8]) + "\n")
    (folder / "sep_testlist.txt").write_text("\n".join(names[8:]) + "\n\n")


def recordings(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 96
            stream.pix_fmt = "yuv420p"
            for shift in range(10):
                picture = av.VideoFrame.from_ndarray(photo(number, shift), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def shards(folder: Path) -> None:
    folder.mkdir()
    for split, numbers in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        with tarfile.open(folder / f"{split}-000.tar", "w") as tar:
            for number in numbers:
                buffer = io.BytesIO()
                Image.fromarray(photo(number)).save(buffer, "PNG")
                for name, data in ((f"{number:03d}.png", buffer.getvalue()), (f"{number:03d}.cls", b"1")):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def test_the_commands_for_data_are_the_lines_it_says(sources: Path) -> None:
    text = bash(block("Data"), sources)
    assert "vimeo-septuplet" in text
    for place, clips, frames in (("vimeo", 12, 7), ("reds", 8, 7), ("video", 6, 5), ("pairs", 6, 1)):
        dataset = load(sources / "data" / place)
        assert (len(dataset.samples), {len(s.frames) for s in dataset.samples}) == (clips, {frames}), place
    assert load(sources / "data" / "pairs").description.lr_scale == 2
    assert len(load(sources / "SHARDS").samples) == 8
    assert "data/vimeo: sound" in text


def test_a_sweep_is_of_pairs_and_a_trial_of_somebodys_shards(sources: Path) -> None:
    bash(
        "srloss shard pack paired RealSR pairs --split train=0.5,val=0.2,test=0.3; srloss shard index SHARDS",
        sources,
    )
    trial = {
        "data": {"path": str(sources / "pairs"), "patch_size": 32},
        "degradation": "given",
        "model": {"type": "espcn", "channels": 8},
        "training": {"steps": 10, "global_batch_size": 2, "validate_every": 10},
        "evaluation": {"tile_size": 48},
    }
    # In this process: Ray knows nothing of what trials read.
    plain = {"name": "pairs", "parameters": {"loss": ["l1", "mse"], "seed": [0]}, "trial": trial}
    sweep = create(parse_sweep(plain, where="test"), store=sources / "store", command="test")
    config = sweep.trials[0].config
    ledgers = [sweep.ledger(planned) for planned in sweep.trials]
    for planned, ledger in zip(sweep.trials, ledgers, strict=True):
        train(planned.config, world=single_process("cpu"), ledger=ledger)
    for ledger in [*ledgers, sweep.folder.baseline("bicubic")]:
        assert evaluate_folder(ledger.folder, config=config, command="test") > 0
    assert {candidate.name for candidate in draw(sweep).ranking} == {"l1", "mse"}

    (sources / "trial.yaml").write_text(yaml.safe_dump(trial | {"loss": "l1"}))
    text = bash("srloss train trial.yaml data.path=SHARDS degradation=bicubic_aa", sources)
    assert "evaluated on " in text
