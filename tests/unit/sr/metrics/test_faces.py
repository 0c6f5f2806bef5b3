"""dlib's published networks on a photograph of a face."""

import sys

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F

from sr.metrics import aggregate, faces, measure
from sr.metrics.proportions import wilson


@pytest.fixture
def installed() -> None:
    pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    """(1, 3, 200, 200)."""
    picture = torch.from_numpy(skimage.data.astronaut()[20:220, 120:320]).permute(2, 0, 1)
    return picture[None].float() / 255


def shrunk(face: torch.Tensor, side: int, *, width: int = 200) -> torch.Tensor:
    """Brought down to `side` pixels and up again, as wide as told, on black."""
    small = F.interpolate(face, size=(side, side), mode="bicubic", antialias=True)
    return F.pad(F.interpolate(small, size=(200, width), mode="bicubic"), (0, 200 - width)).clamp(0, 1)


@pytest.fixture(scope="module")
def outcomes(face: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SR and HR: the face itself, mildly soft, squeezed to another's, too small to find, black; then a black HR, twice."""
    sr = [face, shrunk(face, 50), shrunk(face, 33, width=140), shrunk(face, 20), face * 0, face, face * 0]
    return torch.cat(sr), torch.cat([face] * 5 + [face * 0] * 2)


@pytest.mark.usefixtures("installed")
def test_no_face_and_mismatch_are_told_apart(outcomes: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = faces.recognise(*outcomes)
    assert found.no_face.tolist() == [False, False, False, True, True, False, False]
    assert found.mismatch.tolist() == [False, False, True, False, False, False, False]
    assert found.no_reference.tolist() == [False] * 5 + [True] * 2
    assert found.failed.tolist() == [False, False, True, True, True, False, False]
    assert found.distance[0] == 0
    assert 0.2 < found.distance[1] < 0.6 < found.distance[2]
    assert np.isnan(found.distance[3:]).all()


@pytest.mark.usefixtures("installed")
def test_pictures_whose_target_shows_no_face_are_not_counted(
    outcomes: tuple[torch.Tensor, torch.Tensor],
) -> None:
    found = faces.recognise(*outcomes)
    assert found.num_judged == 5
    assert found.rate() == (0.6, *wilson(3, 5))
    values = measure(
        outcomes[0][:, None], outcomes[1][:, None], names=("ffr", "ffr_no_face", "ffr_mismatch"), scale=8
    )
    sums = {name: aggregate(v, name) for name, v in values.items()}
    assert {name: (a.mean, a.n, a.num_undefined) for name, a in sums.items()} == {
        "ffr": (0.6, 5, 2), "ffr_no_face": (0.4, 5, 2), "ffr_mismatch": (0.2, 5, 2),
    }  # fmt: skip


@pytest.mark.usefixtures("installed")
def test_the_distance_is_that_of_dlibs_descriptors(face: torch.Tensor) -> None:
    import dlib

    folder = faces._models_folder()
    landmarks = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))
    described = []
    for picture in (face, face.flip(-1)):
        levels = np.ascontiguousarray((picture[0] * 255).round().byte().permute(1, 2, 0).numpy())
        (box,) = dlib.get_frontal_face_detector()(levels, 1)
        described.append(np.array(network.compute_face_descriptor(levels, landmarks(levels, box))))
    expected = np.linalg.norm(described[0] - described[1])
    assert faces.recognise(face.flip(-1), face).distance[0] == pytest.approx(expected, abs=1e-9)
    assert expected > 0.1


@pytest.mark.usefixtures("installed")
def test_no_rate_without_faces(face: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="none of 1 targets shows a face"):
        faces.recognise(face, face * 0).rate()


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, face: torch.Tensor
) -> None:
    faces._networks.cache_clear()
    faces._embedding.cache_clear()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ValueError, match=r"dlib is not installed; run: pip install .srloss\[faces\]."):
        measure(face[:, None], face[:, None], names=("ffr",), scale=2)
