from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from afdcd.models.heads.deeplabv3 import ASPP
from afdcd.models.heads.psp import BINS, adaptive_average


@pytest.mark.parametrize("bins", [*BINS, 4, 5, 7])
def test_matrix_pooling_equals_the_operator_at_every_size(bins: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for height in (1, 2, 5, 6, 12, 13, 31, 64):
        for width in (1, 3, 6, 7, 25, 97):
            x = torch.randn(2, 3, height, width, generator=generator)
            expected = F.adaptive_avg_pool2d(x, bins)
            torch.testing.assert_close(adaptive_average(x, bins), expected, rtol=0, atol=1e-6)


def test_matrix_pooling_has_the_operators_gradient() -> None:
    x = torch.randn(1, 2, 13, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    (own,) = torch.autograd.grad((adaptive_average(x, 3) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((F.adaptive_avg_pool2d(x, 3) * weight).sum(), x)
    torch.testing.assert_close(own, theirs)


def test_aspp_is_torchvisions() -> None:
    from torchvision.models.segmentation import deeplabv3

    torch.manual_seed(0)
    reference = deeplabv3.ASPP(12, (3, 6, 9), 8).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    own = ASPP(12, 8, (3, 6, 9), 0.3).eval()
    own.load_state_dict(reference.state_dict())
    assert [m.p for m in own.modules() if isinstance(m, torch.nn.Dropout)] == [0.3]
    x = torch.randn(2, 12, 17, 23)
    with torch.no_grad():
        torch.testing.assert_close(own(x), reference(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_aspps_branches_meet_in_the_layout_of_the_map(layout: torch.memory_format) -> None:
    own = ASPP(12, 8, (3, 6, 9), 0.3).eval().to(memory_format=layout)
    met: list[torch.Tensor] = []
    own.project.register_forward_pre_hook(lambda _, given: met.append(given[0]))
    with torch.no_grad():
        own(torch.randn(2, 12, 17, 23).contiguous(memory_format=layout))
    assert met[0].shape[1] == 40 and met[0].is_contiguous(memory_format=layout)
