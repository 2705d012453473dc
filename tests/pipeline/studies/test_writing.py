from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.studies import plots, words
from pipeline.studies.outcome import Outcome
from pipeline.studies.writing import page, told, write

MakeUp = Callable[[str, Mapping[str, Mapping[int, float]], Mapping[str, float]], Outcome]

STEP = {"alone": 0.1, "kd": 0.2, "idd": 0.4}
SCORES = {"alone": {0: 50.0, 1: 52.0}, "kd": {0: 51.0, 1: 53.02}, "idd": {0: 49.0, 1: 54.0}}


@pytest.fixture
def small(made_up: MakeUp) -> Outcome:
    return made_up("smoke", SCORES, STEP)


def test_a_table_row_holds_what_a_hand_computes(small: Outcome) -> None:
    rows = {row.split(" | ")[0]: row for row in page(small).split("## ")[1].splitlines()}
    # Differences +1.00 and +1.02: mean 1.01, sd 0.01414, half width 12.706 x 0.01 = 0.127.
    expected = "| kd | 400 | 2.00 | 53.01 | 52.01 | 1.43 | +1.00 +1.02 | +1.01 | +0.88 to +1.14 |"
    assert rows["| kd"] == expected
    assert rows["| **alone**"] == "| **alone** | 400 | 1.00 | 52.00 | 51.00 | 1.41 | - | - | - |"


def test_each_arm_has_its_own_lengths(small: Outcome) -> None:
    second = page(small).split("## At equal training time")[1]
    assert "| **alone** | 12 |" in second and "| kd | 6 |" in second and "| idd | 3 |" in second


def test_words_claim_what_the_intervals_carry(small: Outcome) -> None:
    said = words.verdict(small.arms["equal_iterations"])
    assert "The interval lies above zero for kd; it holds zero for the other 1." in said
    assert "0.10 of 2 such intervals would exclude zero" in said
    # Bonferroni: t of 97.5 % with one degree of freedom is 25.45, so 1.01 -+ 0.25 still excludes zero.
    assert "(Bonferroni, 97.50 %), these exclude zero: kd." in said
    # idd: -1 and +2, mean 0.5, half width 12.706 x 1.5 = 19.06.
    assert "reach 0.13 to 19.06 points to each side" in said


def test_nothing_is_claimed_where_no_interval_excludes_zero(made_up: MakeUp) -> None:
    scores = {"alone": {0: 50.0, 1: 52.0}, "kd": {0: 51.0, 1: 52.5}, "idd": {0: 49.0, 1: 54.0}}
    said = words.verdict(made_up("smoke", scores, STEP).arms["equal_iterations"])
    assert "**No interval of 2 excludes zero**" in said and "none does." in said
    assert not re.search(r"lies (above|below)|better|worse|gain|helps", said)


def test_a_loss_is_told_as_one(made_up: MakeUp) -> None:
    scores = {"alone": {0: 50.0, 1: 52.0}, "kd": {0: 45.0, 1: 47.01}, "idd": {0: 45.0, 1: 47.02}}
    said = words.verdict(made_up("smoke", scores, STEP).arms["equal_iterations"])
    assert "lies below zero for kd and idd. Without" in said


def test_an_unfinished_study_says_so(made_up: MakeUp, small: Outcome) -> None:
    begun = made_up("smoke", {"alone": {0: 50.0}, "kd": {0: 51.0}}, STEP)
    assert "**Unfinished: 2 of 10 trainings" in page(begun)
    assert "there is no interval" in page(begun) and "2 of 10 trainings done" in told(begun)
    assert small.finished and "Unfinished" not in page(small)


def test_the_folder_holds_what_the_page_rests_on(small: Outcome, tmp_path: Path) -> None:
    folder = write(small, tmp_path)
    (folder / "notes.md").write_text("somebody's own", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert write(small, tmp_path) == folder == tmp_path / "smoke"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for name in re.findall(r"\]\((\w+\.svg)\)|`(\w+\.(?:csv|json|yaml))`", page(small)):
        assert (folder / "".join(name)).exists()
    rows = list(csv.DictReader((folder / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 12
    assert rows[2] | {"training_seconds": ""} == {
        "arm": "equal_iterations",
        "recipe": "kd",
        "seed": "0",
        "model": "net_kd_0",
        "iterations": "400",
        "val_miou": "52.0000",
        "test_miou": "51.0000",
        "training_seconds": "",
        "weights_sha256": "kd0",
    }


def test_the_figures_are_drawings_and_the_same_every_time(small: Outcome) -> None:
    for draw in (plots.differences, plots.accuracy_over_cost):
        svg = draw(small)
        assert ElementTree.fromstring(svg).tag.endswith("svg") and draw(small) == svg


def test_figures_of_a_study_just_begun_are_drawn(made_up: MakeUp) -> None:
    begun = made_up("smoke", {"alone": {0: 50.0}}, STEP)
    assert plots.differences(begun).startswith("<svg") and plots.accuracy_over_cost(begun).startswith("<svg")


@pytest.mark.parametrize(
    ("values", "placed"),
    [
        ([], []),
        ([0.0, 5.0], [0.0, 5.0]),
        ([4.0, 4.0], [3.5, 4.5]),
        ([4.0, 4.0, 4.2], [4.0667 - 1, 4.0667, 4.0667 + 1]),
        ([9.9, 10.0], [9.0, 10.0]),
        ([0.0, 0.0], [0.0, 1.0]),
    ],
)
def test_names_are_spread_without_overlap(values: list[float], placed: list[float]) -> None:
    assert plots.spread(values, 1.0, 0.0, 10.0) == pytest.approx(placed, abs=1e-3)
