"""What the kernel writes into the program's memory because a freeze interrupts a call, and putting it right.

An interrupted sleep leaves its remaining time in ``rmtp`` although it then goes on (kernel/time/hrtimer.c,
nanosleep_copyout); select and its kin leave theirs in the timeout itself and are made again with that, so
that the time in the freeze would not count (fs/select.c, poll_select_finish). Used by the checkpoint and by
the restore.
"""

from __future__ import annotations

import _thread
import time
from contextlib import suppress

from livecr.errors import Failed
from livecr.target.tracee import Tracee
from livecr.waits import catalog, live
from livecr.waits.restart import NR_RESTART_SYSCALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from livecr.waits.classify import Wait

__all__ = ["catch_up", "put_back", "remember", "rmtp"]

TIMESPEC_BYTES = 16
#: Where the sleeps have rmtp, by call number; restart_syscall has the arguments of either.
_RMTP_AT = {35: (1,), 230: (3,), NR_RESTART_SYSCALL: (1, 3)}
#: Of the second word of the timeouts that the kernel writes to, in ns: struct timespec, struct timeval.
_UNIT_NS = {catalog.LEFT: 1, catalog.LEFT_TIMEVAL: 1000}
_NS = 1_000_000_000
#: A task that was let go is asleep again within microseconds, on a busy machine within milliseconds.
_PATIENCE_NS = 100_000_000
_PAUSE_S = 0.0002


def remember(pid: int) -> dict[tuple[int, int], bytes]:
    """What is at the rmtp of every sleeping task of a running program: (TID, address) -> a struct timespec.

    To be read after Evidence.before_freeze, which then tells whether the task slept on until the freeze.
    """
    found = {}
    for tid, task in live.blocked(pid).items():
        if task is None:
            continue
        for index in _RMTP_AT.get(task.number, ()):
            address = task.arguments[index]
            with suppress(Failed):  # NULL, or in restart_syscall no address at all
                found[tid, address] = live.read_memory(pid, address, TIMESPEC_BYTES)
    return found


def put_back(pid: int, waits: dict[int, Wait]) -> None:
    """Put back what was at rmtp before, in a process that has been let go.

    Not sooner: a detach interrupts the sleep once more (kernel/ptrace.c, __ptrace_unlink), and if a signal
    comes first, what the kernel wrote is the program's to see. So it is watched without stopping it, by
    PTRACE_SEIZE. A tracee that runs when its tracer ends is not woken, so a thread does it, and ends.
    """
    sleeps = {tid: wait for tid, wait in waits.items() if wait.at_rmtp and rmtp(wait)}
    if not sleeps:
        return
    done = _thread.allocate_lock()
    done.acquire()

    def watch() -> None:
        try:
            for tid, wait in sleeps.items():
                with suppress(Failed):  # it has ended, or is traced already: then so be it
                    _put_back(Tracee(pid, tid), wait)
        finally:
            done.release()

    _thread.start_new_thread(watch, ())
    done.acquire()


def rmtp(wait: Wait) -> int:
    """The address that an interruption of this wait writes the remaining time to, 0 for none."""
    return wait.arguments[_RMTP_AT[wait.call][0]] if wait.call in _RMTP_AT else 0


def _put_back(task: Tracee, wait: Wait) -> None:
    task.seize(0)
    give_up_ns = time.monotonic_ns() + _PATIENCE_NS
    while not _sleeps_on(task, wait):
        if task.look() or time.monotonic_ns() > give_up_ns:
            return  # a signal came first; the end of this thread lets it be delivered
        time.sleep(_PAUSE_S)
    written = task.read(rmtp(wait), TIMESPEC_BYTES)
    task.write(rmtp(wait), wait.at_rmtp)
    while not _sleeps_on(task, wait) and time.monotonic_ns() < give_up_ns:
        if (
            task.look()
        ):  # a signal did come meanwhile: what it has left is no less than a moment ago, within that
            task.write(rmtp(wait), written)
            return
        time.sleep(_PAUSE_S)


def _sleeps_on(task: Tracee, wait: Wait) -> bool:
    """Whether it is blocked in the restart of that very sleep."""
    try:
        with open(f"/proc/{task.pid}/task/{task.tid}/syscall", encoding="ascii") as file:
            words = file.read().split()
    except OSError:
        return False
    return words[0] == str(NR_RESTART_SYSCALL) and [int(word, 16) for word in words[1:7]] == wait.arguments


def catch_up(tasks: Iterable[Tracee], waits: dict[int, Wait], elapsed_ns: Callable[[], int]) -> None:
    """Take the time since the freeze off the timeouts that calls are about to be made with again."""
    for task in tasks:
        wait = waits.get(task.tid)
        if wait is None or wait.how != "redo" or wait.remaining_ns is None:
            continue
        call = catalog.CATALOG.get(wait.call)
        unit_ns = _UNIT_NS.get(call.encoding) if call is not None else None
        if call is None or call.timeout is None or unit_ns is None:
            continue
        # Rounded up: a wait may end late by less than its unit, never early.
        units = -(-max(0, wait.remaining_ns - elapsed_ns()) // unit_ns)
        words = divmod(units, _NS // unit_ns)
        task.write(wait.arguments[call.timeout], b"".join(word.to_bytes(8, "little") for word in words))
