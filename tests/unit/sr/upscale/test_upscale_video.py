"""Video: the colours, times, sound and size of what comes out; damage, parts, and constant memory."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sr.upscale.model import Upscaler, open_upscaler
from sr.upscale.video import Written, upscale_video
from sr.upscale.writing import VideoOptions
from tests.unit.sr.upscale.films import Film, moving, read, write

BARS = (
    (235, 235, 235),
    (200, 190, 20),
    (20, 180, 190),
    (30, 180, 40),
    (190, 30, 170),
    (180, 25, 30),
    (25, 30, 170),
)


@pytest.fixture(scope="module")
def nearest() -> Upscaler:
    return open_upscaler("nearest", scale=2, device="cpu")


def upscaled(source: Path, out: Path, upscaler: Upscaler, **options: object) -> tuple[Written, Film]:
    force = bool(options.pop("force", False))
    written = upscale_video(
        source, out, upscaler, options=VideoOptions(**options), force=force, on_progress=lambda *_: None
    )
    return written, read(out)


def bars(height: int, width: int) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    for i, colour in enumerate(BARS):
        picture[:, i * width // len(BARS) : (i + 1) * width // len(BARS)] = colour
    return picture


def means(picture: np.ndarray) -> np.ndarray:
    """Colour in the middle of each bar, away from what chroma subsampling mixes."""
    width = picture.shape[1]
    step = width // len(BARS)
    return np.array(
        [picture[:, i * step + step // 3 : i * step + 2 * step // 3].mean((0, 1)) for i in range(7)]
    )


def shown(path: Path, *, matrix: int, is_full: bool) -> np.ndarray:
    """The first frame, by the matrix and range that a test knows; not by the code under test."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (matrix, 2 if is_full else 1)
        planes = frame.to_ndarray(format="yuv444p" if frame.format.name.startswith("yuv4") else None)
    y, cb, cr = planes.astype(float)
    kr, kb = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    y, cb, cr = (y / 255, (cb - 128) / 255, (cr - 128) / 255) if is_full else (
        (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224,
    )  # fmt: skip
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.stack([red, green, blue], axis=-1) * 255


@pytest.mark.parametrize("name", ["nearest", "bicubic"])
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "height", "written"), [(1, 32, 1), (5, 32, 5), (6, 32, 6), (2, 32, 6), (2, 400, 1)]
)
def test_colour_bars_keep_their_colours(
    tmp_path: Path, name: str, is_full: bool, matrix: int, height: int, written: int
) -> None:
    picture = bars(height, 112)
    source = write(
        tmp_path / "a.mkv",
        [picture] * 2,
        codec="ffv1",
        pixel_format="yuv444p",
        matrix=matrix,
        is_full=is_full,
    )
    upscaler = open_upscaler(name, scale=2, device="cpu")
    upscaled(source, tmp_path / "b.mkv", upscaler, codec="ffv1")
    out = shown(tmp_path / "b.mkv", matrix=written, is_full=is_full)
    assert out.shape == (2 * height, 224, 3)
    before = shown(source, matrix=matrix, is_full=is_full)
    assert abs(means(before) - np.array(BARS)).max() <= 3  # Of 8 bits, through FFmpeg's own conversion.
    # Half a level of blue-difference is 1.1 of blue; with another matrix all are rounded once more.
    assert abs(means(out) - means(before)).max() <= (1.2 if (matrix, height) != (2, 400) else 2)


@pytest.mark.parametrize(("codec", "ending"), [("h264", ".mp4"), ("hevc", ".mov"), ("vp9", ".webm")])
def test_lossy_codecs_keep_colours_and_picture(
    tmp_path: Path, nearest: Upscaler, codec: str, ending: str
) -> None:
    source = write(tmp_path / "a.mkv", [bars(48, 112)] * 3, codec="ffv1", pixel_format="yuv420p", matrix=1)
    upscaled(source, tmp_path / f"b{ending}", nearest, codec=codec, crf=10)
    out = shown(tmp_path / f"b{ending}", matrix=1, is_full=False)
    assert abs(means(out) - np.array(BARS)).max() <= 4


