"""Threads of CPython: each kind of wait that its library has, one busy, one writing numbered lines.

threads.py LINES_FILE WAIT_MS [quiet]. "quiet": without those two. Prints "ready", then "NAME ASKED_NS
TOOK_NS" for each wait that has ended, by time.monotonic_ns(), then "done". Knows nothing of livecr.
"""

import queue
import sys
import threading
import time
from collections.abc import Callable

lines_file, asked_ns, quiet = sys.argv[1], int(sys.argv[2]) * 1_000_000, sys.argv[3:] == ["quiet"]
seconds = asked_ns / 1e9
over = threading.Event()
fed: queue.Queue[int] = queue.Queue()
printing = threading.Lock()


def say(text: str) -> None:
    with printing:
        print(text, flush=True)


def timed(name: str, wait: Callable[[], object]) -> None:
    began = time.monotonic_ns()
    wait()
    say(f"{name} {asked_ns} {time.monotonic_ns() - began}")


def sleep() -> None:
    time.sleep(seconds)


def event_wait() -> None:
    assert not threading.Event().wait(seconds)


def timer() -> None:
    called = threading.Event()
    one = threading.Timer(seconds, called.set)
    one.start()
    called.wait()
    one.join()


def condition_wait() -> None:
    condition = threading.Condition()
    with condition:
        assert not condition.wait(seconds)


def queue_get() -> None:
    try:
        queue.Queue[int]().get(timeout=seconds)
    except queue.Empty:
        return
    raise AssertionError("something came from an empty queue")


def lock_acquire() -> None:
    lock = threading.Lock()
    with lock:
        assert not lock.acquire(timeout=seconds)


def take_what_is_fed() -> None:
    say(f"fed {fed.get()}")


def busy() -> None:
    last = time.monotonic_ns()
    while not over.is_set():
        now = time.monotonic_ns()
        assert now >= last, "the clock went back"
        last = now


def write_lines() -> None:
    number = 0
    with open(lines_file, "w") as file:
        while not over.is_set():
            number += 1
            file.write(f"{number}\n")
            if number % 7 == 0:
                file.flush()
                time.sleep(0.001)


timed_threads = [
    threading.Thread(target=timed, args=(f"{wait.__name__}-{i}", wait))
    for i, wait in enumerate([sleep, event_wait, timer, condition_wait, queue_get, lock_acquire] * 2)
]
others = [
    threading.Thread(target=body) for body in (take_what_is_fed,) * 2 + (() if quiet else (busy, write_lines))
]
for thread in timed_threads + others:
    thread.start()
say("ready")
for thread in timed_threads:
    thread.join()
fed.put(41)
fed.put(42)
over.set()
for thread in others:
    thread.join()
say("done")
