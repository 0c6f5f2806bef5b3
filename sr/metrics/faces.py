"""Failed face recognition: would a machine still know the person? Needs the optional extra `faces`.

A reconstruction [recon] of a count that "impact of loss function on multi-frame SR" (Mezina and Burget 2021) reports and
does not define. dlib's published networks: the HOG detector after one doubling, the 5-point landmarks, and the
residual network whose 128 numbers are nearer than 0.6 for pictures of one person (King 2009, "Dlib-ml"; dlib.net).
A frame fails where SR shows no face, or one whose distance to HR's is above 0.6. Frames whose HR shows no face say
nothing about SR and are left out. Where a picture shows several faces, the largest counts.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr.metrics.proportions import wilson

THRESHOLD = 0.6
"""Distance above which two faces are of different people: dlib's own."""

_REMEMBERED = 64
"""Pictures whose faces are kept: detection takes a tenth of a second, and three metrics ask for the same ones."""


@dataclass(frozen=True)
class Recognition:
    """What became of the face in each picture, shape (N,) each."""

    distance: np.ndarray
    """To the face in HR; not a number where either picture shows none."""
    no_face: np.ndarray
    """HR shows a face, SR none."""
    mismatch: np.ndarray
    """Both show a face, of different people as the network sees it."""
    no_reference: np.ndarray
    """HR shows no face: the picture does not count."""

    @property
    def failed(self) -> np.ndarray:
        """Either kind of failure."""
        return self.no_face | self.mismatch

    @property
    def num_judged(self) -> int:
        """Pictures that count."""
        return int((~self.no_reference).sum())

    def rate(self) -> tuple[float, float, float]:
        """Share of the judged pictures that failed, with Wilson's 95 % interval.

        Raises:
            ValueError: No picture counts.
        """
        if not self.num_judged:
            raise ValueError(
                f"failed face recognition: none of {len(self.failed)} targets shows a face that is found; "
                "evaluate on larger or other pictures"
            )
        failures = int(self.failed.sum())
        return failures / self.num_judged, *wilson(failures, self.num_judged)


def recognise(sr: Tensor, hr: Tensor) -> Recognition:
    """Looks for HR's faces in SR.

    Args:
        sr: Shape (N, 3, H, W) in [0, 1]; may be bicubic, HR itself, or another picture of the same people.
        hr: Same N; sizes may differ.

    Raises:
        ValueError: The extra `faces` is not installed.
    """
    found_sr, found_hr = (_embeddings(pictures) for pictures in (sr, hr))
    seen = np.array([face is not None for face in found_sr], dtype=bool)
    known = np.array([face is not None for face in found_hr], dtype=bool)
    distance = np.array(
        [
            np.linalg.norm(a - b) if a is not None and b is not None else np.nan
            for a, b in zip(found_sr, found_hr, strict=True)
        ]
    )
    return Recognition(
        distance=distance,
        no_face=known & ~seen,
        mismatch=known & seen & (np.nan_to_num(distance) > THRESHOLD),
        no_reference=~known,
    )


def ffr(sr: Tensor, hr: Tensor) -> Tensor:
    """1 where the face is not recognised, 0 where it is, not a number where HR shows none; (N, 3, H, W) to (N,)."""
    found = recognise(sr, hr)
    return _share(found.failed, found, sr)


def ffr_no_face(sr: Tensor, hr: Tensor) -> Tensor:
    """1 where SR shows no face at all, else as `ffr`."""
    found = recognise(sr, hr)
    return _share(found.no_face, found, sr)


def ffr_mismatch(sr: Tensor, hr: Tensor) -> Tensor:
    """1 where SR shows another face, else as `ffr`."""
    found = recognise(sr, hr)
    return _share(found.mismatch, found, sr)


def _share(failed: np.ndarray, found: Recognition, like: Tensor) -> Tensor:
    return torch.from_numpy(np.where(found.no_reference, np.nan, failed)).to(like.device)


def _embeddings(pictures: Tensor) -> list[np.ndarray | None]:
    levels = pictures.detach().double().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [_embedding(picture.tobytes(), picture.shape[0], picture.shape[1]) for picture in levels]


@functools.lru_cache(maxsize=_REMEMBERED)
def _embedding(pixels: bytes, height: int, width: int) -> np.ndarray | None:
    """The 128 numbers of the largest face of an RGB picture, or None where no face is found."""
    networks = _networks()
    picture = np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3)
    faces = networks.detector(picture, 1)
    if not len(faces):
        return None
    landmarks = networks.landmarks(picture, max(faces, key=lambda face: face.area()))
    return np.array(networks.recogniser.compute_face_descriptor(picture, landmarks))


@dataclass(frozen=True)
class _Networks:
    detector: Any
    landmarks: Any
    recogniser: Any


@functools.cache
def _networks() -> _Networks:
    dlib = _dlib()
    folder = _models_folder()
    return _Networks(
        dlib.get_frontal_face_detector(),
        dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat")),
        dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat")),
    )


_ABSENT = 'failed face recognition: {} is not installed; run: pip install "srloss[faces]"'


def _dlib() -> ModuleType:
    try:
        return importlib.import_module("dlib")
    except ImportError:
        raise ValueError(_ABSENT.format("dlib")) from None


def _models_folder() -> Path:
    # The package is not imported: it asks for pkg_resources, which new environments do not have.
    found = importlib.util.find_spec("face_recognition_models")
    if found is None or not found.submodule_search_locations:
        raise ValueError(_ABSENT.format("face-recognition-models"))
    return Path(found.submodule_search_locations[0]) / "models"
