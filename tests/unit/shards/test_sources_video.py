"""Videos: clips, cuts, colours, rotation, damage, and memory that does not grow."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from shards.picture import UnusablePictureError
from shards.records import Rejected
from shards.sources import SOURCES, Item, Listing, RawClip, SourceOptions

WIDTH, HEIGHT = 96, 64
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "motorcycle_left")


@cache
def photo(name: str) -> np.ndarray:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    file = next(path for path in (folder / f"{name}.png", folder / f"{name}.jpg") if path.is_file())
    image = Image.open(file).convert("RGB")
    return np.asarray(image.resize((300, 200), Image.Resampling.LANCZOS))


def shot(name: str, count: int, step: int = 3, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """A pan over a photograph, by `step` pixels a frame."""
    picture = photo(name)
    travel = picture.shape[1] - width
    places = [abs((number * step) % (2 * travel) - travel) for number in range(count)]
    return [picture[40 : 40 + height, travel - place : travel - place + width] for place in places]


def encode(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    *,
    rotation: tuple[int, bool] | None = None,
    container: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    frame_format: str = "rgb24",
    tags: dict[str, int] | None = None,
) -> Path:
    """By default without loss: what comes out is bit for bit what goes in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", options=container or {}) as out:
        stream: Any = None
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format=frame_format)
            if stream is None:
                stream = out.add_stream(codec, rate=Fraction(25), options=options or {})
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                for tag, value in (tags or {}).items():
                    setattr(stream.codec_context, tag, value)
                if rotation is not None:
                    stream.set_display_rotation(rotation[0], hflip=rotation[1])
            for tag, value in (tags or {}).items():
                setattr(frame, tag, value)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def listed(path: Path, **options: int) -> Listing:
    return SOURCES["video"].list(path, SourceOptions(**options))


def only_item(path: Path, **options: int) -> Item:
    (item,) = listed(path, **options).items
    return item


def split(item: Item) -> tuple[list[RawClip], list[str]]:
    """The clips and the reasons."""
    found = list(item.clips())
    assert all(one.source == item.name for one in found if isinstance(one, Rejected))
    return (
        [one for one in found if isinstance(one, RawClip)],
        [one.reason for one in found if isinstance(one, Rejected)],
    )


