"""An engine at work: sessions in threads of their own behind one bounded queue with deadlines."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from afdcd.errors import UserError
from deploy.bundle import Contract, Pixels
from deploy.serving.confidence import Watch
from deploy.serving.options import Scheduling
from deploy.serving.refusal import Broken, Full, Late, Refusal
from deploy.sessions import Session

log = logging.getLogger("deploy.serving")


class Answer(NamedTuple):
    """Class maps (B, H, W) uint8, with where the time went in seconds."""

    maps: Pixels
    queued: float
    computed: float
    batch: int


class Job:
    """Images that wait for a session, and the future that waits for them."""

    __slots__ = ("arrived", "deadline", "future", "images")

    def __init__(self, images: Pixels, future: asyncio.Future[Answer], deadline: float) -> None:
        self.images, self.future, self.deadline = images, future, deadline
        self.arrived = time.perf_counter()


class Engine:
    """One version of a model; `infer` belongs to the event loop, the sessions to threads.

    Args:
        open_one: opens one session.
        scheduling: sessions, queue and batches.
        watch: looks at some answers again, each when it has been given.
    """

    def __init__(
        self, open_one: Callable[[], Session], scheduling: Scheduling, watch: Watch | None = None
    ) -> None:
        self._scheduling, self._watch = scheduling, watch
        self._sessions = [open_one() for _ in range(scheduling.sessions)]
        self.contract: Contract = self._sessions[0].contract
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._idle = scheduling.sessions
        self._threads = [
            threading.Thread(target=self._work, args=(session,), name=f"engine-{number}", daemon=True)
            for number, session in enumerate(self._sessions)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def infer(self, images: Pixels, seconds: float) -> Answer:
        """Class maps of images that the contract admits, within `seconds`.

        Raises:
            Refusal: the images do not fit, the queue is full, the time is up or the engine failed.
        """
        try:
            admitted = self.contract.admit(images)
        except UserError as error:
            raise Refusal(str(error)) from None
        loop = asyncio.get_running_loop()
        job = Job(admitted, loop.create_future(), time.perf_counter() + seconds)
        with self._changed:
            if self._closing:
                raise Full("this version of the model is closing; send the request again")
            if len(self._waiting) >= self._scheduling.queue + self._idle:
                raise Full(f"{len(self._waiting)} requests wait already; send it again later")
            self._waiting.append(job)
            if self._scheduling.batch == 1:
                self._changed.notify()
            else:
                # One that waits to fill its batch must not swallow another's call.
                self._changed.notify_all()
        timer = loop.call_later(seconds, self._expire, job)
        try:
            return await job.future
        finally:
            timer.cancel()
            if job.future.cancelled():
                self._forget(job)

    def close(self, seconds: float) -> None:
        """Finish what waits, then free the sessions; called outside the event loop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        ends = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _forget(self, job: Job) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def _expire(self, job: Job) -> None:
        self._forget(job)
        if not job.future.done():
            job.future.set_exception(Late("the deadline passed before the answer was there"))

    def _take(self) -> list[Job]:
        """The next job, joined by others of its size up to the batch; none when the engine closes."""
        with self._changed:
            self._idle += 1
            while not self._waiting and not self._closing:
                self._changed.wait()
            self._idle -= 1
            if not self._waiting:
                return []
            jobs = [self._waiting.popleft()]
            if self._scheduling.batch > 1:
                self._join(jobs)
            return jobs

    def _join(self, jobs: list[Job]) -> None:
        size, room = jobs[0].images.shape[1:], self._scheduling.batch - len(jobs[0].images)
        ends = time.perf_counter() + self._scheduling.delay_seconds
        while room > 0:
            if not self._waiting:
                left = ends - time.perf_counter()
                if left <= 0 or self._closing or not self._changed.wait(left):
                    return
                continue
            images = self._waiting[0].images
            if images.shape[1:] != size or len(images) > room:
                return
            room -= len(images)
            jobs.append(self._waiting.popleft())

    def _work(self, session: Session) -> None:
        with self._changed:
            self._idle -= 1
        with session:
            while jobs := self._take():
                self._run(session, jobs)

    def _run(self, session: Session, jobs: list[Job]) -> None:
        start = time.perf_counter()
        jobs = [job for job in jobs if job.deadline > start and not job.future.cancelled()]
        if not jobs:
            return
        images = jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs])
        try:
            maps = session.infer(images)
        except Exception:
            log.exception("the engine failed")
            for job in jobs:
                _settle(job, Broken("the engine failed on this request; the server's log says why"))
            return
        computed, first = time.perf_counter() - start, 0
        for job in jobs:
            part = maps[first : first + len(job.images)]
            first += len(job.images)
            _settle(job, Answer(part, start - job.arrived, computed, len(images)))
        if self._watch is not None and self._watch.due():
            self._watch.look(session, images[0])


def _settle(job: Job, result: Answer | Refusal) -> None:
    """Hand a result to the event loop that waits for it, unless that has ended."""

    def settle() -> None:
        if job.future.done():
            return
        if isinstance(result, Refusal):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)

    try:
        job.future.get_loop().call_soon_threadsafe(settle)
    except RuntimeError:
        log.warning("an answer came after the server had stopped")
