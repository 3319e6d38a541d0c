"""A multiprocessing.Pool: tasks go to its workers over one pipe, results come back over another, by turns
that semaphores give; a Queue, fed by a thread of each worker, tells of progress. It checks itself.

usage: pool.py METHOD GO; METHOD is how workers start. Prints "ready" in the middle of the traffic; the later
tasks wait until there is a file GO. Ends with "ok".
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import time
from multiprocessing.queues import Queue

WORKERS, TASKS, FREE = 4, 40, 20
PIECE_BYTES = 200_000  # more than a pipe holds


class Worker:
    """State that each worker keeps for itself."""

    queue: Queue[int]
    key: bytes
    pid: int
    parent: int


def begin(queue: Queue[int], key: bytes) -> None:
    Worker.queue, Worker.key, Worker.pid, Worker.parent = queue, key, os.getpid(), os.getppid()


def result(number: int, key: bytes) -> bytes:
    digest = key
    for _ in range(2000):
        digest = hashlib.sha256(digest + bytes([number])).digest()
    return digest * (PIECE_BYTES // len(digest))


def work(number: int, go: str) -> tuple[int, bytes]:
    """Some computing, some waiting, and a large result."""
    assert (os.getpid(), os.getppid()) == (Worker.pid, Worker.parent)
    found = result(number, Worker.key)
    time.sleep(0.05)
    while number >= FREE and not os.path.exists(go):
        time.sleep(0.02)
    Worker.queue.put(number)
    return number, found


def main() -> None:
    method, go = sys.argv[1:]
    context = multiprocessing.get_context(method)
    queue, key = context.Queue(), os.urandom(32)
    with context.Pool(WORKERS, begin, (queue, key)) as pool:
        workers = {process.pid for process in multiprocessing.active_children()}
        pending = [pool.apply_async(work, (number, go)) for number in range(TASKS)]
        for one in pending[:3]:
            one.get()
        print("ready", flush=True)
        results = dict(one.get(60) for one in pending)
        assert results == {number: result(number, key) for number in range(TASKS)}
        assert sorted(queue.get(timeout=60) for _ in range(TASKS)) == list(range(TASKS))
        # None has been replaced by a new one, as those that die are.
        assert workers == {process.pid for process in multiprocessing.active_children()}
        pool.close()
        pool.join()
    print("ok", flush=True)


if __name__ == "__main__":
    main()