def starts(clips: list[RawClip]) -> list[int]:
    return [int(clip.name.rpartition("/")[2]) for clip in clips]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 7, 14]),
        ({"frames": 5}, [0, 5, 10, 15]),
        ({"frames": 4, "stride": 6}, [0, 6, 12]),
        ({"frames": 6, "stride": 4}, [0, 4, 8, 12]),
    ],
)
def test_clips_are_the_frames_of_the_video(
    tmp_path: Path, options: dict[str, int], expected: list[int]
) -> None:
    frames = shot("coffee", 21)
    path = encode(tmp_path / "film.mkv", frames)
    item = only_item(path, **options)
    assert (item.name, item.source, listed(path).name) == ("film.mkv", "film.mkv", "film.mkv")
    clips, reasons = split(item)
    assert starts(clips) == expected
    assert reasons == []
    for clip, start in zip(clips, expected, strict=True):
        assert len(clip.frames) == options.get("frames", 7)
        for number, frame in enumerate(clip.frames, start=start):
            assert np.array_equal(frame.rgb, frames[number])
            assert frame.original is None
        assert clip.notes == ()
    raw = sum(frame.rgb.nbytes for clip in clips for frame in clip.frames)
    assert item.estimated_bytes() == raw


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "mpeg4", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.MKV", "libx264", "yuv444p"),
    ],
)
def test_no_clip_spans_a_cut_in_any_format(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    lengths = (10, 15, 7, 5, 9)
    shots = [shot(photo, length, 4) for photo, length in zip(PHOTOS, lengths, strict=True)]
    frames = [frame for one in shots for frame in one]
    options = {"b": "2000000", "crf": "20"} if codec != "mpeg4" else {"b": "2000000"}
    clips, reasons = split(only_item(encode(tmp_path / name, frames, codec, pix_fmt, options=options)))
    assert starts(clips) == [0, 10, 17, 25, 37]
    assert reasons == ["1 shot is shorter than a clip of 7 frames and left out (the first at 1.28 s)"]
    for clip, start in zip(clips, starts(clips), strict=True):
        for number, frame in enumerate(clip.frames, start=start):
            assert np.abs(frame.rgb.astype(int) - frames[number]).mean() < 12


@pytest.mark.parametrize("step", [1, 8, 30])
def test_a_pan_is_no_cut_however_fast(tmp_path: Path, step: int) -> None:
    frames = shot("motorcycle_left", 28, step)
    path = encode(tmp_path / "film.mp4", frames, "libx264", "yuv420p")
    clips, reasons = split(only_item(path))
    assert (starts(clips), reasons) == ([0, 7, 14, 21], [])


def test_shots_that_are_too_short_are_counted(tmp_path: Path) -> None:
    frames = [*shot("coffee", 9), *shot("rocket", 2), *shot("chelsea", 9), *shot("astronaut", 3)]
    clips, reasons = split(only_item(encode(tmp_path / "film.mkv", frames)))
    assert starts(clips) == [0, 11]
    assert reasons == ["2 shots are shorter than a clip of 7 frames and left out (the first at 0.36 s)"]


def test_overlapping_clips_start_anew_after_a_cut(tmp_path: Path) -> None:
    frames = [*shot("coffee", 5), *shot("rocket", 6)]
    clips, _ = split(only_item(encode(tmp_path / "film.mkv", frames), frames=4, stride=1))
    assert starts(clips) == [0, 1, 5, 6, 7]


@pytest.mark.parametrize("size", [(65, 49), (97, 33), (16, 16)])
def test_odd_sizes_are_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = shot("coffee", 7, 1, *size)
    (clip,), _ = split(only_item(encode(tmp_path / "film.mkv", frames)))
    assert [np.array_equal(a.rgb, b) for a, b in zip(clip.frames, frames, strict=True)] == [True] * 7
    (clip,), _ = split(only_item(encode(tmp_path / "film.mkv", frames, "ffv1", "yuv420p")))
    assert clip.frames[0].rgb.shape == (size[1], size[0], 3)


def test_a_change_of_size_is_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    with av.open(path, "w") as out:
        stream = out.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in shot("coffee", 10):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        out.mux(stream.encode(None))
        other: Any = av.CodecContext.create("libvpx", "w")
        other.width, other.height, other.pix_fmt, other.time_base = 48, 32, "yuv420p", Fraction(1, 25)
        smaller = [np.ascontiguousarray(frame[::2, ::2]) for frame in shot("coffee", 19)[10:]]
        pictures = [av.VideoFrame.from_ndarray(frame) for frame in smaller]
        for number, picture in enumerate([*pictures, None]):
            if picture is not None:
                picture.pts, picture.time_base = number, Fraction(1, 25)
            for packet in other.encode(picture):
                packet.stream = stream
                packet.pts = packet.dts = 400 + 40 * packet.pts
                packet.time_base = Fraction(1, 1000)
                out.mux(packet)
    clips, reasons = split(only_item(path))
    assert [clip.frames[0].rgb.shape for clip in clips] == [(64, 96, 3), (32, 48, 3)]
    assert starts(clips) == [0, 10]
    assert reasons == []


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_undone(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    frames = shot("astronaut", 7)
    path = encode(
        tmp_path / "film.mp4",
        frames,
        "libx264",
        "yuv444p",
        rotation=(degrees, mirrored),
        options={"crf": "5"},
    )
    (clip,), _ = split(only_item(path))
    expected = np.rot90(frames[3], degrees // 90)  # Against the clock.
    if mirrored:
        expected = np.rot90(frames[3], degrees // 90)[:, ::-1]
    assert clip.frames[3].rgb.shape == expected.shape
    assert np.abs(clip.frames[3].rgb.astype(int) - expected).mean() < 4
    assert clip.notes == (() if (degrees, mirrored) == (0, False) else ("turned as its metadata asks",))


def test_a_slanted_rotation_is_only_noted(tmp_path: Path) -> None:
    frames = shot("astronaut", 7)
    path = encode(tmp_path / "film.mp4", frames, "libx264", "yuv444p", rotation=(45, False))
    (clip,), _ = split(only_item(path))
    assert clip.frames[0].rgb.shape == (HEIGHT, WIDTH, 3)
    assert clip.notes == ("not turned by the 45 degrees of its metadata",)


COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40), (16, 16, 235)]
)
KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def to_yuv(rgb: np.ndarray, kr: float, kb: float, *, full: bool) -> np.ndarray:
    """By the definition of the matrices, in the planar layout of yuv444p."""
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    if full:
        planes = [255 * y, 128 + 255 * cb, 128 + 255 * cr]
    else:
        planes = [16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr]
    return np.stack(planes).round().clip(0, 255).astype(np.uint8)


def colour_bars(height: int = 64) -> np.ndarray:
    return np.repeat(np.repeat(COLOURS, 16, axis=0)[None], height, axis=0).astype(np.uint8)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", KR_KB)
def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path: Path, matrix: int, full: bool) -> None:
    frames = [to_yuv(colour_bars(), *KR_KB[matrix], full=full)] * 7
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    path = encode(tmp_path / "film.mkv", frames, "ffv1", "yuv444p", frame_format="yuv444p", tags=tags)
    (clip,), _ = split(only_item(path))
    assert np.abs(clip.frames[0].rgb.astype(int) - colour_bars()).max() <= 2


