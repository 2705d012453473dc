from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afdcd.errors import UserError
from pipeline import params, strict_yaml

Edited = Callable[[dict[str, Any]], str]


def complaint(text: str) -> str:
    with pytest.raises(UserError) as caught:
        params.parse(text)
    return str(caught.value)


def test_the_committed_file_is_valid(params_text: str) -> None:
    assert params.parse(params_text).dataset.name == "streets"


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="params.yaml is missing .* pipeline.configure"):
        params.load(tmp_path / "params.yaml")


def test_an_unknown_key_is_told_once_with_the_nearest_valid_one(params_text: str) -> None:
    assert complaint(params_text.replace("iterations:", "iteratons:", 1)) == (
        "params.yaml: teacher.schedule.iteratons: unknown key 'iteratons'; did you mean 'iterations'?"
    )


def test_an_unknown_section_lists_what_is_valid(params_text: str) -> None:
    assert complaint(f"{params_text}\nzzz: 1\n") == (
        "params.yaml: zzz: unknown key 'zzz'; valid: "
        "dataset, deploy, distill, gates, runtime, students, teacher, train"
    )


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("train.schedule.batch_size", 0, "must be greater than or equal to 1"),
        ("train.schedule.iterations", 2.5, "must be a valid integer"),
        ("train.schedule.optimiser.lr", -1.0, "must be greater than 0"),
        ("train.schedule.optimiser.lr", float("inf"), "must be a finite number"),
        ("train.schedule.optimiser.name", "adam", "must be 'sgd' or 'adamw'"),
        ("train.seeds", [], "must have at least 1 item"),
        ("train.students", "narrow", "must be a valid list"),
        ("teacher.model.dropout", 1.5, "must be less than or equal to 1"),
        ("runtime.processes", "four", "must be a valid integer or must be 'auto'"),
        ("gates.min_retention", 1.2, "must be less than or equal to 1"),
        ("deploy.export", None, "must be a group of keys"),
    ],
)
def test_impossible_values(edited: Edited, key: str, value: Any, allowed: str) -> None:
    message = complaint(edited({key: value}))
    assert message.startswith(f"params.yaml: {key}: {value!r} is not possible; it ")
    assert allowed in message
    assert "\n" not in message


def test_a_value_in_a_list_is_named_by_its_index(edited: Edited) -> None:
    assert complaint(edited({"train.practice.augment.crop": [96, 0]})).startswith(
        "params.yaml: train.practice.augment.crop[1]: 0 is not possible"
    )


def test_a_missing_key_is_named(edited: Edited) -> None:
    assert complaint(edited({"deploy.benchmark.rounds": ...})).startswith(
        "params.yaml: deploy.benchmark.rounds: missing"
    )


def test_several_mistakes_are_several_lines(edited: Edited) -> None:
    lines = complaint(edited({"train.schedule.batch_size": 0, "teacher.sed": 1})).splitlines()
    assert len(lines) == 2 and all(line.startswith("params.yaml: ") for line in lines)


def test_a_key_that_stands_twice_is_refused(params_text: str) -> None:
    message = complaint(params_text.replace("  root:", "  name: camvid\n  root:", 1))
    assert message.startswith("params.yaml: line ") and "'name' stands twice" in message


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "1: 2\n", "a:\n\t- b"])
def test_what_is_no_mapping_is_refused_in_one_line(text: str) -> None:
    assert "\n" not in complaint(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("4E5", 400000.0),
        ("010", 10),
        ("no", "no"),
        ("1:30", "1:30"),
        ("~", None),
        ("", None),
        ("true", True),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_scalars_are_read_as_dvc_reads_them(text: str, value: Any) -> None:
    assert strict_yaml.parse(f"key: {text}", "x") == {"key": value}


def test_scalars_agree_with_dvcs_own_reader() -> None:
    from dvc.utils.serialize import parse_yaml

    text = "a: 1e-3\nb: no\nc: 010\nd: 4.0e-05\ne: ~\nf: on\ng: 'x'\nh: 0.5\ni: [1, 2.]\nj: 12e03\n"
    assert strict_yaml.parse(text, "x") == parse_yaml(text, "x")
