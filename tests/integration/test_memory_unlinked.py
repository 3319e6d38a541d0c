"""Mapped files that no name leads to, in a parent and a child (tests/programs/mem_unlinked.c) and in Python.

They would notice a byte that is lost, one file that has become two, or a seal that is missing.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SHM = Path("/dev/shm")


def names(pid: int) -> list[str]:
    """Permissions and name of each mapping of a file, but for the other names that a semaphore's file has."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith("/") and "/sem." not in words[5]:
            found.append(f"{words[1]} {words[5]}")
    return sorted(found)


@pytest.fixture
def unlinked(
    program: Callable[[str], Path], target: Callable[..., Any], tmp_path: Path
) -> Iterator[Callable[[], Any]]:
    """Start the program, of which no executable is left."""
    posix = f"livecr-test-{os.getpid()}"

    def start() -> Any:
        binary = tmp_path / "program"
        shutil.copy(program("mem_unlinked"), binary)
        one = target([binary, tmp_path, posix])
        one.until_printed("ready")
        binary.unlink()
        return one

    yield start
    for path in (SHM / f"sem.{posix}-here", SHM / f"sem.{posix}-gone", SHM / f"{posix}-gone"):
        with suppress(FileNotFoundError):
            path.unlink()


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
def test_they_are_as_they_were(fate: str, unlinked: Callable[[], Any], livecr: Any, image: Path) -> None:
    """All of them, in both processes, and what maps calls them."""
    one = unlinked()
    before = names(one.pid)
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    else:
        for number in range(1 + (fate == "restored-twice")):
            path = image.with_suffix(f".{number}")
            livecr("checkpoint", one.pid, "-o", path)
            one.killed()
            one.restore(path)
    assert names(one.pid) == before
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_a_mapped_one_that_another_process_has(unlinked: Callable[[], Any], livecr: Any, image: Path) -> None:
    """What would no longer be common to both is refused by name; nothing is touched."""
    one = unlinked()
    line = next(line for line in Path(f"/proc/{one.pid}/maps").read_text().splitlines() if "closed" in line)
    fd = os.open(f"/proc/{one.pid}/map_files/{line.split()[0]}", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)  # the mmap of Python keeps a descriptor
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, *[ctypes.c_long] * 5)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_long)
    ours = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    try:
        said = livecr("check", one.pid, exit_code=3).stderr
        assert f"/memfd:closed (deleted) is shared with process {os.getpid()} (mapped at {ours:x})" in said
        livecr("checkpoint", one.pid, "-o", image, exit_code=3)
        assert ctypes.string_at(ours, 6) == b"page 0"
    finally:
        libc.munmap(ours, mmap.PAGESIZE)
    livecr("check", one.pid)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


POOL = """
import multiprocessing, os, signal, sys
def square(x):
    return os.getpid(), x * x
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    counter, lock = context.Value("i", 0), context.Lock()
    with context.Pool(2) as pool:
        pids = {pid for pid, _ in pool.map(square, range(50))}
        print("ready", flush=True)
        signal.sigwait([signal.SIGUSR1])
        done = pool.map(square, range(2000), chunksize=10)
        assert [value for _, value in done] == [x * x for x in range(2000)]
        assert {pid for pid, _ in done} <= {p.pid for p in pool._pool}
        with lock, counter.get_lock():
            counter.value += 1
    print("ok", counter.value, flush=True)
"""


@pytest.mark.parametrize(
    ("method", "fate"), [("fork", "restored"), ("spawn", "restored"), ("fork", "left-running")]
)
def test_a_pool_of_processes(
    method: str, fate: str, target: Callable[..., Any], livecr: Any, image: Path, tmp_path: Path
) -> None:
    """Its queues' semaphores are unlinked files in /dev/shm that all its processes have mapped."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    one = target([sys.executable, script, method])
    one.until_printed("ready")
    if fate == "restored":
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    else:
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok 1\n")
