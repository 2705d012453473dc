from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contracts.segmenter import RGB

from afdcd.config import ModelConfig
from afdcd.models.segmenter import Segmenter, build_segmenter

NARROW: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [8, 16, 32, 64], "stem_width": 8},
    "output_stride": 8,
    "head": "deeplabv3",
    "head_channels": 16,
    "atrous_rates": (3, 6, 9),
    "dropout": 0.1,
    "projection_dropout": 0.5,
    "auxiliary": True,
    "pretrained": "none",
    "normalisation": RGB,
}


@pytest.fixture
def narrow() -> Callable[..., ModelConfig]:
    """A small network's settings, with the given ones changed."""
    return lambda **changes: ModelConfig(**{**NARROW, **changes})


@pytest.fixture
def network(narrow: Callable[..., ModelConfig]) -> Segmenter:
    return build_segmenter(narrow(), 5)
