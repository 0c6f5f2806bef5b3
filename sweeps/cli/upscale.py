"""`srloss upscale`: a trained model applied to a picture, a folder of pictures, or a video."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sr.upscale.model import Upscaler
    from sr.upscale.writing import VideoOptions
    from sweeps.cli.show import Ticker

_OK, _FAILED, _SOME_FAILED = 0, 1, 3


class CodecName(StrEnum):
    """What a video is written as."""

    H264 = "h264"
    HEVC = "hevc"
    VP9 = "vp9"
    FFV1 = "ffv1"


class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def upscale(
    model: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="Folder of a trial, a checkpoint, an exported model; or bicubic or nearest with --scale.",
        ),
    ],
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A picture, a folder of pictures, or a video.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write; or a folder, which keeps the names.")
    ],
    scale: Annotated[int | None, typer.Option(min=1, max=16, help="Factor of bicubic and nearest.")] = None,
    tile: Annotated[int, typer.Option(min=0, help="Side of a tile in pixels of IN; 0: no tiles.")] = 256,
    overlap: Annotated[
        int, typer.Option(min=0, help="What a tile sees around it; no seams if the model looks no further.")
    ] = 32,
    window: Annotated[int, typer.Option(min=1, help="Frames at once, for recurrent models.")] = 8,
    warm_up: Annotated[
        int, typer.Option(min=0, help="Frames before and after them that recurrent models also see.")
    ] = 4,
    codec: Annotated[
        CodecName | None,
        typer.Option(
            help="Of a video; h264 unless given (vp9 for .webm). ffv1 is lossless.", show_default=False
        ),
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=51,
            help="Quality of a video, less is better; h264 18, hevc 20, vp9 24.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[int, typer.Option(min=0, help="Frames of the video to pass over.")] = 0,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames to upscale; all unless given.", show_default=False)
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.AUTO,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
) -> None:
    """Upscale pictures or a video with a trained model; sound, subtitles and timestamps are kept."""
    from sr.upscale.model import Windows, open_upscaler
    from sr.upscale.tiles import Tiling
    from sr.upscale.writing import VideoOptions

    if not source.exists():
        raise ValueError(
            f"{source}: no such file or folder; give a picture, a folder of pictures, or a video"
        )
    upscaler = open_upscaler(
        model,
        scale=scale,
        device=device.value,
        tiling=Tiling(tile, overlap),
        windows=Windows(window, warm_up),
    )
    options = VideoOptions(codec.value if codec else None, crf, start, frames)
    if source.is_dir():
        code = _folder(source, out, upscaler, options, force=force)
    elif _is_picture(source):
        code = _picture(source, out, upscaler, options, force=force)
    else:
        code = _video(source, out, upscaler, options, force=force)
    raise typer.Exit(code)


def _is_picture(source: Path) -> bool:
    """By its ending; without a known one a video is tried, which is recognised by its content."""
    from shards.sources.video import ENDINGS
    from shards.sources.walk import PICTURE_ENDINGS

    ending = source.suffix.lower()
    if ending in PICTURE_ENDINGS:
        return True
    if ending in ENDINGS:
        return False
    raise ValueError(
        f"{source}: neither a picture ({', '.join(PICTURE_ENDINGS)}) nor a video ({', '.join(ENDINGS)}) by its ending; "
        "give one of these, or a folder of pictures"
    )


def _inside(out: Path, name: str) -> Path:
    """OUT may be a folder that is there, or that its ending does not make a file."""
    return out / name if out.is_dir() or not out.suffix else out


def _refuse_video_options(options: VideoOptions) -> None:
    from sr.upscale.writing import VideoOptions

    if options != VideoOptions():
        raise ValueError("--codec, --crf, --start and --frames are for video; leave them out for pictures")


def _picture(source: Path, out: Path, upscaler: Upscaler, options: VideoOptions, *, force: bool) -> int:
    from sr.upscale.pictures import upscale_picture
    from sweeps.cli.show import say, warn

    _refuse_video_options(options)
    name = source.with_suffix(".png").name if source.suffix.lower() in (".jpg", ".jpeg") else source.name
    target = _inside(out, name)
    for note in upscale_picture(source, target, upscaler, force=force):
        warn(f"{source}: {note}")
    _say_clips(upscaler)
    say(f"{target}: x{upscaler.scale} by {upscaler.name}")
    return _OK


def _folder(source: Path, out: Path, upscaler: Upscaler, options: VideoOptions, *, force: bool) -> int:
    from sr.upscale.pictures import upscale_folder
    from sweeps.cli.show import progress, say, warn

    _refuse_video_options(options)
    if out.is_file():
        raise ValueError(f"{out}: is a file, and {source} is a folder; name a folder to write to")
    with progress("upscaling pictures", 1) as ticker:
        done = upscale_folder(
            source,
            out,
            upscaler,
            force=force,
            on_progress=lambda number, total, name: ticker.update(number, name, total=total),
        )
    for note in done.notes:
        warn(note)
    for line in done.failed:
        warn(f"not upscaled: {line}")
    _say_clips(upscaler)
    say(f"{out}: {_count(len(done.written), 'picture')}, x{upscaler.scale} by {upscaler.name}")
    if done.failed:
        say(f"{_count(len(done.failed), 'picture')} could not be upscaled")
        return _SOME_FAILED if done.written else _FAILED
    return _OK


def _say_clips(upscaler: Upscaler) -> None:
    from sweeps.cli.show import warn

    if upscaler.takes_clips:
        warn(f"{upscaler.name} is made for clips; each picture was upscaled as a clip that stands still")


def _video(source: Path, out: Path, upscaler: Upscaler, options: VideoOptions, *, force: bool) -> int:
    from time import monotonic

    from sr.upscale.video import upscale_video
    from sweeps.cli.show import progress, say, warn

    as_mp4 = source.suffix.lower() in (".mp4", ".m4v", ".mov", ".webm")
    target = _inside(out, source.name if as_mp4 else source.with_suffix(".mkv").name)
    started = monotonic()

    def tell(ticker: Ticker, done: int, total: int) -> None:
        ticker.update(done, f"{done / (monotonic() - started):.1f} frames/s", total=max(done, total))

    try:
        with progress("upscaling frames", 1) as ticker:
            written = upscale_video(
                source,
                target,
                upscaler,
                options=options,
                force=force,
                on_progress=lambda done, total: tell(ticker, done, total),
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {target} was not written") from None
    for note in written.notes:
        warn(note)
    for line in written.damage:
        warn(f"{source}: {line}")
    seconds = monotonic() - started
    copied = f", {_count(written.copied, 'stream')} copied" if written.copied else ""
    say(
        f"{target}: {_count(written.frames, 'frame')} of {written.width} x {written.height} px{copied}, "
        f"x{upscaler.scale} by {upscaler.name}; {seconds:.0f} s, {written.frames / seconds:.1f} frames/s"
    )
    return _SOME_FAILED if written.damage else _OK


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
