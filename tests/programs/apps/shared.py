"""multiprocessing: a Manager with a dictionary, shared memory, a Lock, a Barrier and an Event, four workers.

shared.py METHOD GO: processes are started by METHOD; each worker does half of its work, waits until there is
the file GO, and does the other half. Prints "ready", and what the sums are. Knows nothing of livecr.
"""

import multiprocessing
import os
import struct
import sys
import time
from multiprocessing import shared_memory
from typing import Any

WORKERS, ROUNDS = 4, 50


def count(number: int, name: str, told: Any, lock: Any, go_on: Any, halves: Any) -> None:
    memory = shared_memory.SharedMemory(name)
    assert memory.buf is not None
    for half in range(2):
        for _ in range(ROUNDS):
            with lock:
                (value,) = struct.unpack_from("q", memory.buf)
                struct.pack_into("q", memory.buf, 0, value + number)
            told[number] = told.get(number, 0) + 1
        halves.wait()
        if half == 0:
            go_on.wait()
    memory.close()


def main() -> None:
    context: Any = multiprocessing.get_context(sys.argv[1])
    lock, go_on, halves = context.Lock(), context.Event(), context.Barrier(WORKERS + 1)
    memory = shared_memory.SharedMemory(create=True, size=4096)
    assert memory.buf is not None
    with context.Manager() as manager:
        told = manager.dict()
        parts = (memory.name, told, lock, go_on, halves)
        workers = [context.Process(target=count, args=(number, *parts)) for number in range(1, WORKERS + 1)]
        for worker in workers:
            worker.start()
        halves.wait()
        print("ready", flush=True)
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
        go_on.set()
        halves.wait()
        for worker in workers:
            worker.join()
        codes = [worker.exitcode for worker in workers]
        print(struct.unpack_from("q", memory.buf)[0], sorted(told.items()), codes, flush=True)
    memory.close()
    memory.unlink()


if __name__ == "__main__":
    main()
