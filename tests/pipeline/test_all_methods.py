"""All thirteen methods by one real `dvc repro`, smoke-sized, in a clone; one student of them is exported."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

import pytest
import yaml
from clone import Clone

from afdcd.losses import METHODS
from pipeline.reporting.style import recipe_colours

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("all_methods")]

RECIPES = list(METHODS)
DEPLOYED = f"narrow_r18_{RECIPES[-1]}_0"
FIRST_PHASE = {"idd", "ka"}
RUNNING = re.compile(r"^Running (?:callback )?stage '([^']+)'", re.MULTILINE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which every recipe has been trained and the report written."""
    made = Clone(tmp_path_factory.mktemp("all_methods") / "clone")
    made.python(
        "pipeline.configure",
        "schedule=smoke",
        f"recipe=[{','.join(RECIPES)}]",
        f"deploy.models=[teacher,{DEPLOYED}]",
        "runtime.threads=1",
    )
    stages = RUNNING.findall(made.repro())
    assert {f"distill@narrow_r18-{recipe}-0" for recipe in RECIPES} <= set(stages)
    assert stages[-3:] == ["report", "gate", "release"]
    return made


def curve(clone: Clone, model: str) -> list[dict[str, str]]:
    return list(csv.DictReader(clone.read(f"reports/curves/{model}.csv").splitlines()))


def test_there_are_thirteen() -> None:
    assert len(RECIPES) == 13


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_in_the_report_with_its_score_and_terms(clone: Clone, recipe: str) -> None:
    model = f"narrow_r18_{recipe}_0"
    rows = curve(clone, model)
    best = max(float(row["val_miou"]) for row in rows if row["val_miou"])
    assert json.loads(clone.read(f"models/trained/{model}/model.json"))["val_miou"] == best
    training = clone.read("reports/report.html").partition('id="training"')[2]
    (line,) = re.findall(rf"</i>distilled: {recipe}</td>(.*)</tr>", training)
    assert f"<td>{100 * best:.1f}</td>" in line
    assert f">{'yes' if model == DEPLOYED else 'no'}</td>" in line
    for method in yaml.safe_load(clone.read("params.yaml"))["distill"]["recipes"][recipe].values():
        for term, weight in method["weights"].items():
            raw, weighted = (float(rows[-1][name]) for name in (term, f"weighted/{term}"))
            assert weighted == pytest.approx(weight * raw, rel=1e-4), term
            assert f"{term.replace('_', ' ')} {raw:.3g} × " in line
    assert (clone.folder / f"models/adapted/{recipe}/state.safetensors").exists() == (recipe in FIRST_PHASE)


def test_the_curves_show_every_network(clone: Clone) -> None:
    drawn = clone.read("reports/plots/curves.svg")
    for recipe, colour in recipe_colours(RECIPES).items():
        assert f"stroke: {colour}" in drawn, recipe
    table = {row["model"] for row in csv.DictReader(clone.read("reports/plots/curves.csv").splitlines())}
    assert table == {"teacher", *(f"narrow_r18_{recipe}_0" for recipe in ("alone", *RECIPES))}


def test_the_exported_one_is_judged_and_released(clone: Clone) -> None:
    gates: dict[str, Any] = json.loads(clone.read("reports/gates.json"))
    assert {verdict["model"] for verdict in gates["verdicts"]} == {DEPLOYED}
    assert {"pass"} <= {verdict["status"] for verdict in gates["verdicts"]} <= {"pass", "not gated"}
    assert set(json.loads(clone.read("reports/metrics.json"))) == {"teacher", DEPLOYED}
    assert [folder.name for folder in (clone.folder / "models/release").iterdir()] == [DEPLOYED]


def test_a_second_run_only_probes(clone: Clone) -> None:
    assert RUNNING.findall(clone.repro()) == ["probe"]
