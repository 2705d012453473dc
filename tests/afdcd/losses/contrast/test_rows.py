from __future__ import annotations

import pytest
import torch
from contracts.contrast import SETTING

from afdcd.losses.contrast.rows import stretches


@pytest.mark.parametrize("patches", [1, 3, 6, 7, 9, 15, 40])
def test_stretches_hold_every_line_of_every_image_once(patches: int) -> None:
    height, width = SETTING.patch
    seen = torch.zeros(3, 1, 5 * height, 3 * width)
    for images, lines in stretches(seen, SETTING, patches):
        seen[images, :, lines] += 1
    assert bool((seen == 1).all())
