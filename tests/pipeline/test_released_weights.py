"""Every recipe's weights and constants at the released schedule, where a release or the paper gave them."""

from __future__ import annotations

from typing import Any

import pytest
from clone import ROOT

from pipeline import configure, params

KD = {"kd": {"weights": {"kd": 1.0}, "temperature": 1.0, "reduction": "pixel", "class_weighted": False}}
ADVERSARIAL = {"skd": {"weights": {"adversarial": 0.001}, "discriminator_weight": 0.1}}

RELEASED: dict[str, dict[str, Any]] = {
    "kd": KD,
    "fitnet": {**KD, "fitnet": {"weights": {"feature_mse": 10.0}}},
    "at": {**KD, "at": {"weights": {"attention": 10000.0}}},
    "skd": {
        **KD,
        "skd": {
            "weights": {"pairwise": 10.0, "adversarial": 0.001},
            "pool": 2,
            "discriminator_weight": 0.1,
        },
    },
    "ifvd": {**KD, **ADVERSARIAL, "ifvd": {"weights": {"intra_class": 20.0}}},
    "cwd": {
        **KD,
        **ADVERSARIAL,
        "cwd": {"weights": {"channel_logits": 3.0, "channel_features": 50.0}, "temperature": 4.0},
    },
    "cirkd": {
        **KD,
        "cirkd": {
            "weights": {"mini_batch_pixel": 1.0, "memory_pixel": 0.1, "memory_region": 0.1},
            "temperature": 0.1,
            "pixel_memory": 20000,
            "region_memory": 2000,
            "pixels_per_class": 16,
            "pixel_contrast": 4096,
            "region_contrast": 1024,
        },
    },
    "mgd": {
        "mgd": {
            "weights": {"masked_generation": 2e-5},
            "mask_ratio": 0.75,
            "bottleneck": None,
            "reduction": "sum",
        },
        "cwd": {"weights": {"channel_logits": 3.0}, "temperature": 4.0},
    },
    "dist": {"dist": {"weights": {"dist": 1.0}, "beta": 1.0, "gamma": 1.0}},
    "afdcd": {
        **KD,
        "afdcd": {
            # Of the CamVid script; no pooling there.
            "weights": {"masked_feature": 8e-6, "omni_contrast": 0.01},
            "mask_ratio": 0.75,
            "bottleneck": None,
            "pool": 1,
            "patch_size": 4,
            "patch_fraction": 1.0,
            "groups": 16,
            "temperature": 0.07,
            "distance": "l1",
            "negatives": "cross_group",
            "reduction": "sum",
        },
    },
    "apd": {
        "kd": {**KD["kd"], "weights": {"kd": 10.0}, "reduction": "element"},
        "apd": {
            "weights": {"perspective_local": 10.0, "perspective_align": 10.0},
            "temperature": 0.1,
            "prototypes": "batch",
            "adapter_lr_factor": 10.0,
            "teacher_adapter_lr": 1e-5,
        },
    },
    "ka": {
        "ka": {
            # The paper's 50 over the 1024 channels of the pair's code.
            "weights": {"feature_adaptation": 0.049, "affinity": 1.0},
            "p": 1.0,
            "q": 2.0,
            "sparsity": 1e-7,
            "first_phase_lr": 0.1,
        }
    },
}


@pytest.fixture(scope="module")
def recipes() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        names = ",".join([*RELEASED, "idd"])
        overrides = ["dataset=camvid", "pair=r101_r18", "schedule=paper"]
        body = configure.compose([*overrides, f"recipe=[{names}]"]).body
        return params.parse(body).distill.recipes


@pytest.mark.parametrize("name", RELEASED)
def test_weights_are_the_released_ones(name: str, recipes: dict[str, Any]) -> None:
    assert recipes[name].keys() == RELEASED[name].keys()
    for method, expected in RELEASED[name].items():
        given = recipes[name][method]
        assert {option: given[option] for option in expected} == expected


def test_the_reconstructed_method_says_so_and_has_no_released_weights(recipes: dict[str, Any]) -> None:
    assert set(recipes["idd"]) == {"kd", "idd"} and "idd" not in RELEASED
    for path in ("conf/recipe/idd.yaml", "docs/methods.md", "afdcd/losses/idd.py"):
        assert "reconstructed" in (ROOT / path).read_text(encoding="utf-8")
