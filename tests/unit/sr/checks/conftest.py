import pytest
import torch
from torch import Tensor

from sr.checks.pictures import bundled


@pytest.fixture(scope="session")
def pictures() -> Tensor:
    torch.set_num_threads(1)
    return bundled()[:2]
