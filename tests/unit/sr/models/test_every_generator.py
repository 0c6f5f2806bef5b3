"""What holds for every generator in the table; the smallest input that all of them take."""

import pytest
import torch

from sr.components import parameters_of
from sr.models import GENERATORS
from sr.models.discriminators import DISCRIMINATORS

# The same network with fewer channels, where the published one is large.
SMALL = {
    "srresnet": {"channels": 8, "num_blocks": 1},
    "edsr_baseline": {"channels": 8, "num_blocks": 1},
    "rrdbnet": {"channels": 8, "num_blocks": 1, "growth": 4},
    "sr_unet": {"width": 8},
    "srgan_keras": {"channels": 8, "num_blocks": 1},
    "preup_unet": {"width": 8},
    "unet_geu": {"width": 8},
    "rrn": {"channels": 8, "num_blocks": 1},
    "convgru_srresnet": {"channels": 8, "num_blocks": 1},
    "frvsr": {"channels": 8, "num_blocks": 1},
    "basicvsr_lite": {"channels": 8, "num_blocks": 1},
}


@pytest.mark.parametrize("name", sorted(GENERATORS))
class TestEveryGenerator:
    def test_small_variants_exist(self, name: str) -> None:
        known = parameters_of(GENERATORS[name], given_elsewhere=frozenset({"scale"}))
        assert set(SMALL.get(name, {})) <= set(known)
        assert all(parameter.default is not parameter.empty for parameter in known.values())

    def test_upscales_pictures_and_clips_and_loads_what_it_saved(self, name: str) -> None:
        torch.manual_seed(0)
        generator = GENERATORS[name](scale=2, **SMALL.get(name, {})).eval()
        frames = getattr(generator, "num_frames", None) or 3
        only_middle = getattr(generator, "middle_frame_only", False)
        clip = torch.rand(2, frames, 3, 32, 32)
        with torch.no_grad():
            out = generator(clip)
        assert out.shape == (2, 1 if only_middle else frames, 3, 64, 64)
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()
        torch.manual_seed(1)
        other = GENERATORS[name](scale=2, **SMALL.get(name, {})).eval()
        other.load_state_dict(generator.state_dict())
        with torch.no_grad():
            assert torch.equal(other(clip), out)
            if only_middle:
                with pytest.raises(ValueError, match="frames"):
                    generator(clip[:, :1])
            else:
                assert generator(clip[:, 0]).shape == (2, 3, 64, 64)

    def test_has_a_line_that_says_what_it_is(self, name: str) -> None:
        assert len((GENERATORS[name].__doc__ or "").splitlines()[0]) > 20


@pytest.mark.parametrize("name", sorted(DISCRIMINATORS))
def test_every_discriminator_judges_clips_and_is_the_same_for_equal_seeds(name: str) -> None:
    pictures = torch.rand(1, 3, 3, 64, 64)
    judged = []
    for _ in range(2):
        torch.manual_seed(0)
        discriminator = DISCRIMINATORS[name](channels=8).eval()
        with torch.no_grad():
            judged.append(discriminator(pictures))
    assert torch.equal(judged[0][0], judged[1][0])
    assert list(judged[0][1]) == list(discriminator.tap_names)
