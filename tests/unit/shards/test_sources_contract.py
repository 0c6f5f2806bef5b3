"""What holds for every source: names, order, stamps, estimates, pickles, errors."""

import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.picture import UnusablePictureError
from shards.records import SPLITS, Rejected
from shards.sources import SOURCES, RawClip, SourceOptions

NOTHING = SourceOptions()


def picture(path: Path, width: int = 24, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(path.name.encode())).integers(
        0, 256, (height, width, 3), np.uint8
    )
    Image.fromarray(pixels).save(path, format="PNG")


def make_folder(root: Path) -> Path:
    for name in ("b.png", "a/c.png", "a/b.png"):
        picture(root / name)
    return root


def make_frames(root: Path) -> Path:
    for sequence in ("b/001", "a", "b/000"):
        for number in range(9):
            picture(root / sequence / f"{number:08d}.png")
    return root


def make_paired(root: Path) -> Path:
    for name in ("b.png", "a.png"):
        picture(root / "HR" / name, 64, 48)
        picture(root / "LR" / name, 32, 24)
    return root


def make_video(root: Path) -> Path:
    import av

    (root / "a").mkdir(parents=True)
    for name in ("b.mp4", "a/a.mkv"):
        with av.open(str(root / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(15):
                frame = np.full((48, 64, 3), 5 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    return root


def make_vimeo(root: Path, prefix: str, length: int) -> Path:
    names = ["00002/0001", "00001/0002", "00001/0001", "00003/0004"]
    for name in names:
        for number in range(1, length + 1):
            picture(root / "sequences" / name / f"im{number}.png")
    (root / f"{prefix}_trainlist.txt").write_text("\n".join(names[:3]))
    (root / f"{prefix}_testlist.txt").write_text(names[3])
    return root


def make_mnist(root: Path) -> Path:
    root.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (20, 4, 64, 64), np.uint8)
    np.save(root / "mnist_test_seq.npy", values)
    return root


def make_digits(root: Path) -> Path:
    root.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (8, 28, 28), np.uint8)
    (root / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 8, 28, 28) + values.tobytes())
    return root


MAKERS: dict[str, Callable[[Path], Path | None]] = {
    "folder": make_folder,
    "frames": make_frames,
    "paired": make_paired,
    "video": make_video,
    "vimeo-septuplet": lambda root: make_vimeo(root, "sep", 7),
    "vimeo-triplet": lambda root: make_vimeo(root, "tri", 3),
    "moving-mnist": make_mnist,
    "moving-digits": make_digits,
    "photos": lambda root: None,
    "photo-pans": lambda root: None,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "data")
    listing = SOURCES[kind].list(path, NOTHING)
    names = [item.name for item in listing.items]
    assert len(names) >= 2
    assert names == sorted(set(names))
    assert not any(str(tmp_path) in text for text in [listing.name, *names, *listing.warnings])
    assert set(listing.splits) in (set(), {item.source for item in listing.items})
    assert set(listing.splits.values()) <= set(SPLITS)
    assert bool(listing.splits) == bool(listing.split_rule)
    seen: list[str] = []
    for item in listing.items[:4]:
        again = pickle.loads(pickle.dumps(item))
        assert again == item
        clips = list(again.clips())
        assert clips
        assert item.estimated_bytes() == sum(check_clip(clip, listing.lr_scale) for clip in clips)
        seen += [clip.name for clip in clips if isinstance(clip, RawClip)]
    assert len(set(seen)) == len(seen)