@pytest.mark.parametrize(("height", "matrix"), [(64, 5), (718, 5), (720, 1)])
def test_untagged_colours_are_taken_by_the_size(tmp_path: Path, height: int, matrix: int) -> None:
    frames = [to_yuv(colour_bars(height), *KR_KB[matrix], full=False)] * 2
    path = encode(tmp_path / "film.mkv", frames, "ffv1", "yuv444p", frame_format="yuv444p")
    (clip,), _ = split(only_item(path, frames=2))
    assert np.abs(clip.frames[0].rgb.astype(int) - colour_bars(height)).max() <= 2


def test_full_range_jpeg_frames_keep_their_black_and_white(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mkv", [colour_bars()] * 2, "mjpeg", "yuvj444p", options={"q": "1"})
    (clip,), _ = split(only_item(path, frames=2))
    bars = clip.frames[0].rgb[:, 8::16].astype(int)
    assert np.abs(bars - colour_bars()[:, 8::16]).max() <= 4


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    from av.stream import Disposition

    path = tmp_path / "film.mp4"
    with av.open(path, "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        cover: Any = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = (
            200,
            150,
            "rgb24",
            Disposition.attached_pic,
        )
        blank = av.VideoFrame.from_ndarray(np.zeros((150, 200, 3), np.uint8))
        for part, frames in ((cover, [blank]), (stream, map(av.VideoFrame.from_ndarray, shot("coffee", 7)))):
            for frame in (*frames, None):
                out.mux(part.encode(frame))
    (clip,), reasons = split(only_item(path))
    assert clip.frames[0].rgb.shape == (HEIGHT, WIDTH, 3)
    assert reasons == []


def test_what_is_lost_is_noted(tmp_path: Path) -> None:
    frames = shot("coffee", 7)
    tags = {"colorspace": 9, "color_trc": 16, "color_primaries": 9}
    path = encode(tmp_path / "film.mkv", frames, "ffv1", "yuv420p10le", tags=tags)
    (clip,), _ = split(only_item(path))
    assert clip.notes == ("10-bit to 8-bit", "HDR (PQ) values, not mapped to SDR")


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", shot("rocket", 14), "libx264", "yuv420p")
    first, second = (split(only_item(path))[0] for _ in range(2))
    for one, two in zip(first, second, strict=True):
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(one.frames, two.frames, strict=True))


def test_folders_of_videos(tmp_path: Path) -> None:
    frames = shot("coffee", 7)
    names = ["b.mp4", "a/z.mkv", "a/é.webm", os.fsdecode(b"caf\xe9.mov")]
    for name in names:
        codec, pix_fmt = ("libvpx", "yuv420p") if name.endswith("webm") else ("libx264", "yuv420p")
        path = encode(
            tmp_path / "film.mkv" if name == names[3] else tmp_path / "data" / name, frames, codec, pix_fmt
        )
        path.rename(tmp_path / "data" / name)
    (tmp_path / "data" / "notes.txt").write_text("x")
    (tmp_path / "data" / ".hidden.mp4").write_text("x")
    listing = listed(tmp_path / "data")
    assert [item.name for item in listing.items] == sorted(names)
    assert listing.rejected == (Rejected("notes.txt", "not a video by its ending (.txt)"),)
    assert all(len(split(item)[0]) == 1 for item in listing.items)


