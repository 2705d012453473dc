from __future__ import annotations

import logging

import pytest

from afdcd.training import progress
from afdcd.training.progress import Clock, LiveLine, Silent


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def test_the_time_left_follows_the_pace_since_the_resumption(now: list[float]) -> None:
    clock = Clock(1000)
    assert clock.left(500) == "-:--:--"
    now[0] += 10
    assert clock.left(510) == "0:08:10"


def test_lines_come_rarely_but_validations_always(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress.progress("student", 100, shown=True) as display:
        display.show(1, {"loss": 2.0}, 10.0)
        now[0] += 1
        display.show(2, {"loss": 1.5}, 10.0)
        display.show(3, {"loss": 1.25, "kd": 0.5, "val_miou": 0.5}, 10.0)
        now[0] += 60
        display.show(4, {"loss": 1.0}, 10.0)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[1] for line in lines] == ["1/100", "3/100", "4/100"]
    assert "loss 1.25  kd 0.5  val_miou 0.5  10.0 images/s  ETA 0:00:48" in lines[1]


def test_the_live_line_shows_every_term(now: list[float]) -> None:
    live = LiveLine("student", 100)
    live.show(1, {"loss": 2.0, "val_miou": 0.5}, 10.0)
    now[0] += 1
    live.show(2, {"loss": 1.5, "kd": 0.25}, 10.0)
    fields = live.bar.tasks[0].fields
    assert fields["figures"] == "loss 1.5  kd 0.25  val_miou 0.5"
    assert (fields["pace"], fields["left"]) == ("10.0 images/s", "ETA 0:01:38")


def test_other_processes_show_nothing() -> None:
    with progress.progress("student", 100, shown=False) as display:
        assert isinstance(display, Silent)
