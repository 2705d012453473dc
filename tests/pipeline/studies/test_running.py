"""Tasks of a study without any training: commands that sleep, fail, or find DVC busy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clone import ROOT
from living import alive

from afdcd.errors import UserError
from pipeline.studies import running
from pipeline.studies.outlook import Outlook, duration
from pipeline.studies.plan import Run
from pipeline.studies.running import Task, last_words, runner
from pipeline.studies.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace("tried", tmp_path)
    made.records.mkdir(parents=True)
    return made


def shell(name: str, command: str) -> Task:
    return Task(name, ("sh", "-c", command))


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def test_tasks_run_side_by_side_and_a_failure_stops_no_other(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    meet = "touch {0}; for i in $(seq 500); do [ -e {1} ] && exit 0; sleep 0.02; done; exit 1"
    tasks = [
        shell("a", meet.format("here", "there")),
        shell("b", meet.format("there", "here")),
        shell("c", "echo error: no luck; echo ERROR: dvc; exit 255"),
        shell("d", "true"),
    ]
    ended: list[str] = []
    with runner(workspace, 1) as hands:
        assert hands.run(tasks, 2, lambda task, wall: ended.append(task.name)) == ["c"]
    assert sorted(ended) == ["a", "b", "d"] and "c failed: error: no luck" in caplog.text
    record = json.loads((workspace.records / "stages/c.json").read_text(encoding="utf-8"))
    assert record["exit"] == 255 and record["attempts"] == 1


def test_a_busy_dvc_is_tried_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PAUSE", 0.01)
    said = "'m' is busy, it is being blocked by:"
    busy = f'echo x >> tries; [ $(wc -l < tries) = 3 ] || {{ echo "{said}"; exit 255; }}'
    with runner(workspace, 1) as hands:
        assert hands.run([shell("a", busy)], 1, lambda task, wall: None) == []
    assert json.loads((workspace.records / "stages/a.json").read_text(encoding="utf-8"))["attempts"] == 3


def test_the_cpu_time_of_a_tasks_own_children_is_on_record(workspace: Workspace) -> None:
    burn = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.3: pass'; true"
    with runner(workspace, 1) as hands:
        hands.run([shell("a", burn)], 1, lambda task, wall: None)
    record = json.loads((workspace.records / "stages/a.json").read_text(encoding="utf-8"))
    assert 0.3 <= record["cpu_seconds"] < 3


def test_ctrl_c_interrupts_the_tasks_and_says_how_to_go_on(workspace: Workspace) -> None:
    polite = "trap 'echo saved > state; exit 1' INT; touch ready; while :; do sleep 0.02; done"

    def press() -> None:
        wait_for((workspace.folder / "ready").exists)
        os.kill(os.getpid(), signal.SIGINT)

    # A test run in the background of a script has the signal ignored, and so would the study.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(UserError, match="the same command goes on"), runner(workspace, 1) as hands:
            hands._start(shell("a", polite))
            press()
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (workspace.folder / "state").read_text(encoding="utf-8") == "saved\n"


def test_a_killed_study_leaves_nothing_running(workspace: Workspace) -> None:
    script = f"""
    from pathlib import Path
    from pipeline.studies.running import Task, runner
    from pipeline.studies.workspace import Workspace
    with runner(Workspace("tried", Path({str(workspace.root)!r})), 1) as hands:
        task = Task("a", ("sh", "-c", "echo $$ > outer; sh -c 'echo $$ > inner; exec sleep 600'; true"))
        hands.run([task], 1, lambda task, wall: None)
    """
    study = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT)
    places = [workspace.folder / name for name in ("inner", "outer")]
    wait_for(lambda: all(place.exists() and place.read_text(encoding="utf-8") for place in places))
    pids = [int(place.read_text(encoding="utf-8")) for place in places]
    assert all(map(alive, pids))
    study.kill()
    study.wait()
    wait_for(lambda: not any(map(alive, pids)))


def test_the_last_words_are_the_stages_own() -> None:
    assert last_words("x\nerror: the thing\nERROR: failed to reproduce 'a'\n") == "error: the thing"
    assert (
        last_words("x\nTraceback\nValueError: y\n\n") == "ValueError: y"
        and last_words("") == "it printed nothing"
    )


def test_the_outlook_learns_from_what_trainings_took() -> None:
    runs = [Run("kd", "kd", "net", seed, 100) for seed in range(4)]
    costs = {"recipes": {"kd": {"wall_seconds": 0.92}}}
    outlook = Outlook(runs, [run.stage for run in runs[1:]], costs, jobs=2)
    assert outlook.seconds_left == pytest.approx(150) and outlook.line() == "[1/4] about 2 min left"
    assert "[2/4] about 3 min left; distill@net-kd-1 took 200 s" == outlook.ended("distill@net-kd-1", 200.0)


@pytest.mark.parametrize(
    ("seconds", "said"), [(3, "3 s"), (119, "119 s"), (600, "10 min"), (7260, "2 h 01 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
