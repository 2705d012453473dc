"""Queue, deadline and batches of an engine, with sessions that a test holds still."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
from fake_run import SIZE, contract

from deploy.serving.engine import Answer, Engine
from deploy.serving.options import Scheduling
from deploy.serving.refusal import Broken, Full, Late, Refusal

Images = npt.NDArray[np.uint8]


class Held:
    """Answers with the red channel once it is let go; remembers the batches it was given."""

    def __init__(self) -> None:
        self.contract = contract("painter")
        self.go, self.busy = threading.Event(), threading.Semaphore(0)
        self.batches: list[int] = []

    def infer(self, images: npt.NDArray[Any]) -> Images:
        self.batches.append(len(images))
        self.busy.release()
        assert self.go.wait(20)
        if images[0, 0, 0, 1] == 99:
            raise ValueError("a bad image")
        return images[..., 0]

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go.set()


def image(value: int, count: int = 1) -> Images:
    return np.full((count, *SIZE, 3), value, dtype=np.uint8)


def run(session: Held, story: Coroutine[Any, Any, None], engine: Engine) -> None:
    try:
        asyncio.run(asyncio.wait_for(story, 20))
    finally:
        session.go.set()
        engine.close(5.0)


def open_engine(session: Held, *, queue: int = 8, batch: int = 1, delay: float = 0.0) -> Engine:
    return Engine(lambda: session, Scheduling(1, 1, queue, batch, delay))


async def occupy(session: Held, engine: Engine) -> asyncio.Task[Answer]:
    task = asyncio.create_task(engine.infer(image(1), 10))
    await asyncio.to_thread(session.busy.acquire)
    return task


def test_beyond_its_bound_the_queue_refuses() -> None:
    session = Held()
    engine = open_engine(session, queue=2)

    async def story() -> None:
        first = await occupy(session, engine)
        waiting = [asyncio.create_task(engine.infer(image(n), 10)) for n in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(Full) as told:
            await engine.infer(image(4), 10)
        assert told.value.status == 503 and told.value.retry_after == 1
        session.go.set()
        for number, task in enumerate([first, *waiting], start=1):
            assert (await task).maps.max() == number

    run(session, story(), engine)


def test_a_deadline_ends_the_wait_and_frees_the_place() -> None:
    session = Held()
    engine = open_engine(session, queue=1)

    async def story() -> None:
        first = await occupy(session, engine)
        with pytest.raises(Late):
            await engine.infer(image(2), 0.02)
        assert engine.waiting == 0
        gone = asyncio.create_task(engine.infer(image(3), 10))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert engine.waiting == 0
        session.go.set()
        assert (await first).maps.max() == 1 and (await engine.infer(image(4), 10)).maps.max() == 4
        assert session.batches == [1, 1]

    run(session, story(), engine)


def test_batches_join_what_fits_and_part_again() -> None:
    session = Held()
    engine = open_engine(session, batch=4)

    async def story() -> None:
        first = await occupy(session, engine)
        tasks = [
            asyncio.create_task(engine.infer(image(n, count), 10)) for n, count in ((2, 1), (3, 2), (4, 2))
        ]
        await asyncio.sleep(0)
        session.go.set()
        await first
        for number, task in enumerate(tasks, start=2):
            found = (await task).maps
            assert found.shape == (1 if number == 2 else 2, *SIZE) and (found == number).all()
        assert session.batches == [1, 3, 2]

    run(session, story(), engine)


def test_a_batch_waits_its_delay_for_company() -> None:
    session = Held()
    session.go.set()
    engine = open_engine(session, batch=2, delay=10.0)

    async def story() -> None:
        found = await asyncio.gather(engine.infer(image(1), 10), engine.infer(image(2), 10))
        assert [one.batch for one in found] == [2, 2] and session.batches == [2]

    run(session, story(), engine)


def test_a_failing_engine_fails_one_request_and_goes_on() -> None:
    session = Held()
    session.go.set()
    engine = open_engine(session)

    async def story() -> None:
        with pytest.raises(Broken):
            await engine.infer(image(99), 10)
        with pytest.raises(Refusal, match="uint8"):
            await engine.infer(image(1).astype(np.float32), 10)  # type: ignore[arg-type]
        assert (await engine.infer(image(5), 10)).maps.max() == 5

    run(session, story(), engine)


def test_a_closed_engine_finishes_what_waits() -> None:
    session = Held()
    engine = open_engine(session)

    async def story() -> None:
        first = await occupy(session, engine)
        second = asyncio.create_task(engine.infer(image(2), 10))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(engine.close, 5.0))
        await asyncio.sleep(0.02)
        with pytest.raises(Full):
            await engine.infer(image(3), 10)
        session.go.set()
        assert (await first).maps.max() == 1 and (await second).maps.max() == 2
        await closing

    run(session, story(), engine)
