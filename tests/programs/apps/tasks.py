"""Tasks of asyncio: each kind of wait that it has, in one event loop, with an executor beside it.

tasks.py WAIT_MS. Prints "ready", then "NAME ASKED_NS TOOK_NS" for each wait that has ended, by
time.monotonic_ns(), then "done". Knows nothing of livecr.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

asked_ns = int(sys.argv[1]) * 1_000_000
seconds = asked_ns / 1e9


async def sleep() -> None:
    await asyncio.sleep(seconds)


async def wait_for() -> None:
    try:
        await asyncio.wait_for(asyncio.Event().wait(), seconds)
    except TimeoutError:
        return
    raise AssertionError("an event that nobody sets was set")


async def queue_get() -> None:
    try:
        async with asyncio.timeout(seconds):
            await asyncio.Queue[int]().get()
    except TimeoutError:
        return
    raise AssertionError("something came from an empty queue")


async def wait() -> None:
    never = asyncio.ensure_future(asyncio.Event().wait())
    _, pending = await asyncio.wait([never], timeout=seconds)
    assert pending == {never}
    never.cancel()


async def call_later() -> None:
    called = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, called.set)
    await called.wait()


async def call_at() -> None:
    called = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_at(loop.time() + seconds, called.set)
    await called.wait()


async def to_thread() -> None:
    await asyncio.to_thread(time.sleep, seconds)


async def timed(wait: Callable[[], Awaitable[None]]) -> None:
    began = time.monotonic_ns()
    await wait()
    took = time.monotonic_ns() - began
    print(f"{wait.__name__} {asked_ns} {took}", flush=True)


async def main() -> None:
    waits = (sleep, wait_for, queue_get, wait, call_later, call_at, to_thread)
    tasks = [asyncio.create_task(timed(wait)) for wait in waits]
    await asyncio.sleep(0)  # until all of them wait
    print("ready", flush=True)
    await asyncio.gather(*tasks)


asyncio.run(main())
print("done", flush=True)
