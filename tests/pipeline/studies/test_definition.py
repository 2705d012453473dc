from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from clone import ROOT, changed

from afdcd.errors import UserError
from afdcd.losses import METHODS
from pipeline import configure, params, study
from pipeline.studies import definition, plan


def edited(**edits: object) -> str:
    text = (ROOT / "conf/study/smoke.yaml").read_text(encoding="utf-8")
    return yaml.safe_dump(changed(yaml.safe_load(text), edits))


def test_every_committed_study_is_valid_and_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert definition.names() == ["short_cuts", "smoke", "streets"]
    for name in definition.names():
        found = definition.load(name)
        composed = params.parse(configure.compose(plan.overrides(found)).body)
        assert composed.distill.run == found.recipes and composed.train.seeds == found.seeds
        assert composed.train.schedule.iterations == found.iterations
        assert composed.runtime.threads == found.threads and composed.deploy.models == ["teacher"]


def test_streets_compares_the_thirteen_methods_over_three_seeds() -> None:
    found = definition.load("streets", ROOT)
    assert set(found.recipes) == set(METHODS) and len(METHODS) == 13 and len(found.seeds) >= 3


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"recipes": ["kd", "idt"]}, "recipes: unknown recipe 'idt'; did you mean 'idd'"),
        ({"recipes": ["kd", "kd"]}, "recipes: kd stands twice"),
        ({"seeds": [1, 1]}, "seeds: 1 stands twice"),
        ({"seeds": [1]}, "seeds"),
        ({"iterations": 0}, "iterations: 0 is not possible"),
        ({"equal_time_as": "ka"}, "equal_time_as: 'ka' is not compared"),
        ({"split": "train"}, "split: 'train' is not possible"),
        ({"itertions": 3}, "unknown key 'itertions'; did you mean 'iterations'"),
        ({"costs.rounds": 1}, "costs.rounds"),
        ({"configure": ["train.seeds=[0]"]}, "'train.seeds=[0]' is the study's own to set"),
        ({"configure": ["+distill.recipes.kd.kd.temperature=2"]}, "is the study's own to set"),
    ],
)
def test_a_definition_that_cannot_be_is_refused(edits: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as refused:
        definition.parse(edited(**edits), "x.yaml", ROOT)
    assert said in str(refused.value) and str(refused.value).startswith("x.yaml: ")


def test_two_seeds_are_enough() -> None:
    assert definition.parse(edited(seeds=[3, 4]), "x.yaml", ROOT).seeds == [3, 4]


def test_an_unknown_study_names_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="no study 'street'.*did you mean 'streets'"):
        study.main(["street", "--status"])


def test_a_study_that_was_not_begun_has_no_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="smoke was not begun"):
        study.main(["smoke", "--status"])


def test_the_list_names_every_study_and_its_question(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    study.main(["--list"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["short_cuts", "smoke", "streets"]
    assert printed[1].endswith(definition.load("smoke").about)


@pytest.mark.parametrize("given", [["smoke", "--jobs", "0"], ["--list", "--status"], []])
def test_an_impossible_command_line_is_refused(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        study.main(given)
    assert end.value.code == 2 and "usage: python -m pipeline.study" in capsys.readouterr().err