def test_lossless_pixels_are_those_of_the_frames(tmp_path: Path, nearest: Upscaler) -> None:
    frames = moving(3)
    source = write(tmp_path / "a.mkv", frames, codec="ffv1", pixel_format="bgr0")
    _, film = upscaled(source, tmp_path / "b.mkv", nearest, codec="ffv1")
    for before, after in zip(frames, film.pixels, strict=True):
        assert np.array_equal(after, before.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("is_full", [False, True])
def test_ten_bits_stay_ten_bits(tmp_path: Path, nearest: Upscaler, is_full: bool) -> None:
    ramp = np.linspace(64, 940, 64).round().astype(np.uint16)
    planes = np.stack([np.tile(ramp, (48, 1)), *np.full((2, 48, 64), 512, np.uint16)], axis=-1) << 6
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv444p10le"
        video.codec_context.color_range = 2 if is_full else 1
        frame = av.VideoFrame.from_ndarray(planes, format="yuv444p16le").reformat(format="yuv444p10le")
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
    upscaled(tmp_path / "a.mkv", tmp_path / "b.mkv", nearest, codec="ffv1")
    with av.open(str(tmp_path / "b.mkv")) as container:
        out = next(container.decode(video=0))
    assert out.format.name == "yuv444p10le"
    for plane, given in zip(out.planes, frame.planes, strict=True):
        assert np.array_equal(_numbers(plane)[:96:2, :128:2], _numbers(given)[:48, :64])


def _numbers(plane: av.video.plane.VideoPlane) -> np.ndarray:
    return np.frombuffer(bytes(plane), np.uint16).reshape(plane.height, -1)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_times_and_sound_are_those_of_the_source(tmp_path: Path, nearest: Upscaler, ending: str) -> None:
    source = write(tmp_path / "a.mp4", moving(30), audio=("eng", "deu"), durations=(512, 512, 1024, 300))
    written, film = upscaled(source, tmp_path / f"b{ending}", nearest)
    given = read(source)
    assert (written.frames, written.width, written.height, written.copied) == (30, 128, 96, 2)
    assert written.damage == []
    # Matroska counts milliseconds, and begins where the sound begins.
    shift, exact = film.times[0] - given.times[0], 1e-9 if ending != ".mkv" else 1.01e-3
    assert film.times == pytest.approx([time + shift for time in given.times], abs=exact)
    assert len(film.packets) == 2
    for before, after in zip(given.packets.values(), film.packets.values(), strict=True):
        assert [data for _, data in after] == [data for _, data in before]
        assert [at for at, _ in after] == pytest.approx(
            [at + shift for at, _ in before], abs=max(exact, 1e-6)
        )
    if ending != ".mov":  # It has no word for a language that is the default.
        assert film.languages == ["eng", "deu"]
    with av.open(str(tmp_path / f"b{ending}")) as container:
        assert dict(container.metadata).get("title", dict(container.metadata).get("TITLE")) == "A film"


def test_the_last_frame_is_shown_as_long_as_in_the_source(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mp4", moving(6), durations=(512, 512, 512, 512, 512, 6400))
    upscaled(source, tmp_path / "b.mp4", nearest)
    lengths = []
    for path in (source, tmp_path / "b.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.duration is not None
            assert stream.time_base is not None
            lengths.append(stream.duration * stream.time_base)
    assert lengths[0] == lengths[1]


def test_a_part_begins_at_its_frame_with_its_sound(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mp4", moving(60), audio=("eng",))
    given = read(source)
    written, film = upscaled(source, tmp_path / "b.mp4", nearest, start=20, frames=15)
    assert written.frames == 15
    assert film.times == pytest.approx([time - given.times[20] for time in given.times[20:35]])
    (before,), (after,) = given.packets.values(), film.packets.values()
    first = next(i for i, (at, _) in enumerate(before) if at >= given.times[20])
    inside = [data for at, data in before[first:] if at < given.times[35]]
    assert [data for _, data in after] == inside
    assert after[0][0] == pytest.approx(before[first][0] - given.times[20], abs=1e-3)
    # The picture is that of frame 20, and not one beside it.
    errors = [abs(film.pixels[0][::2, ::2].astype(int) - given.pixels[i]).mean() for i in (19, 20, 21)]
    assert errors.index(min(errors)) == 1


def test_subtitles_are_copied_where_they_fit_and_else_named(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mkv", moving(30), audio=("eng",), subtitles="subrip")
    written, film = upscaled(source, tmp_path / "b.mkv", nearest)
    assert written.copied == 2
    assert list(film.packets.values())[1] == list(read(source).packets.values())[1]
    written, film = upscaled(source, tmp_path / "b.mp4", nearest)
    assert written.copied == 1
    assert len(film.packets) == 1
    assert written.notes == ["stream 2, subtitles (srt), is not copied (a .mkv could hold them)"]
    with pytest.raises(
        ValueError, match=r"b\.webm: \.webm cannot hold the sound \(aac\) of the source; name a \.mkv"
    ):
        upscaled(source, tmp_path / "b.webm", nearest)
    assert not (tmp_path / "b.webm").exists()


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_turned_video_is_written_upright(tmp_path: Path, nearest: Upscaler, rotation: int) -> None:
    frames = moving(2)
    source = write(tmp_path / "a.mp4", frames, rotation=rotation)
    with av.open(str(source)) as container:
        assert next(container.decode(video=0)).rotation % 360 == rotation % 360
    written, film = upscaled(source, tmp_path / "b.mp4", nearest)
    expected = np.rot90(frames[0], rotation // 90)
    assert film.pixels[0].shape == (2 * expected.shape[0], 2 * expected.shape[1], 3)
    assert abs(film.pixels[0][::2, ::2].astype(int) - expected).mean() < 6
    assert any("turned" in note for note in written.notes)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_odd_sizes_are_written_whole(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", moving(2, 33, 35), codec="ffv1", pixel_format="yuv444p")
    written, film = upscaled(source, tmp_path / "b.mp4", open_upscaler("nearest", scale=3, device="cpu"))
    assert film.pixels[0].shape == (99, 105, 3)
    assert any("4:4:4" in note for note in written.notes) or written.notes == []


def test_damaged_frames_are_left_out_counted_and_the_rest_stays_in_time(
    tmp_path: Path, nearest: Upscaler
) -> None:
    source = write(tmp_path / "a.mp4", moving(40), keyframes=1, audio=("eng",))
    given, data = read(source), bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    for number in (7, 23):
        at = positions[number]
        assert at is not None
        data[at : at + 4] = b"\xff\xff\xff\xff"  # The length of what follows.
    source.write_bytes(data)
    written, film = upscaled(source, tmp_path / "b.mp4", nearest)
    assert written.frames == 38
    assert len(written.damage) == 1
    assert "2 frames were damaged and left out (the first at 0.28 s" in written.damage[0]
    assert film.times == pytest.approx([time for i, time in enumerate(given.times) if i not in (7, 23)])


def test_a_file_that_is_cut_off_is_used_up_to_there(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mkv", moving(60), codec="ffv1")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    written, film = upscaled(source, tmp_path / "b.mkv", nearest)
    assert 20 <= written.frames < 40
    assert len(film.times) == written.frames
    assert len(written.damage) == 1


@pytest.mark.parametrize("content", [b"", b"no video" * 99])
def test_what_is_no_video_is_told_and_nothing_is_left(
    tmp_path: Path, nearest: Upscaler, content: bytes
) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4: not a video that can be read") as raised:
        upscaled(tmp_path / "a.mp4", tmp_path / "b.mp4", nearest)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_wrong_wishes_are_told_before_anything_is_done(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mp4", moving(3))
    for out, options, message in (
        ("b.gif", {}, "not a video by its ending"),
        ("b.mp4", {"codec": "divx"}, "unknown; give one of h264"),
        ("b.mkv", {"codec": "ffv1", "crf": 3}, "ffv1 is lossless"),
        ("b.mov", {"codec": "ffv1"}, r"\.mov cannot hold ffv1; name a \.mkv"),
        ("b.mp4", {"start": 9}, r"has no frame 9; give a smaller --start"),
        ("a.mp4", {}, "is there already"),
    ):
        with pytest.raises(ValueError, match=message):
            upscaled(source, tmp_path / out, nearest, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_or_interruption_leaves_nothing(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mp4", moving(20), audio=("eng",))

    def interrupt(done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    (tmp_path / "b.mp4").write_bytes(b"the old one")
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, tmp_path / "b.mp4", nearest, force=True, on_progress=interrupt)
    assert (tmp_path / "b.mp4").read_bytes() == b"the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_progress_counts_to_the_number_of_frames(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mp4", moving(12))
    seen: list[tuple[int, int]] = []
    upscale_video(source, tmp_path / "b.mp4", nearest, on_progress=lambda *state: seen.append(state))
    assert seen == [(i, 12) for i in range(1, 13)]


_MEASURED = """
import resource, sys
from pathlib import Path
from sr.upscale.model import open_upscaler
from sr.upscale.video import upscale_video
from sr.upscale.writing import VideoOptions
import torch
torch.set_num_threads(1)
peaks = []
up = open_upscaler("nearest", scale=2, device="cpu")
def note(done, total):
    if done in (60, 390):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
upscale_video(Path(sys.argv[1]), Path(sys.argv[2]), up, options=VideoOptions("ffv1"), on_progress=note)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(12, 96, 128) * 33, audio=("eng",))
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED, source, tmp_path / "b.mkv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    # 330 frames of 192 x 256 pixels are 49 MB; Matroska collects clusters of 5.
    assert float(run.stdout) < 25


def test_the_time_base_of_the_source_is_kept(tmp_path: Path, nearest: Upscaler) -> None:
    source = write(tmp_path / "a.mp4", moving(3))
    upscaled(source, tmp_path / "b.mp4", nearest)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].time_base == Fraction(1, 12800)
        assert container.streams.video[0].average_rate == 25
