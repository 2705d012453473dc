from __future__ import annotations

import pytest
import torch
from contracts.contrast import SETTING

from afdcd.losses.contrast.rows import stretches


@pytest.mark.parametrize("patches", [0, 1, 2, 3, 6, 7, 9, 15, 40])
def test_stretches_hold_every_cell_of_every_image_once_and_no_more_than_asked(patches: int) -> None:
    height, width = SETTING.patch
    seen = torch.zeros(3, 1, 5 * height, 3 * width)
    for images, lines, columns in stretches(seen, SETTING, patches):
        held = seen[images, :, lines, columns]
        assert held.numel() <= max(1, patches) * height * width
        held += 1
    assert bool((seen == 1).all())
