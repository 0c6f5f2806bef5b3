"""The other loaders, each as its documentation says, and where it says little, as a careful user would tune it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tests.bench.peers.work import BATCH, FRAMES, Batch, Case, Loader, Work, decode_cv2, planar

EPOCHS = 50
"""More than any run needs, so that no worker is started anew within one."""
Clip = Callable[[int], torch.Tensor]
"""Reads, decodes and cuts the clip of that number."""


class _Clips(Dataset[tuple[torch.Tensor, int]]):
    """A data set that is read by number. `open_clips` is called in the process that reads."""

    def __init__(self, work: Work, patch: int, open_clips: Callable[[Work, int], Clip]) -> None:
        self._work = work
        self._patch = patch
        self._open = open_clips
        self._clip: Clip | None = None

    def __len__(self) -> int:
        return self._work.samples

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        if self._clip is None:
            self._clip = self._open(self._work, self._patch)
        return self._clip(number), number


def _numbered(open_clips: Callable[[Work, int], Clip]) -> Callable[[Work, Case], Iterator[Batch]]:
    """Batches of a loader that is read by number, in a random order."""

    def batches(work: Work, case: Case) -> Iterator[Batch]:
        draw = np.random.default_rng(0)
        order = np.concatenate([draw.permutation(work.samples) for _ in range(EPOCHS)]).tolist()
        clips = _Clips(work, case.patch, open_clips)
        loader = DataLoader(clips, batch_size=BATCH, sampler=order, num_workers=case.workers)
        return ((pixels, numbers.tolist()) for pixels, numbers in loader)

    return batches


def _folder_cv2(work: Work, patch: int) -> Clip:
    import cv2

    corners = work.corners(patch)

    def clip(number: int) -> torch.Tensor:
        frames = [cv2.imread(str(file), cv2.IMREAD_COLOR_RGB) for file in work.frames(number)]
        return torch.from_numpy(planar(frames, corners[number], patch))

    return clip


def _folder_pillow(work: Work, patch: int) -> Clip:
    corners = work.corners(patch)

    def clip(number: int) -> torch.Tensor:
        frames = [np.asarray(Image.open(file)) for file in work.frames(number)]
        return torch.from_numpy(planar(frames, corners[number], patch))

    return clip


def _bare_cv2(work: Work, patch: int) -> Clip:
    corners = work.corners(patch)
    data = [[file.read_bytes() for file in work.frames(number)] for number in range(work.samples)]

    def clip(number: int) -> torch.Tensor:
        frames = [decode_cv2(frame) for frame in data[number]]
        return torch.from_numpy(planar(frames, corners[number], patch))

    return clip


def _lmdb_get(work: Work) -> Callable[[str], bytes]:
    import lmdb

    environment = lmdb.open(
        str(work.store("lmdb")), readonly=True, lock=False, readahead=False, max_readers=64
    )

    def get(key: str) -> bytes:
        with environment.begin(write=False) as transaction:
            return transaction.get(key.encode("ascii"))

    return get


def _lmdb_basicsr(work: Work, patch: int) -> Clip:
    """BasicSR's read path: whole frames become float32 before they are cut, and planes of RGB after."""
    import cv2

    corners, get = work.corners(patch), _lmdb_get(work)

    def clip(number: int) -> torch.Tensor:
        frames = []
        for frame in range(FRAMES):
            data = np.frombuffer(get(f"{work.clip(number)}/im{frame + 1}"), np.uint8)
            frames.append(cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32) / 255.0)
        y, x = corners[number]
        cuts = [frame[y : y + patch, x : x + patch] for frame in frames]
        planes = [cv2.cvtColor(cut, cv2.COLOR_BGR2RGB).transpose(2, 0, 1) for cut in cuts]
        return torch.stack([torch.from_numpy(plane).float() for plane in planes])

    return clip


def _lmdb_uint8(work: Work, patch: int) -> Clip:
    corners, get = work.corners(patch), _lmdb_get(work)

    def clip(number: int) -> torch.Tensor:
        frames = [decode_cv2(get(f"{work.clip(number)}/im{frame + 1}")) for frame in range(FRAMES)]
        return torch.from_numpy(planar(frames, corners[number], patch))

    return clip


class _Cut:
    """From a decoded WebDataset sample to a crop; an object because workers may need to pickle it."""

    def __init__(self, work: Work, patch: int) -> None:
        self._work = work
        self._patch = patch
        self._corners = work.corners(patch)

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
        number = self._work.number(sample["__key__"])
        frames = [sample[f"im{frame + 1}.png"] for frame in range(FRAMES)]
        y, x = (int(side) for side in self._corners[number])
        if isinstance(frames[0], torch.Tensor):
            cut = torch.stack([f[:, y : y + self._patch, x : x + self._patch] for f in frames])
            return cut, number
        return torch.from_numpy(planar([np.asarray(f) for f in frames], (y, x), self._patch)), number


