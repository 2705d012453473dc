"""The study `smoke` for real: interrupted once, killed once, and finished by the same command."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from clone import Clone

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("study")]

COMMAND = ("python", "-m", "pipeline.study", "smoke", "--jobs", "2")


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def inhabitants(folder: Path) -> list[int]:
    """Processes that run in a folder or below."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(place / "cwd")).is_relative_to(folder):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def broken_off(clone: Clone, when: Callable[[], object], how: int) -> str:
    """Run the study until `when`, end it by the signal `how`, and see that nothing goes on."""
    process: subprocess.Popen[str] = clone.start(*COMMAND)
    wait_for(lambda: when() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]
    os.kill(process.pid, how)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    wait_for(lambda: not inhabitants(clone.folder / ".studies/smoke"))
    return printed


def test_a_study_survives_an_interrupt_and_a_kill_and_ends_with_both_tables(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    workspace = clone.folder / ".studies/smoke"
    trained = workspace / "models/trained"

    said = clone.run(*COMMAND[:3], "smoke", "--status", expect=1)
    assert "smoke was not begun" in said
    said = broken_off(clone, lambda: (workspace / "study/logs/train_teacher.log").exists(), signal.SIGINT)
    assert "stopped as asked" in said and "Traceback" not in said
    commit = clone.run("git", "rev-parse", "HEAD").strip()

    # Work goes on in the project meanwhile: the study must not notice.
    clone.edit("afdcd/losses/kd.py", lambda text: f"{text}\nraise RuntimeError('edited')\n")

    def one_on_record_and_another_trained() -> bool:
        recorded = "distill@narrow_r18-kd-0" in locked(workspace)
        return recorded and len(list(trained.glob("*/weights.safetensors"))) > 2

    broken_off(clone, one_on_record_and_another_trained, signal.SIGKILL)
    there = {path: path.read_bytes() for path in trained.glob("*/weights.safetensors")}
    kd = trained / "narrow_r18_kd_0/weights.safetensors"
    before = kd.stat().st_mtime_ns
    said = clone.run(*COMMAND[:3], "smoke", "--status")
    assert "At equal training time" in said and "8 of 8" not in said

    said = clone.run(*COMMAND)
    assert f"its own commit {commit[:10]}" in said and "Traceback" not in said
    assert kd.stat().st_mtime_ns == before, "what DVC had on record was trained again"
    # A network whose training ended as the study was killed is trained again, to the same weights.
    assert len(there) > 2 and there == {path: path.read_bytes() for path in there}
    check_result(clone, commit)

    weights = {path: path.stat().st_mtime_ns for path in trained.glob("*/weights.safetensors")}
    result = {path: path.read_bytes() for path in (clone.folder / "results/smoke").iterdir()}
    said = clone.run(*COMMAND)
    assert "took" not in said and weights == {path: path.stat().st_mtime_ns for path in weights}
    assert {path for path in result if path.read_bytes() != result[path]} <= {
        clone.folder / "results/smoke/README.md"  # tells the CPU time spent, probe's second run too
    }


def locked(workspace: Path) -> set[str]:
    """Stages that DVC has on record; its file may be half written when it is read."""
    path = workspace / "dvc.lock"
    return set(re.findall(r"^  (\S+):$", path.read_text(encoding="utf-8"), re.M)) if path.exists() else set()


def check_result(clone: Clone, commit: str) -> None:
    folder = clone.folder / "results/smoke"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "Unfinished" not in page and commit in page
    costs = json.loads((folder / "costs.json").read_text(encoding="utf-8"))["recipes"]
    assert list(costs) == ["alone", "idd", "kd"]
    # The teacher runs too, so that a distilled step costs more than the student's own.
    assert costs["kd"]["cpu_ratio"] > 1.1 and costs["alone"]["cpu_ratio"] == 1.0
    recipes = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))["distill"]["recipes"]
    length = recipes["alone_equal_time"]["schedule"]["iterations"]
    assert length == max(1, round(6 * costs["kd"]["cpu_seconds"] / costs["alone"]["cpu_seconds"])) > 6

    rows = list(csv.DictReader((folder / "scores.csv").read_text(encoding="utf-8").splitlines()))
    found = {(row["arm"], row["recipe"], row["seed"]): row for row in rows}
    assert len(found) == len(rows) == 2 * 3 * 2
    for seed in ("0", "1"):
        assert found["equal_time", "alone", seed]["iterations"] == str(length)
        assert found["equal_time", "kd", seed]["model"] == found["equal_iterations", "kd", seed]["model"]
    assert all(0 <= float(row["test_miou"]) <= 100 for row in rows)
    assert len({row["weights_sha256"] for row in rows}) == len({row["model"] for row in rows})

    first = page.split("## At equal iterations")[1].split("## At equal training time")[0]
    rows_told = [line.split(" | ") for line in first.splitlines() if line.startswith("| ")]
    means = {cells[0].strip("| *"): cells[4] for cells in rows_told}
    for recipe in ("alone", "kd", "idd"):
        values = [float(found["equal_iterations", recipe, seed]["test_miou"]) for seed in ("0", "1")]
        assert float(means[recipe]) == pytest.approx(sum(values) / 2, abs=0.006)
