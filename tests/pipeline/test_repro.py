"""The whole graph by `dvc repro`, smoke-sized, in a clone: what runs again, and what a failed gate leaves.

One clone serves all tests in the order in which they stand; each leaves params and code as it found them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import Clone, changed

pytestmark = pytest.mark.xdist_group("repro")

SMOKE = (
    "schedule=smoke",
    "deploy.models=[teacher,narrow_r18_alone_0,narrow_r18_afdcd_0]",
    # Two threads that share a core with other tests wait for each other most of the time.
    "runtime.threads=1",
)
RELEASE = "models/release"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the smoke run has succeeded."""
    clone = Clone(tmp_path_factory.mktemp("repro") / "clone")
    clone.python("pipeline.configure", *SMOKE)
    clone.repro()
    clone.commit()
    return clone


def ran(output: str) -> set[str]:
    """Stages that dvc ran or would run."""
    return set(
        re.findall(r"^(?:Running|Would run|Running callback) stage '([^']+)'", output, re.MULTILINE)
    ) | set(re.findall(r"^Stage '([^']+)' is cached", output, re.MULTILINE))


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def params_of(clone: Clone, edits: dict[str, Any]) -> Iterator[None]:
    before = clone.read("params.yaml")
    clone.edit(
        "params.yaml", lambda text: yaml.safe_dump(changed(yaml.safe_load(text), edits), sort_keys=False)
    )
    try:
        yield
    finally:
        (clone.folder / "params.yaml").write_text(before, encoding="utf-8")


@contextmanager
def code_of(clone: Clone, name: str, line: str) -> Iterator[None]:
    before = clone.read(name)
    (clone.folder / name).write_text(f"{before}\n{line}\n", encoding="utf-8")
    try:
        yield
    finally:
        (clone.folder / name).write_text(before, encoding="utf-8")


def would_run(clone: Clone) -> set[str]:
    """What a repro would run, after probe has written the fingerprints of the present code.

    DVC knows of changed outputs only as they are run, so stages further down are not in the answer.
    """
    clone.python("pipeline.probe")
    return ran(clone.repro("--dry")) - {"probe"}


def test_the_chain_leaves_everything_that_it_promises(chain: Clone) -> None:
    verdict = json.loads(chain.read("reports/verdict.json"))
    assert verdict
    for name in ("reports/metrics.json", "reports/gates.json", "reports/report.html", "dvc.lock"):
        assert chain.read(name)
    bundles = sorted(
        path.relative_to(chain.folder / RELEASE).as_posix() for path in chain.folder.glob(f"{RELEASE}/*/*")
    )
    assert bundles == ["narrow_r18_afdcd_0/ort_cpu_fp32", "narrow_r18_afdcd_0/ort_cpu_int8"]


def test_dvc_wrote_no_ignore_file_and_git_sees_no_weights(chain: Clone) -> None:
    ignore_files = {path for path in chain.folder.rglob(".gitignore") if ".dvc" not in path.parts}
    assert ignore_files == {chain.folder / ".gitignore"}
    tracked = chain.run("git", "ls-files").split()
    assert not [name for name in tracked if name.startswith(("models/", "fingerprints/", "data/prepared"))]


def test_a_second_run_runs_only_probe_and_changes_nothing(chain: Clone) -> None:
    release = content(chain.folder / RELEASE)
    assert ran(chain.repro()) == {"probe"}
    assert chain.run("git", "status", "--porcelain") == ""
    assert content(chain.folder / RELEASE) == release


def test_the_summary_names_the_report_and_the_models(chain: Clone) -> None:
    table = chain.python("pipeline.summary")
    assert "reports/report.html" in table and "narrow_r18_afdcd_0" in table and "ort_cpu_int8" in table


def test_a_comment_runs_nothing(chain: Clone) -> None:
    with ExitStack() as edits:
        for name in ("afdcd/losses/afdcd.py", "afdcd/config.py", "deploy/bundle.py", "pipeline/report.py"):
            edits.enter_context(code_of(chain, name, "# only a remark"))
        assert would_run(chain) == set()


def test_code_of_the_contrast_leaves_the_kd_branch_alone(chain: Clone) -> None:
    with code_of(chain, "afdcd/losses/afdcd.py", "EDITED = 1"):
        assert would_run(chain) == {"complexity", "adapt@afdcd", "distill@narrow_r18-afdcd-0"}


def test_a_weight_of_the_contrast_leaves_the_kd_branch_alone(chain: Clone) -> None:
    with params_of(chain, {"distill.recipes.afdcd.afdcd.weights.omni_contrast": 0.003}):
        first = would_run(chain)
        assert {"adapt@afdcd", "distill@narrow_r18-afdcd-0"} <= first
        assert not [stage for stage in first if "kd" in stage.split("@")[-1].split("-") or "teacher" in stage]


def test_what_only_changes_speed_runs_nothing(chain: Clone) -> None:
    with params_of(chain, {"runtime.workers": 2, "runtime.threads": 2}):
        assert would_run(chain) == set()


def test_an_unused_target_and_an_unused_recipe_run_only_the_report(chain: Clone) -> None:
    spare = {"backend": "pytorch", "precision": "fp32", "where": "here", "threads": 1}
    with params_of(chain, {"deploy.specs.spare": spare}):
        assert would_run(chain) <= {"kit", "report", "gate", "release"}


def test_a_gate_runs_only_kit_report_gate_and_release(chain: Clone) -> None:
    with params_of(chain, {"gates.max_size_mb": 4.5}):
        assert ran(chain.repro()) == {"probe", "kit", "report", "gate", "release"}
    assert ran(chain.repro()) == {"probe", "kit", "report", "gate", "release"}


def test_a_failed_gate_leaves_report_and_release_and_says_by_how_much(chain: Clone) -> None:
    release = content(chain.folder / RELEASE)
    with params_of(chain, {"gates.max_size_mb": 0.001}):
        said = chain.repro(expect=1)
        assert "Traceback" not in said and re.search(
            r"size.*narrow_r18_afdcd_0|narrow_r18_afdcd_0.*size", said
        )
        assert "0.001" in said or "0.00" in said
        assert content(chain.folder / RELEASE) == release
        failed = [
            verdict
            for verdict in json.loads(chain.read("reports/gates.json"))["verdicts"]
            if verdict["status"] == "fail"
        ]
        assert failed and "fail" in chain.read("reports/report.html").lower()
        assert ran(chain.repro(expect=1)) == {"probe", "gate"}
    chain.repro()
    assert content(chain.folder / RELEASE) == release


def test_a_recipe_that_does_not_fit_the_networks_stops_before_training(chain: Clone) -> None:
    edits = {"distill.recipes.afdcd.afdcd.groups": 7, "teacher.seed": 1}
    with params_of(chain, edits):
        said = chain.repro(expect=1)
        assert ran(said) == {"probe", "complexity"} and "Traceback" not in said
        assert "error: distill.recipes.afdcd does not fit narrow_r18 and its teacher" in said
        assert "7 groups do not divide" in said
    assert ran(chain.repro()) == {"probe", "complexity"}


def test_a_bad_key_stops_before_any_work(chain: Clone) -> None:
    with params_of(chain, {"distill.recipes.kd.kd.temprature": 1.0}):
        said = chain.repro(expect=1)
        assert ran(said) == {"probe"} and "did you mean 'temperature'?" in said and "Traceback" not in said
    assert ran(chain.repro()) == {"probe"}
