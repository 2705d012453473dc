from __future__ import annotations

import subprocess
import sys

import pytest

from afdcd.errors import UserError
from afdcd.models.names import check_backbone


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"channels": [8, 16, 32, 64], "stem_width": 8, "stem_type": "deep"}),
        ("resnet101s", {}),
        ("resnet18.a1_in1k", {}),
        ("mobilenetv2_100", {"drop_path_rate": 0.1}),
        ("convnext_tiny", {"depths": [1, 1, 1, 1]}),
    ],
)
def test_known_names_pass(name: str, options: dict[str, object]) -> None:
    check_backbone(name, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnett18", {}, "did you mean 'resnet18'"),
        ("resnet18.a1_in2k", {}, "did you mean 'resnet18.a1_in1k'"),
        ("resnet18", {"channel": []}, "did you mean 'channels'"),
        ("mobilenetv2_100", {"output_stride": 8}, "is set by the Segmenter itself"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_backbone(name, options)


def test_it_needs_no_torch() -> None:
    program = (
        "import sys; from afdcd.models.names import check_backbone;"
        "check_backbone('resnet18', {'channels': [8]});"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
