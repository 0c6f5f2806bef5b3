"""The same septuplets in the containers of the other loaders, each written with its own writer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.bench.peers.work import FRAMES, Work

TAR_SHARDS = 4
"""WebDataset gives each worker whole shards, so there must be some for each."""
CHUNK_BYTES = 64 * 2**20
BASICSR_PNG_LEVEL = 1


def write_tars(work: Work, out: Path) -> None:
    """WebDataset shards with the bytes of the PNG files."""
    import webdataset

    per_shard = -(-work.samples // TAR_SHARDS)
    for shard in range(TAR_SHARDS):
        with webdataset.TarWriter(str(out / f"{shard:06d}.tar")) as writer:
            for number in range(shard * per_shard, min((shard + 1) * per_shard, work.samples)):
                writer.write(
                    {"__key__": work.clip(number).replace("/", "_")} | _frame_bytes(work, number, ".png")
                )


def write_lmdb(work: Work, out: Path) -> None:
    """LMDB as BasicSR's scripts write it: PNG of level 1 by OpenCV, keys such as 00001/0001/im1."""
    import cv2
    import lmdb

    environment = lmdb.open(str(out), map_size=2**40)
    with environment.begin(write=True) as transaction:
        for number in range(work.samples):
            for frame, file in enumerate(work.frames(number)):
                pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
                _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, BASICSR_PNG_LEVEL])
                transaction.put(f"{work.clip(number)}/im{frame + 1}".encode(), data.tobytes())
    environment.close()


def write_mds_bytes(work: Work, out: Path) -> None:
    """MosaicML's shards with the bytes of the PNG files."""
    _write_mds(work, out, "bytes", lambda number: _frame_bytes(work, number, ""))


def write_mds_png(work: Work, out: Path) -> None:
    """MosaicML's shards with its own "png" columns."""

    def pictures(number: int) -> dict[str, Any]:
        return {f"im{i + 1}": Image.open(file).convert("RGB") for i, file in enumerate(work.frames(number))}

    _write_mds(work, out, "png", pictures)


def _write_mds(work: Work, out: Path, kind: str, frames: Callable[[int], dict[str, Any]]) -> None:
    from streaming import MDSWriter

    columns = {"number": "int"} | {f"im{frame + 1}": kind for frame in range(FRAMES)}
    with MDSWriter(out=str(out), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for number in range(work.samples):
            writer.write({"number": number} | frames(number))


def write_litdata(work: Work, out: Path) -> None:
    """LitData's chunks with the bytes of the PNG files."""
    import litdata

    litdata.optimize(
        fn=functools.partial(_litdata_sample, work),
        inputs=list(range(work.samples)),
        output_dir=str(out),
        chunk_bytes=CHUNK_BYTES,
        num_workers=1,
    )


def _litdata_sample(work: Work, number: int) -> dict[str, Any]:
    return {"number": number} | _frame_bytes(work, number, "")


def _frame_bytes(work: Work, number: int, ending: str) -> dict[str, bytes]:
    return {f"im{i + 1}{ending}": file.read_bytes() for i, file in enumerate(work.frames(number))}


STORES: dict[str, Callable[[Work, Path], None]] = {
    "tar": write_tars,
    "lmdb": write_lmdb,
    "mds-bytes": write_mds_bytes,
    "mds-png": write_mds_png,
    "litdata": write_litdata,
}