def cut_off(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("film.mkv", "ffv1", {}),
        ("film.mkv", "libx264", {}),
        ("film.mp4", "libx264", {"movflags": "faststart"}),
        ("film.mp4", "mpeg4", {"movflags": "faststart"}),
        ("film.avi", "huffyuv", {}),
    ],
)
def test_a_truncated_video_gives_its_clips_and_the_time(
    tmp_path: Path, name: str, codec: str, container: dict[str, str]
) -> None:
    frames = shot("coffee", 60, 1)
    options = {"x264-params": "keyint=5:bframes=0"} if codec == "libx264" else {"g": "5"}
    pix_fmt = "yuv422p" if codec == "huffyuv" else "yuv420p"
    path = encode(tmp_path / name, frames, codec, pix_fmt, container=container, options=options)
    whole = starts(split(only_item(path))[0])
    assert len(whole) == 8
    clips, reasons = split(only_item(cut_off(path, 0.6)))
    assert 2 <= len(clips) <= 6
    assert starts(clips) == whole[: len(clips)]
    (reason,) = reasons
    time_s = float(reason.split(" at ")[1].split(" s")[0])
    assert reason.endswith("; used up to there")
    assert 7 * len(clips) - 1 <= time_s * 25 <= 7 * len(clips) + 8


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options"),
    [
        ("libx264", "yuv420p", {"x264-params": "keyint=5:bframes=0"}),
        ("mjpeg", "yuvj420p", {}),  # Its decoder would paint over the damage, if it were let.
        ("mpeg4", "yuv420p", {"g": "5"}),  # Its decoder paints over it nevertheless, and marks the frame.
    ],
)
def test_a_damaged_frame_ends_the_video(
    tmp_path: Path, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    path = encode(tmp_path / "film.mkv", shot("coffee", 40, 1), codec, pix_fmt, options=options)
    data = bytearray(path.read_bytes())
    place = len(data) * (9 if codec == "mpeg4" else 5) // 10
    data[place : place + 200] = bytes(200)
    path.write_bytes(data)
    clips, reasons = split(only_item(path))
    assert 2 <= len(clips) <= 4
    assert starts(clips) == [0, 7, 14, 21][: len(clips)]
    (reason,) = reasons
    assert reason.startswith("damaged at ")
    assert reason.endswith("; used up to there")


def silence(path: Path) -> Path:
    with av.open(path, "w") as out:
        stream: Any = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_what_is_no_video_says_why(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", shot("coffee", 30), "libx264", "yuv420p").read_bytes()
    tiny = encode(tmp_path / "tiny.mkv", [np.zeros((8, 16, 3), np.uint8)]).read_bytes()
    live = encode(tmp_path / "live.mkv", shot("coffee", 9), "libx264", "yuv420p", container={"live": "1"})
    before_the_first_frame = live.read_bytes().index(bytes.fromhex("1F43B675")) + 12
    sound = silence(tmp_path / "sound.mp4").read_bytes()
    cases = {
        "empty.mp4": (b"", "empty file"),
        "text.mp4": (b"hello, I am no video\n" * 50, "not a video that can be read"),
        "no_index.mp4": (whole[: len(whole) // 2], "not a video that can be read"),
        "tiny.mkv": (tiny, r"smaller than 16 px \(16x8\)"),
        "begun.mkv": (live.read_bytes()[:before_the_first_frame], "holds no frames"),
        "sound.mp4": (sound, "holds no video"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        item = only_item(tmp_path / name)
        assert item.estimated_bytes() == 0, name
        with pytest.raises(UnusablePictureError, match=reason) as caught:
            list(item.clips())
        assert str(tmp_path) not in str(caught.value), name


def test_a_list_of_other_files_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "secret.mkv", shot("coffee", 7))
    (tmp_path / "film.mp4").write_text("ffconcat version 1.0\nfile secret.mkv\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusablePictureError, match="not a video that can be read"):
        list(only_item(tmp_path / "film.mp4").clips())


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "film.mkv", shot("coffee", 7))
    monkeypatch.setattr("shards.sources.videoframes.MAX_PIXELS", 1000)
    with pytest.raises(UnusablePictureError, match=r"Mpx \(96x64\)"):
        list(only_item(path).clips())


def test_the_path_must_be_a_video(tmp_path: Path) -> None:
    (tmp_path / "film.txt").write_text("x")
    with pytest.raises(ValueError, match=r"not a video by its ending; the source 'video' reads mp4"):
        listed(tmp_path / "film.txt")
    with pytest.raises(ValueError, match="no such file or folder"):
        listed(tmp_path / "film.mp4")


def test_without_pyav_one_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="pip install av"):
        listed(tmp_path)


MEASURE = """
import resource, sys
from pathlib import Path
from shards.sources import SOURCES, SourceOptions
peaks = []
for clip in SOURCES["video"].list(Path(sys.argv[1]), SourceOptions()).items[0].clips():
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(len(peaks), peaks[5], peaks[-1])
"""


def long_pan(count: int, width: int, height: int) -> Iterator[np.ndarray]:
    picture = np.asarray(Image.fromarray(photo("coffee")).resize((2 * width, 2 * height)))
    for number in range(count):
        place = abs(number % (2 * width) - width)
        yield picture[height // 2 : height // 2 + height, place : place + width]


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    count, width, height = 700, 480, 270
    path = encode(tmp_path / "film.mp4", long_pan(count, width, height), "mpeg4", "yuv420p")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    clips, early_kb, late_kb = map(int, done.stdout.split())
    assert clips == 100
    assert late_kb - early_kb < 10_000  # All frames are 266 000 kB.
