from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from threading import Event, current_thread, main_thread
from threading import enumerate as threads_alive
from typing import Any

import pytest
import torch

from afdcd.errors import UserError
from afdcd.native.kernels import has_kernels, loaded
from afdcd.training.beside import beside

pytestmark = [
    pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed"),
    pytest.mark.usefixtures("seeded"),
]

SOON = 10.0
"""Seconds that a test waits for another thread at most."""
THREADS = 6


def team() -> int:
    """Threads that a kernel would run on now."""
    functions = loaded().functions
    assert functions is not None
    return int(functions.team())


def kernels_take_all() -> None:
    """Wait until the other thread has nothing to do."""
    end = time.monotonic() + SOON
    while team() != THREADS:
        assert time.monotonic() < end, "nobody is idle"
        time.sleep(0.01)


@pytest.fixture
def helped() -> Iterator[list[Generator[Any, None, None]]]:
    """What a test puts here is closed after it, and nothing of it may be left then."""
    torch.set_num_threads(THREADS)
    made: list[Generator[Any, None, None]] = []
    yield made
    for each in made:
        each.close()
    assert torch.get_num_threads() == team() == THREADS
    torch.set_num_threads(1)
    assert team() == 1, "a thread that has ended is still counted as idle"
    assert [thread for thread in threads_alive() if thread.name == "beside the step"] == []


def test_items_come_in_order(helped: list[Any]) -> None:
    helped.append(beside(iter("abcd"), str.upper, THREADS))
    assert list(helped[0]) == ["A", "B", "C", "D"]


def test_nothing_comes_of_nothing(helped: list[Any]) -> None:
    helped.append(beside(iter(()), str.upper, THREADS))
    assert list(helped[0]) == []


def test_the_next_is_made_meanwhile_and_none_after_it(helped: list[Any]) -> None:
    second, third = Event(), Event()
    events = {1: second, 2: third}
    taken = []

    def items() -> Iterator[int]:
        for number in range(4):
            taken.append((number, current_thread() is main_thread()))
            yield number

    def make(number: int) -> int:
        events.get(number, Event()).set()
        return number

    made = beside(items(), make, THREADS)
    helped.append(made)
    assert next(made) == 0
    assert second.wait(SOON), "the second is not made while the first is worked on"
    assert not third.wait(0.2)
    assert taken == [(0, True), (1, False)]


def test_both_threads_have_half(helped: list[Any]) -> None:
    made = beside(iter(range(3)), lambda _: torch.get_num_threads(), THREADS)
    helped.append(made)
    assert [(next(made), torch.get_num_threads()) for _ in range(3)] == [(THREADS // 2,) * 2] * 3


def test_the_other_thread_keeps_its_half_while_the_caller_has_all(helped: list[Any]) -> None:
    may_count = Event()

    def count(number: int) -> int:
        assert number == 0 or may_count.wait(SOON)
        torch.ones(10**6).sum()  # torch's own first parallel work in a thread asks how many there are
        return torch.get_num_threads()

    made = beside(iter(range(2)), count, THREADS)
    helped.append(made)
    next(made)
    torch.set_num_threads(THREADS)
    may_count.set()
    assert next(made) == THREADS // 2


def test_a_closed_iterator_leaves_no_thread(helped: list[Any]) -> None:
    begun = Event()

    def slow(number: int) -> int:
        if number:
            begun.set()
            time.sleep(0.2)
        return number

    made = beside(iter(range(3)), slow, THREADS)
    next(made)
    assert begun.wait(SOON)
    made.close()
    helped.append(made)  # whose fixture looks for the thread


def test_kernels_take_the_threads_of_who_waits(helped: list[Any]) -> None:
    begun, looked = Event(), Event()
    found = {}

    def make(number: int) -> int:
        if number == 1:
            found["both work"] = team()
            begun.set()
        if number == 2:
            begun.set()
            assert looked.wait(SOON)
            kernels_take_all()
        return number

    made = beside(iter(range(3)), make, THREADS)
    helped.append(made)
    assert next(made) == 0 and begun.wait(SOON)
    begun.clear()
    kernels_take_all()
    assert next(made) == 1 and begun.wait(SOON)
    found["the other works"] = team()
    looked.set()
    assert next(made) == 2
    assert found == {"both work": THREADS // 2, "the other works": THREADS // 2}


@pytest.mark.parametrize("where", ["items", "make"])
@pytest.mark.parametrize("place", [0, 2])
def test_an_error_comes_in_its_item_s_place(where: str, place: int, helped: list[Any]) -> None:
    def refuse(number: int, here: str) -> int:
        if (number, here) == (place, where):
            raise UserError(f"item {number} cannot be made")
        return number

    items = (refuse(number, "items") for number in range(4))
    made = beside(items, lambda number: refuse(number, "make"), THREADS)
    helped.append(made)
    assert [next(made) for _ in range(place)] == list(range(place))
    with pytest.raises(UserError, match=f"item {place} cannot be made"):
        next(made)


def test_a_caller_that_fails_gets_its_threads_back(helped: list[Any]) -> None:
    made = beside(iter(range(4)), int, THREADS)
    helped.append(made)
    with pytest.raises(ZeroDivisionError), closing(made):
        1 / next(made)