def _cv2_handler(key: str, data: bytes) -> np.ndarray | None:
    return decode_cv2(data) if key.endswith(".png") else None


def _webdataset(decoder: str | Callable[[str, bytes], Any]) -> Callable[[Work, Case], Iterator[Batch]]:
    def batches(work: Work, case: Case) -> Iterator[Batch]:
        import webdataset

        shards = [str(file) for file in sorted(work.store("tar").glob("*.tar"))]
        clips = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(100)
        clips = clips.decode(decoder).map(_Cut(work, case.patch)).repeat()
        loader = webdataset.WebLoader(clips, batch_size=BATCH, num_workers=case.workers)
        return ((pixels, numbers.tolist()) for pixels, numbers in loader)

    return batches


def _mosaic(store: str) -> Callable[[Work, Case], Iterator[Batch]]:
    def batches(work: Work, case: Case) -> Iterator[Batch]:
        import streaming

        corners = work.corners(case.patch)

        class Clips(streaming.StreamingDataset):
            def __getitem__(self, at: Any) -> tuple[torch.Tensor, int]:
                return _cut_columns(super().__getitem__(at), corners, case.patch)

        streaming.base.util.clean_stale_shared_memory()
        clips = Clips(
            local=str(work.store(store)), shuffle=True, batch_size=BATCH, epoch_size=EPOCHS * work.samples
        )
        loader = DataLoader(clips, batch_size=BATCH, num_workers=case.workers)
        return ((pixels, numbers.tolist()) for pixels, numbers in loader)

    return batches


def _litdata(work: Work, case: Case) -> Iterator[Batch]:
    import litdata

    corners = work.corners(case.patch)

    class Clips(litdata.StreamingDataset):
        def __getitem__(self, at: Any) -> tuple[torch.Tensor, int]:
            return _cut_columns(super().__getitem__(at), corners, case.patch)

    clips = Clips(str(work.store("litdata")), shuffle=True, subsample=float(EPOCHS))
    loader = litdata.StreamingDataLoader(clips, batch_size=BATCH, num_workers=case.workers)
    return ((pixels, numbers.tolist()) for pixels, numbers in loader)


def _cut_columns(row: dict[str, Any], corners: np.ndarray, patch: int) -> tuple[torch.Tensor, int]:
    """A crop from columns of PNG bytes or Pillow pictures."""
    columns = [row[f"im{frame + 1}"] for frame in range(FRAMES)]
    frames = [decode_cv2(c) if isinstance(c, bytes) else np.asarray(c) for c in columns]
    number = int(row["number"])
    return torch.from_numpy(planar(frames, corners[number], patch)), number


CV2, WDS = ("cv2",), ("webdataset",)
"""OpenCV decodes, or only separates the channels of what others decoded."""
PEERS = (
    Loader("webdataset torchrgb", _webdataset("torchrgb"), WDS, "tar", "as documented; float32 batches"),
    Loader("webdataset torchrgb8", _webdataset("torchrgb8"), WDS, "tar", "Pillow, uint8"),
    Loader("webdataset pil", _webdataset("pil"), WDS + CV2, "tar", "Pillow, uint8"),
    Loader("webdataset cv2", _webdataset(_cv2_handler), WDS + CV2, "tar", "own handler, uint8"),
    Loader(
        "basicsr lmdb",
        _numbered(_lmdb_basicsr),
        ("lmdb", *CV2),
        "lmdb",
        "its read path written anew: PNG of level 1, OpenCV, whole frames to float32; ground truth only",
    ),
    Loader("lmdb cv2", _numbered(_lmdb_uint8), ("lmdb", *CV2), "lmdb", "the same LMDB, uint8 all the way"),
    Loader(
        "mosaic png", _mosaic("mds-png"), ("streaming", *CV2), "mds-png", "its png columns (Pillow), uint8"
    ),
    Loader("mosaic cv2", _mosaic("mds-bytes"), ("streaming", *CV2), "mds-bytes", "bytes columns, uint8"),
    Loader("litdata cv2", _litdata, ("litdata", *CV2), "litdata", "bytes, uint8"),
    Loader("folder pillow", _numbered(_folder_pillow), CV2, "", "the PNG files, uint8"),
    Loader("folder cv2", _numbered(_folder_cv2), CV2, "", "the PNG files, uint8"),
    Loader(
        "bare decode cv2",
        _numbered(_bare_cv2),
        CV2,
        "",
        "PNG bytes that are in memory already: no container at all",
        parallel=False,
    ),
)
