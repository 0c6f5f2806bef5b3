"""Warping and optical flow, against known motion and against scikit-image and SciPy."""

import numpy as np
import pytest
import skimage
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.registration import optical_flow_ilk

from sr.flow import optical_flow
from sr.warp import inside, visible, warp

LUMA = np.array([0.299, 0.587, 0.114])


def photograph(name: str) -> np.ndarray:
    return getattr(skimage.data, name)().astype(np.float64) / 255


def moved_crops(image: np.ndarray, flow: np.ndarray, *, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    """A crop, and one that shows at p + flow what the first shows at p; flow (2, H, W) must be invertible and smooth."""
    height, width = flow.shape[1:]
    rows, columns = np.mgrid[:height, :width].astype(float)
    # second(q) = first(p) with p + flow(p) = q, by fixed-point iteration.
    x, y = columns.copy(), rows.copy()
    for _ in range(30):
        x = columns - map_coordinates(flow[0], [y, x], order=1, mode="nearest")
        y = rows - map_coordinates(flow[1], [y, x], order=1, mode="nearest")
    second = np.stack([map_coordinates(image[..., c], [y + top, x + left], order=3) for c in range(3)], -1)
    return image[top : top + height, left : left + width], second


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()


def textured(picture: np.ndarray) -> np.ndarray:
    """Where a window shows texture in both directions (Shi and Tomasi's criterion), away from the border."""
    gy, gx = np.gradient(picture @ LUMA)
    xx, xy, yy = (gaussian_filter(p, 3) for p in (gx * gx, gx * gy, gy * gy))
    smaller = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    mask = smaller > 2e-4
    mask[:12] = mask[-12:] = mask[:, :12] = mask[:, -12:] = False
    return mask


def endpoint_error(found: np.ndarray, true: np.ndarray, mask: np.ndarray) -> float:
    return float(np.hypot(*(found - true))[mask].mean())


class TestWarp:
    def test_reads_where_the_flow_points_to(self) -> None:
        pictures = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
        flow = torch.zeros(1, 2, 20, 30)
        flow[:, 0], flow[:, 1] = 4, -3
        torch.testing.assert_close(
            warp(pictures, flow)[..., 3:, :-4], pictures[..., :-3, 4:], rtol=1e-5, atol=1e-5
        )

    def test_agrees_with_scipy_also_beyond_the_border(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pictures = torch.rand(2, 1, 13, 17, generator=generator, dtype=torch.float64)
        flow = 8 * torch.randn(2, 2, 13, 17, generator=generator, dtype=torch.float64)
        rows, columns = np.mgrid[:13, :17]
        for n in range(2):
            places = [rows + flow[n, 1].numpy(), columns + flow[n, 0].numpy()]
            expected = map_coordinates(pictures[n, 0].numpy(), places, order=1, mode="nearest")
            np.testing.assert_allclose(warp(pictures, flow)[n, 0].numpy(), expected, atol=1e-12)

    def test_gradients(self) -> None:
        generator = torch.Generator().manual_seed(1)
        pictures = torch.rand(1, 2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        flow = torch.randn(1, 2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(warp, (pictures, flow))

    def test_bfloat16_does_not_blur_positions(self) -> None:
        pictures = (torch.arange(600) % 2).expand(1, 1, 4, 600).bfloat16()
        warped = warp(pictures, torch.zeros(1, 2, 4, 600, dtype=torch.bfloat16))
        assert warped.dtype == torch.bfloat16
        torch.testing.assert_close(warped, pictures, rtol=0, atol=1e-2)

    def test_refuses_a_flow_of_another_size(self) -> None:
        with pytest.raises(ValueError, match=r"warp: the flow .* give \(N, 2, H, W\)"):
            warp(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 4, 4))


class TestVisible:
    def test_hides_exactly_what_a_moving_square_covers(self) -> None:
        forward, backward = torch.zeros(1, 2, 30, 40), torch.zeros(1, 2, 30, 40)
        forward[:, 0, 10:18, 5:13] = 6.0  # The square before...
        backward[:, 0, 10:18, 11:19] = -6.0  # ... and after it has moved 6 pixels to the right.
        expected = torch.ones(30, 40)
        expected[10:18, 13:19] = 0  # Background that the square has come to cover.
        assert torch.equal(visible(forward, backward)[0, 0], expected)

    def test_hides_what_leaves_the_picture(self) -> None:
        flow = torch.zeros(1, 2, 9, 12)
        flow[:, 1] = 2.0
        assert torch.equal(inside(flow)[0, 0, :, 3], torch.tensor([1.0] * 7 + [0.0] * 2))
        assert torch.equal(visible(flow, -flow), inside(flow))


class TestOpticalFlow:
    @pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
    @pytest.mark.parametrize("motion", [(1.0, 0.0), (2.4, -1.3), (-7.5, 4.2)])
    def test_finds_a_translation_of_a_photograph(self, name: str, motion: tuple[float, float]) -> None:
        true = np.broadcast_to(np.array(motion)[:, None, None], (2, 96, 96))
        first, second = moved_crops(photograph(name), true, top=100, left=150)
        found = optical_flow(tensor(first), tensor(second))[0].numpy()
        mask = textured(first)
        assert mask.sum() > 100
        assert endpoint_error(found, true, mask) < 0.3

    def test_pixels_that_leave_the_picture_do_not_mislead_their_neighbours(self) -> None:
        true = np.broadcast_to(np.array([-5.0, 3.0])[:, None, None], (2, 64, 64))
        first, second = moved_crops(photograph("chelsea"), true, top=100, left=150)
        found = optical_flow(tensor(first), tensor(second))[0].numpy()
        edge = np.zeros((64, 64), dtype=bool)
        edge[8:-8, 5:10] = edge[-8:-3, 8:-8] = True
        assert endpoint_error(found, true, edge) < 0.1

    def test_finds_rotation_and_zoom_better_than_scikit_image(self) -> None:
        rows, columns = np.mgrid[:96, :96].astype(float) - 48
        true = np.stack([0.03 * columns - 0.05 * rows, 0.05 * columns + 0.03 * rows])
        first, second = moved_crops(photograph("astronaut"), true, top=60, left=170)
        found = optical_flow(tensor(first), tensor(second))[0].numpy()
        down, across = optical_flow_ilk(first @ LUMA, second @ LUMA)
        mask = textured(first)
        error = endpoint_error(found, true, mask)
        assert error < 0.2
        assert error < 1.1 * endpoint_error(np.stack([across, down]), true, mask)

    def test_warping_the_second_picture_gives_the_first(self) -> None:
        true = np.broadcast_to(np.array([3.0, -2.0])[:, None, None], (2, 64, 64))
        first, second = (tensor(p) for p in moved_crops(photograph("chelsea"), true, top=100, left=150))
        flow = optical_flow(first, second)
        residual = (warp(second, flow) - first)[..., 6:-6, 6:-6].abs().mean()
        wrong_way = (warp(second, -flow) - first)[..., 6:-6, 6:-6].abs().mean()
        assert residual < 0.01
        assert residual < 0.1 * (second - first)[..., 6:-6, 6:-6].abs().mean() < wrong_way

    def test_stands_noise(self) -> None:
        true = np.broadcast_to(np.array([2.4, -1.3])[:, None, None], (2, 96, 96))
        first, second = moved_crops(photograph("astronaut"), true, top=60, left=170)
        rng = np.random.default_rng(0)
        noisy = [tensor(p + rng.normal(0, 0.02, p.shape)) for p in (first, second)]
        assert endpoint_error(optical_flow(*noisy)[0].numpy(), true, textured(first)) < 0.3

    def test_nothing_moves_in_a_still_or_an_empty_clip(self) -> None:
        still = tensor(photograph("chelsea")[100:140, 150:191])
        assert optical_flow(still, still).abs().max() < 1e-3
        flat = torch.full((1, 3, 40, 40), 0.5)
        noisy = flat + 0.001 * torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
        assert optical_flow(flat, noisy).abs().mean() < 0.05

    def test_has_no_graph_and_treats_each_pair_by_itself(self) -> None:
        image = photograph("astronaut")
        pairs = [moved_crops(image, np.full((2, 33, 47), d), top=60, left=170) for d in (1.0, -2.0)]
        first = torch.cat([tensor(a) for a, _ in pairs]).requires_grad_()
        second = torch.cat([tensor(b) for _, b in pairs])
        both = optical_flow(first, second)
        assert not both.requires_grad
        assert both.shape == (2, 2, 33, 47)
        torch.testing.assert_close(both[1:], optical_flow(first[1:], second[1:]), rtol=1e-4, atol=1e-4)

    def test_works_in_float64_and_on_tiny_pictures(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pair = torch.rand(2, 1, 3, 8, 9, generator=generator, dtype=torch.float64)
        flow = optical_flow(pair[0], pair[1])
        assert flow.dtype == torch.float64
        assert torch.isfinite(flow).all()

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(ValueError, match="optical_flow: expected two batches"):
            optical_flow(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
        with pytest.raises(ValueError, match="give the frames of a clip as a batch"):
            optical_flow(torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 2, 3, 16, 16))