def check_clip(clip: RawClip | Rejected, lr_scale: int) -> int:
    assert isinstance(clip, RawClip)
    assert len({frame.rgb.shape for frame in clip.frames}) == 1
    for frame in (*clip.frames, *clip.lr_frames):
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.flags.c_contiguous
        assert bool(frame.original) == bool(frame.original_kind)
    if lr_scale:
        assert len(clip.lr_frames) == len(clip.frames)
        (height, width, _), low = clip.frames[0].rgb.shape, clip.lr_frames[0].rgb.shape
        assert low == (height // lr_scale, width // lr_scale, 3)
    else:
        assert clip.lr_frames == ()
    return sum(frame.rgb.nbytes for frame in (*clip.frames, *clip.lr_frames))


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if SOURCES[kind].takes_path])
def test_another_place_and_order_on_disk_change_nothing(kind: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = MAKERS[kind](tmp_path / "one" / "data")
    assert first is not None
    second = tmp_path / "two" / "data"
    for file in sorted((file for file in first.rglob("*") if file.is_file()), reverse=True):
        target = second / file.relative_to(first)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    a, b = (SOURCES[kind].list(path, NOTHING) for path in (first, second))
    assert [item.name for item in a.items] == [item.name for item in b.items]
    assert [item.stamp() for item in a.items] == [item.stamp() for item in b.items]
    assert (a.name, a.rejected, a.splits, a.split_rule, a.warnings) == (
        b.name,
        b.rejected,
        b.splits,
        b.split_rule,
        b.warnings,
    )
    for one, two in zip(a.items, b.items, strict=True):
        for x, y in zip(one.clips(), two.clips(), strict=True):
            assert isinstance(x, RawClip)
            assert isinstance(y, RawClip)
            assert x.name == y.name
            assert all(np.array_equal(p.rgb, q.rgb) for p, q in zip(x.frames, y.frames, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if SOURCES[kind].takes_path])
def test_a_stamp_changes_with_the_files(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "data")
    assert path is not None
    before = [item.stamp() for item in SOURCES[kind].list(path, NOTHING).items]
    assert [item.stamp() for item in SOURCES[kind].list(path, NOTHING).items] == before
    for file in path.rglob("*"):
        if file.is_file() and file.suffix != ".txt":
            os.utime(file, ns=(1, 1))
    after = [item.stamp() for item in SOURCES[kind].list(path, NOTHING).items]
    assert len(after) == len(before)
    assert not set(after) & set(before)


@pytest.mark.parametrize("kind", ["frames", "video", "moving-mnist", "moving-digits"])
def test_a_stamp_changes_with_the_length_of_clips(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "data")
    stamps = [
        {item.stamp() for item in SOURCES[kind].list(path, options).items}
        for options in (NOTHING, SourceOptions(frames=5), SourceOptions(frames=6))
    ]
    assert not stamps[0] & stamps[1]
    assert not stamps[1] & stamps[2]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("folder", SourceOptions(frames=3)),
        ("folder", SourceOptions(stride=3)),
        ("photos", SourceOptions(frames=3)),
        ("vimeo-septuplet", SourceOptions(frames=5)),
        ("vimeo-triplet", SourceOptions(stride=1)),
        ("moving-digits", SourceOptions(stride=1)),
        ("paired", SourceOptions(frames=3)),
    ],
)
def test_options_without_effect_are_refused(kind: str, options: SourceOptions, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"has no effect on the source '{kind}' .*; leave it out"):
        SOURCES[kind].list(MAKERS[kind](tmp_path / "data"), options)


@pytest.mark.parametrize("kind", ["frames", "video", "moving-mnist", "paired"])
@pytest.mark.parametrize("options", [SourceOptions(frames=0), SourceOptions(stride=-1)])
def test_clips_of_no_frames_are_refused(kind: str, options: SourceOptions, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        SOURCES[kind].list(MAKERS[kind](tmp_path / "data"), options)


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if SOURCES[kind].takes_path])
def test_a_path_that_is_not_there_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # As if scikit-learn were not there.
    with pytest.raises(ValueError, match="nowhere"):
        SOURCES[kind].list(tmp_path / "nowhere", NOTHING)
    with pytest.raises(ValueError, match="no path was given"):
        SOURCES[kind].list(None, NOTHING)


@pytest.mark.parametrize("kind", ["photos", "photo-pans"])
def test_photos_take_no_path(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="takes no path"):
        SOURCES[kind].list(tmp_path, NOTHING)
    assert [kind for kind in SOURCES if not SOURCES[kind].takes_path] == ["photos", "photo-pans"]


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if SOURCES[kind].takes_path])
def test_files_that_vanish_are_an_error_that_names_them(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "data")
    assert path is not None
    item = SOURCES[kind].list(path, NOTHING).items[0]
    shutil.rmtree(path)
    item.stamp()
    assert item.estimated_bytes() >= 0
    said: list[object] = []
    try:
        said += item.clips()
    except UnusablePictureError as error:
        said.append(Rejected(item.name, str(error)))
    assert said
    assert all(isinstance(one, Rejected) and str(tmp_path) not in one.reason for one in said)


def test_help_texts_are_there_and_short() -> None:
    for kind, source in SOURCES.items():
        assert source.description, kind
        assert len(source.description) < 80, kind
        assert "\n" not in source.description + source.layout, kind
        assert source.layout.endswith("."), kind


def test_listing_sources_imports_no_decoder_of_video() -> None:
    heavy = {"av", "cv2", "skimage", "scipy", "torch"}
    code = f"import sys, shards.sources; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
