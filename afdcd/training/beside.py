"""What the next step needs and no training changes, made beside a step by a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import torch

from afdcd.native.kernels import idle

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch's operators that this thread calls run on so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def beside(items: Iterator[Item], make: Callable[[Item], Made], threads: int) -> Generator[Made, None, None]:
    """`make` of each item; the next is taken and made while the caller works on the last.

    Caller and thread have half of `threads` each for torch's operators, so that Python's part of a step
    keeps no processor waiting; kernels in C take all of them while one of the two waits. Once the iterator
    has ended or is closed, the thread has ended too, and the caller has as many threads as before.

    Args:
        items: the first is taken in the caller's thread, which workers of a DataLoader are the children of.
        make: runs in the other thread; it may neither train nor draw from torch's generator.
        threads: two or more.

    Raises:
        Exception: what `items` or `make` raises, in the place of the item that was not made.
    """
    orders: SimpleQueue[Future[list[Made]] | None] = SimpleQueue()

    def one() -> list[Made]:
        return [make(item) for item in islice(items, 1)]

    def work() -> None:
        torch.get_num_threads()  # the first question sets a thread's number to what the caller has just then
        torch.set_num_threads(threads // 2)
        while True:
            with idle(threads):
                order = orders.get()
            if order is None:
                return
            try:
                order.set_result(one())
            except BaseException as error:
                order.set_exception(error)

    worker = Thread(target=work, name="beside the step", daemon=True)
    with on_threads(threads // 2):
        made = one()
        worker.start()
        try:
            while made:
                order: Future[list[Made]] = Future()
                orders.put(order)
                yield made[0]
                with idle(threads):
                    made = order.result()
        finally:
            orders.put(None)
            worker.join()
