"""The functions that others may call: their names, their keywords and the defaults of these."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from afdcd.losses import afdcd, apd, at, cirkd, cwd, dist, fitnet, idd, ifvd, ka, kd, skd

MAPS = ("student", "teacher")
LOGITS = ("student_logits", "teacher_logits")
NEEDED = inspect.Parameter.empty

SIGNATURES: list[tuple[Any, tuple[str, ...], dict[str, Any]]] = [
    (
        afdcd.omni_contrast,
        MAPS,
        {
            "pool": 4,
            "patch_size": 4,
            "groups": 16,
            "temperature": 0.07,
            "distance": "l1",
            "negatives": "cross_group",
            "form": "auto",
        },
    ),
    (afdcd.channel_contrast, MAPS, {"groups": 16, "temperature": 0.07, "distance": "l1", "form": "auto"}),
    (afdcd.spatial_contrast, MAPS, {"pool": 4, "temperature": 0.07, "distance": "l1", "form": "auto"}),
    (afdcd.masked_feature_loss, ("generated", "teacher"), {"reduction": "sum"}),
    (kd.logit_kd, LOGITS, {"temperature": 1.0, "reduction": "pixel", "class_weight": None}),
    (fitnet.feature_mse, MAPS, {}),
    (cwd.channel_wise, MAPS, {"temperature": 4.0}),
    (skd.pairwise_affinity, MAPS, {"pool": 2}),
    (ifvd.intra_class_variation, (*MAPS, "labels"), {"ignore_index": 255}),
    (at.attention_transfer, MAPS, {}),
    (cirkd.mini_batch_pixel, MAPS, {"temperature": 0.1}),
    (dist.dist, LOGITS, {"beta": 1.0, "gamma": 1.0}),
    (idd.inter_class_distance, (*MAPS, "labels"), {"ignore_index": 255, "scale": "none"}),
    (
        apd.adaptive_perspective,
        (*MAPS, "labels"),
        {"temperature": 0.1, "num_classes": NEEDED, "ignore_index": 255, "prototypes": "batch"},
    ),
    (ka.feature_adaptation, MAPS, {"p": 1, "q": 2}),
    (ka.affinity, MAPS, {}),
]


@pytest.mark.parametrize(("function", "positional", "options"), SIGNATURES)
def test_signature(function: Any, positional: tuple[str, ...], options: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    by_keyword = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    given = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    assert given == positional and by_keyword == options
    assert all(p.default is NEEDED for p in parameters if p.name in positional)
