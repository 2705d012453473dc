"""dvc.yaml as DVC reads it: every matrix entry is there, git ignores every output, all names exist."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, plan_repro
from dvc.stage import PipelineStage

from pipeline import fingerprints, params, strict_yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return strict_yaml.parse((ROOT / "params.yaml").read_text(encoding="utf-8"), "params.yaml")


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages


@pytest.fixture(scope="module")
def stages() -> dict[str, PipelineStage]:
    with Repo(str(ROOT)) as repo:
        return {stage.name: stage for stage in repo.index.stages if isinstance(stage, PipelineStage)}


@pytest.fixture(scope="module")
def edges() -> set[tuple[str, str]]:
    """(stage, a stage that it waits for)."""
    with Repo(str(ROOT)) as repo:
        return {(after.name, before.name) for after, before in repo.index.graph.edges}


def relative(path: Any) -> str:
    return (
        Path(str(path)).resolve().relative_to(ROOT).as_posix() if Path(str(path)).is_absolute() else str(path)
    )


def lookup(values: dict[str, Any], dotted: str) -> Any:
    for part in dotted.split("."):
        values = values[part]
    return values


def test_no_matrix_entry_is_lost(
    declared: dict[str, Any], stages: dict[str, PipelineStage], values: dict[str, Any]
) -> None:
    expected = set()
    for name, stage in declared.items():
        lists = [lookup(values, axis[2:-1]) for axis in stage.get("matrix", {}).values()]
        expected |= {f"{name}@{'-'.join(map(str, key))}" for key in product(*lists)} if lists else {name}
    assert set(stages) == expected


def test_git_ignores_every_cached_output_and_keeps_the_others(stages: dict[str, PipelineStage]) -> None:
    for stage in stages.values():
        for out in stage.outs:
            path = relative(out.fs_path)
            ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0
            assert ignored == (out.use_cache or path == "fingerprints"), path


def test_expensive_stages_keep_the_run_cache(stages: dict[str, PipelineStage]) -> None:
    cheap = {"probe", "report", "gate", "release"}
    for name, stage in stages.items():
        if name not in cheap:
            assert not stage.always_changed, name
            assert all(out.use_cache and not out.persist for out in stage.outs), name


def test_a_commands_text_holds_no_machine_and_no_pipe(stages: dict[str, PipelineStage]) -> None:
    for name, stage in stages.items():
        assert str(stage.cmd).removeprefix("exec ").startswith("python -m pipeline."), name
        assert not set("|;&><") & set(str(stage.cmd)), name


def test_no_stage_tracks_what_only_changes_speed(stages: dict[str, PipelineStage]) -> None:
    for name, stage in stages.items():
        tracked = [key for dep in stage.params for key in dep.params]
        assert not any(key.split(".")[0] == "runtime" for key in tracked), name
        assert "gates" not in tracked or name in ("kit", "report"), name


def test_every_param_that_a_stage_names_exists(
    stages: dict[str, PipelineStage], values: dict[str, Any]
) -> None:
    for stage in stages.values():
        for dep in stage.params:
            for key in dep.params:
                lookup(values, key)


def test_fingerprints_are_exactly_those_that_the_graph_names(stages: dict[str, PipelineStage]) -> None:
    named = {
        path.removeprefix("fingerprints/").removesuffix(".json")
        for stage in stages.values()
        for path in (relative(dep.fs_path) for dep in stage.deps)
        if path.startswith("fingerprints/")
    }
    written = fingerprints.stages(params.load(ROOT / "params.yaml"))
    assert named == set(written)


def test_every_stage_but_probe_depends_on_its_own_code(stages: dict[str, PipelineStage]) -> None:
    for name, stage in stages.items():
        if name != "probe":
            kind = name.partition("@")[0]
            assert any(relative(dep.fs_path).startswith(f"fingerprints/{kind}") for dep in stage.deps), name


@pytest.mark.parametrize(
    ("after", "before"),
    [
        ("complexity", "prepare"),
        ("release", "prepare"),
        ("distill@narrow_r18-kd-0", "adapt@kd"),
        ("distill@narrow_r18-afdcd-0", "train_teacher"),
        ("benchmark@ort_cpu_fp32", "build@ort_cpu_fp32-teacher"),
        ("benchmark@ort_cpu_fp32", "build@ort_cpu_fp32-narrow_r18_afdcd_0"),
        ("report", "evaluate@ort_cpu_int8-teacher"),
        ("report", "benchmark@ort_cpu_fp32"),
        ("report", "train_student@narrow_r18-0"),
        ("gate", "report"),
        ("release", "gate"),
        ("prepare", "probe"),
    ],
)
def test_folders_as_dependencies_make_edges(edges: set[tuple[str, str]], after: str, before: str) -> None:
    assert (after, before) in edges


def test_what_does_not_fit_is_said_before_any_training() -> None:
    with Repo(str(ROOT)) as repo:
        order = [stage.name for stage in plan_repro(repo.index.graph, collect_stages(repo, ["dvc.yaml"]))]
    first = next(n for n, name in enumerate(order) if name.startswith(("train_", "adapt", "distill")))
    assert set(order[:first]) == {"probe", "prepare", "complexity"}


@pytest.mark.parametrize(
    ("after", "before"),
    [
        ("distill@narrow_r18-kd-0", "adapt@afdcd"),
        ("distill@narrow_r18-kd-0", "train_student@narrow_r18-0"),
        ("train_student@narrow_r18-0", "train_teacher"),
        ("benchmark@ort_cpu_fp32", "build@ort_cpu_int8-teacher"),
        ("gate", "release"),
    ],
)
def test_branches_are_independent(edges: set[tuple[str, str]], after: str, before: str) -> None:
    assert (after, before) not in edges


def test_export_and_quantize_depend_on_no_hardware_and_build_and_benchmark_do(
    stages: dict[str, PipelineStage],
) -> None:
    for name, stage in stages.items():
        kind = name.partition("@")[0]
        depends = any(relative(dep.fs_path) == "reports/hardware.json" for dep in stage.deps)
        assert depends == (kind in ("build", "benchmark", "report")), name


def test_dvc_itself_is_quiet_and_never_composes() -> None:
    with Repo(str(ROOT)) as repo:
        assert repo.config["core"]["analytics"] is False and repo.config["core"]["check_update"] is False
        assert not repo.config["hydra"]["enabled"] and repo.config["studio"]["offline"]
