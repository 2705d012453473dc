"""Every recipe preset makes an objective and trains a step, at the smallest sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clone import ROOT

from afdcd.config import IGNORE_INDEX, Recipe
from afdcd.data.loader import Batch
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.segmenter import Segmenter
from afdcd.training.distillation import DistillationTask
from afdcd.training.precision import Precision
from afdcd.training.task import Share, Supervision
from pipeline import configure, params

RECIPES = sorted(path.stem for path in (ROOT / "conf/recipe").glob("*.yaml"))
MASKED = [name for name in RECIPES if name.endswith("_masked")]
RIVALS = ("skd", "ifvd", "cwd", "cirkd", "dist")
"""Those that the Af-DCD paper compares with, but for MGD, whose own term is masked."""
FP32 = Precision("cpu", bf16=False)


@pytest.fixture(scope="module")
def composed() -> params.Params:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        recipes = f"recipe=[{','.join(RECIPES)}]"
        return params.parse(configure.compose(["schedule=smoke", recipes]).body)


def test_every_rival_of_the_paper_has_a_masked_twin(composed: params.Params) -> None:
    assert sorted(MASKED) == sorted(f"{name}_masked" for name in RIVALS)
    recipes = composed.distill.recipes
    weights = recipes["afdcd"]["afdcd"]["weights"]
    term = {
        "weights": {"masked_generation": weights["masked_feature"]},
        "mask_ratio": recipes["afdcd"]["afdcd"]["mask_ratio"],
        "bottleneck": None,
        "reduction": recipes["afdcd"]["afdcd"]["reduction"],
    }
    for name in RIVALS:
        assert recipes[f"{name}_masked"] == recipes[name] | {"mgd": term}


def test_the_short_cuts_differ_from_afdcd_in_one_option_each(composed: params.Params) -> None:
    recipes = composed.distill.recipes
    for name, option in (("bottleneck", {"bottleneck": 64}), ("patches", {"patch_fraction": 0.25})):
        expected = recipes["afdcd"] | {"afdcd": recipes["afdcd"]["afdcd"] | option}
        assert recipes[f"afdcd_{name}"] == expected != recipes["afdcd"]


def test_a_twin_stands_alone_and_follows_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = params.parse(configure.compose(["dataset=camvid", "recipe=[dist_masked]"]).body).distill
    assert found.run == list(found.recipes) == ["dist_masked"]
    assert found.recipes["dist_masked"]["mgd"]["weights"] == {"masked_generation": 8e-6}


@pytest.mark.parametrize(("pair", "channels"), [("narrow_r18", 256), ("r101_r18", 2048)])
def test_kas_weight_is_of_the_mean_over_its_code(
    pair: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = params.parse(configure.compose([f"pair={pair}", "recipe=[ka]"]).body)
    if (options := found.teacher.model.backbone_options).get("channels"):
        assert options["channels"][-1] == channels
    weights = found.distill.recipes["ka"]["ka"]["weights"]
    assert weights["feature_adaptation"] * channels / 2 == pytest.approx(50, rel=0.01)


@pytest.fixture(scope="module")
def networks(composed: params.Params) -> tuple[Segmenter, Segmenter]:
    """Student and teacher."""
    torch.manual_seed(0)
    (student,) = composed.students.values()
    return Segmenter(student, 9), Segmenter(composed.teacher.model, 9)


@pytest.mark.parametrize("name", RECIPES)
def test_every_preset_trains_a_step(
    name: str, composed: params.Params, networks: tuple[Segmenter, Segmenter]
) -> None:
    student, teacher = networks
    recipe: Recipe = composed.distill.recipes[name]
    weights = torch.ones(9)
    objective = build_objective(recipe, Context(student.channels, teacher.channels, IGNORE_INDEX, weights))
    task = DistillationTask(student, teacher, objective, Supervision(weights, 0.4), FP32, FP32)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 64), generator=draw, dtype=torch.uint8)
    batch = Batch(images, (images[:, 0] // 29).clamp(max=8), torch.arange(2))
    task.learner.train().zero_grad()
    terms = task.losses(task.learner, batch, Share(1.0, torch.ones(())))
    terms["loss"].backward()
    assert terms["loss"].isfinite() and set(objective.weights) <= set(terms)
    learnt: Any = [p.grad for p in task.learner.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in learnt)
