"""The share of low-confidence pixels: by hand, and from a running server."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from fake_run import SIZE, write_engine
from serving_process import Server

from deploy.serving.client import Client
from deploy.serving.confidence import Watch
from deploy.sessions import Session

IMAGE = np.zeros((2, 3, 3), dtype=np.uint8)


class Given:
    """A session whose logits are given; counts how often it was asked."""

    def __init__(self, logits: npt.NDArray[np.float32] | None) -> None:
        self.given, self.asked = logits, 0

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.asked += 1
        if self.given is None:
            raise ValueError("no such graph")
        assert images.shape == (1, *IMAGE.shape)
        return self.given[None].copy()


def looked(logits: npt.NDArray[np.float32], sure: float) -> tuple[int, int]:
    seen: list[tuple[int, int]] = []
    Watch(1, sure, lambda *counts: seen.append(counts)).look(cast(Session, Given(logits)), IMAGE)
    return seen[0]


def test_a_pixel_counts_where_its_highest_probability_is_below_the_limit() -> None:
    chances = np.array([[0.9, 0.59, 0.61], [0.34, 0.5, 0.7]])
    logits = np.log(np.stack([chances, (1 - chances) * 0.6, (1 - chances) * 0.4])).astype(np.float32)
    highest = np.maximum(chances, (1 - chances) * 0.6)
    for sure in (0.45, 0.6, 0.65):
        assert looked(logits, sure) == (6, int((highest < sure).sum()))
    assert looked(logits * 1 + 1e4, 0.6) == looked(logits, 0.6), "a shift of all logits changes nothing"


def test_one_answer_in_so_many_is_due() -> None:
    watch = Watch(3, 0.5, lambda *_: None)
    assert [watch.due() for _ in range(7)] == [False, False, True, False, False, True, False]


def test_an_engine_without_logits_is_told_of_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    session, watch = Given(None), Watch(1, 0.5, lambda *_: None)
    with caplog.at_level(logging.ERROR, "deploy.serving"):
        for _ in range(3):
            if watch.due():
                watch.look(cast(Session, session), IMAGE)
    assert session.asked == 1 and "no longer watched" in caplog.text


def test_a_server_counts_the_pixels_of_every_second_answer(tmp_path: Path) -> None:
    write_engine(tmp_path / "painter", "painter", highest=1)
    # Red 0 has probability 0.72 of class 0, anything above has 0.58 of class 1: see the engine's twin.
    image = np.zeros((1, *SIZE, 3), dtype=np.uint8)
    image[0, 0, :5, 0] = 1
    options = ("--watch", "2", "--sure", "0.6", "--sessions", "1")
    with Server(tmp_path / "painter", *options, log=tmp_path / "log") as server:
        with Client(f"http://{server.http}") as client:
            for _ in range(4):
                client.infer("painter", image)
        for _ in range(100):  # a look follows the answer
            text = server.ask("GET", "/metrics").body.decode()
            found = dict(re.findall(r"^(v2_\w+_pixels)_total\{[^}]*\} (\S+)$", text, re.MULTILINE))
            if float(found.get("v2_watched_pixels", 0)) == 2 * SIZE[0] * SIZE[1]:
                break
            time.sleep(0.05)
    assert {name: float(count) for name, count in found.items()} == {
        "v2_watched_pixels": 2.0 * SIZE[0] * SIZE[1],
        "v2_low_confidence_pixels": 10.0,
    }
