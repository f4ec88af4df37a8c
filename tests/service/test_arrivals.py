"""When a batch begins, in turns of the event loop."""

from __future__ import annotations

import asyncio

from service import arrivals
from service.arrivals import Arrivals


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lone_caller_waits_for_nobody() -> None:
    coming = Arrivals()
    coming.announced()
    assert not coming.quiet
    coming.arrived()
    assert coming.quiet


async def test_who_is_announced_is_waited_for() -> None:
    coming, told = Arrivals(), asyncio.Event()
    coming.announced()
    coming.announced()
    coming.arrived()
    coming.when_quiet(told.set)
    await turns(5)
    assert not told.is_set()
    coming.arrived()
    await asyncio.wait_for(told.wait(), 10)


async def test_when_calls_follow_upon_each_other_the_next_one_is_waited_for() -> None:
    coming, told = Arrivals(), asyncio.Event()
    coming.begun(2)  # a batch of two: nobody is alone
    coming.announced()
    coming.arrived()
    coming.when_quiet(told.set)
    await turns(arrivals._TURNS - 2)
    assert not told.is_set()
    coming.announced()
    await turns(2 * arrivals._TURNS)
    assert not told.is_set(), "the next had been announced"
    coming.arrived()
    await asyncio.wait_for(told.wait(), 10)


async def test_who_never_comes_holds_nobody_up_for_long() -> None:
    coming, told = Arrivals(), asyncio.Event()
    coming.announced()
    coming.when_quiet(told.set)
    await asyncio.wait_for(told.wait(), 10)
    assert coming.quiet, "it is still waited for"


async def test_a_stream_of_calls_without_end_holds_nobody_up_for_ever() -> None:
    coming, told = Arrivals(), asyncio.Event()
    coming.begun(2)  # crowded
    coming.announced()
    coming.when_quiet(told.set)

    async def more() -> None:
        while not told.is_set():
            coming.announced()
            coming.arrived()
            await asyncio.sleep(0)

    await asyncio.wait_for(more(), 10)
    assert told.is_set()


async def test_all_who_wait_are_told() -> None:
    coming = Arrivals()
    told: list[int] = []
    coming.announced()
    for i in range(3):
        coming.when_quiet(lambda i=i: told.append(i))
    coming.arrived()
    await turns(3)
    assert told == [0, 1, 2]
