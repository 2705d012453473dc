from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from afdcd.config import ModelConfig
from afdcd.errors import UserError
from afdcd.models import pretrained
from afdcd.models.segmenter import build_segmenter

Narrow = Callable[..., ModelConfig]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {"channels": (8, 16, 32, 64)}),
    ("mobilenetv2_035", {}),
    ("convnext_atto", {"dims": (4, 8, 12, 16), "depths": (1, 1, 1, 1)}),
]


def weights(path: Path, name: str, options: dict[str, Any]) -> Any:
    """A whole classifier as timm makes it, its tensors at `path`."""
    whole = timm.create_model(name, num_classes=7, **options)
    state = whole.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    return whole.eval()


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_fills_the_whole_backbone(
    tmp_path: Path, narrow: Narrow, name: str, options: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    whole = weights(path, name, options)
    network = build_segmenter(narrow(backbone=name, backbone_options=options, pretrained=str(path)), 5).eval()
    fresh = build_segmenter(narrow(backbone=name, backbone_options=options), 5).eval()
    own = {key.replace(".", "_"): value for key, value in network.backbone.network.state_dict().items()}
    theirs = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(network.backbone(images)[-1], fresh.backbone(images)[-1])


def test_weights_of_another_network_are_named(tmp_path: Path, narrow: Narrow) -> None:
    weights(tmp_path / "w.safetensors", "resnet18", {"channels": (8, 16, 32, 64)})
    wide = narrow(backbone_options={"channels": [8, 16, 32, 72]}, pretrained=str(tmp_path / "w.safetensors"))
    with pytest.raises(
        UserError, match=r"layer4_0_conv1_weight is \[64, 32, 3, 3\], not \[72, 32, 3, 3\].*and \d+ more"
    ):
        build_segmenter(wide, 5)
    deep = narrow(backbone_options={"channels": [8, 16, 32, 64], "stem_type": "deep"})
    with pytest.raises(UserError, match="conv1_0_weight is missing"):
        build_segmenter(deep.model_copy(update={"pretrained": str(tmp_path / "w.safetensors")}), 5)


def test_a_missing_file_is_named(tmp_path: Path, narrow: Narrow) -> None:
    with pytest.raises(UserError, match=r"absent\.pth is missing"):
        build_segmenter(narrow(pretrained=str(tmp_path / "absent.pth")), 5)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and an address where nobody listens."""
    address = "http://127.0.0.1:9/{}/{}".format
    monkeypatch.setattr(pretrained.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(pretrained.huggingface_hub, "hf_hub_url", address)


def test_a_failed_download_explains_the_remedy_at_once(no_hub: None, narrow: Narrow) -> None:
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        build_segmenter(narrow(backbone_options={}, pretrained="imagenet"), 5)
    assert time.monotonic() - started < 15
    message = str(caught.value)
    assert "timm/resnet18.a1_in1k/model.safetensors" in message
    assert "set pretrained: to the path of that model.safetensors, or set pretrained: none" in message
    assert "\n" not in message


def test_a_backbone_without_imagenet_weights_is_refused(narrow: Narrow) -> None:
    with pytest.raises(
        UserError, match="timm has no ImageNet weights for 'seresnet18'; set pretrained: none"
    ):
        build_segmenter(narrow(backbone="seresnet18", pretrained="imagenet"), 5)


def test_cached_weights_need_no_network(
    tmp_path: Path, narrow: Narrow, monkeypatch: pytest.MonkeyPatch, no_hub: None
) -> None:
    options = {"channels": (8, 16, 32, 64)}
    whole = weights(tmp_path / "model.safetensors", "resnet18", options)
    cached = str(tmp_path / "model.safetensors")
    monkeypatch.setattr(pretrained.huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
    network = build_segmenter(narrow(backbone_options=options, pretrained="imagenet"), 5)
    assert torch.equal(network.backbone.network["conv1"].weight, whole.conv1.weight)
