"""What the kernel writes into the program's memory because a freeze interrupts a call, and putting it right.

An interrupted sleep leaves its remaining time in ``rmtp`` although it then goes on (kernel/time/hrtimer.c,
nanosleep_copyout); select and its kin leave theirs in the timeout itself and are made again with that, so
that the time in the freeze would not count (fs/select.c, poll_select_finish). Used by the checkpoint and by
the restore.
"""

from __future__ import annotations

import _thread
import os
import time

from livecr.errors import Failed
from livecr.kernel.prompt import undelayed
from livecr.target import tracee
from livecr.target.tracee import Tracee
from livecr.waits import abi, catalog, live
from livecr.waits.restart import ERESTART_RESTARTBLOCK, interrupted_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.target.tracee import Registers
    from livecr.waits.classify import Wait

__all__ = ["catch_up", "put_back", "remember", "rmtp"]

#: Of struct timespec; the smaller is that of the first 32-bit calls, and may end where its memory does.
_TIMESPEC_BYTES = (16, 8)
#: Of the second word of the timeouts that the kernel writes to, in ns: struct timespec, struct timeval.
_UNIT_NS = {catalog.LEFT: 1, catalog.LEFT_TIMEVAL: 1000, catalog.LEFT_BY_STRUCT: 1000}
_NS = 1_000_000_000
#: A task that was let go is in its call again within microseconds, on a busy machine within milliseconds.
_TRIES = 50
_NEARLY_OVER_NS = 20_000_000
_PAUSE_S = 0.0005


def remember(pid: int) -> dict[tuple[int, int], bytes]:
    """What is at the rmtp of every sleeping task of a running program: (TID, address) -> a struct timespec.

    To be read after Evidence.before_freeze, which then tells whether the task slept on until the freeze.
    """
    found = {}
    table = live.abi_of_process(pid)
    for tid, task in live.blocked(pid).items():
        if task is None:
            continue
        for index in table.rmtp_at.get(task.number, ()):
            address = task.arguments[index]
            for size in _TIMESPEC_BYTES:
                try:
                    found[tid, address] = live.read_memory(pid, address, size)
                    break
                except Failed:
                    continue  # NULL, or in restart_syscall no address at all
    return found


def put_back(pid: int, waits: dict[int, Wait], elapsed_ns: Callable[[], int]) -> None:
    """Put back what was at rmtp before, in a process that has been let go ``elapsed_ns()`` after its freeze.

    Not sooner: a detach interrupts the sleep once more (kernel/ptrace.c, __ptrace_unlink). So it is stopped
    again, before the entry to its restart, and let go in another way: a tracee that runs when its tracer
    ends is not interrupted, so the tracer is a thread, and ends. If a signal comes at any point, the sleep
    is over, and what the kernel wrote then is the program's to see. A sleep that is nearly over is left
    alone: what comes after it might be a call that an interruption ends.
    """
    sleeps = {tid: wait for tid, wait in waits.items() if wait.at_rmtp and rmtp(wait)}
    if not sleeps:
        return
    done = _thread.allocate_lock()
    done.acquire()

    def trace() -> None:
        try:
            for tid, wait in sleeps.items():
                if not _is_asleep(pid, tid, wait):
                    continue
                with undelayed():
                    if not _is_nearly_over(wait, elapsed_ns()):
                        _put_back(Tracee(pid, tid), wait)
        finally:
            done.release()

    _thread.start_new_thread(trace, ())
    done.acquire()


def _is_nearly_over(wait: Wait, elapsed_ns: int) -> bool:
    if wait.kind == "cpu":  # no CPU time was used in the freeze, but now every CPU may use some
        return (wait.remaining_ns or 0) <= _NEARLY_OVER_NS * (os.cpu_count() or 1)
    return (wait.remaining_ns or 0) - elapsed_ns <= _NEARLY_OVER_NS


def rmtp(wait: Wait) -> int:
    """The address that an interruption of this wait writes the remaining time to, 0 for none."""
    at = abi.of(wait.abi).rmtp_at.get(wait.call)
    return wait.arguments[at[0]] if at else 0


def _put_back(task: Tracee, wait: Wait) -> None:
    try:
        _enter(task, wait)
    except Failed:
        return  # it has ended, or is traced already: then so be it


def _enter(task: Tracee, wait: Wait) -> None:
    task.seize(tracee.O_TRACESYSGOOD)
    task.interrupt()
    task.wait()
    about_to_enter = task.event == tracee.EVENT_STOP and task.stop_signal == tracee.SIGTRAP
    if about_to_enter and _is_in(task.registers(), wait):
        task.cont_to_syscall()
        task.wait()
        if task.event == 0 and task.stop_signal == tracee.SYSCALL_STOP:
            task.write(rmtp(wait), wait.at_rmtp)
            task.cont()
            return
    _go_on(task)


def _is_asleep(pid: int, tid: int, wait: Wait) -> bool:
    """Whether it is blocked in the restart of that very sleep."""
    for _ in range(_TRIES):
        try:
            with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as file:
                words = file.read().split()
        except OSError:
            return False
        if words[0] == str(abi.of(wait.abi).restart_syscall):
            return [int(word, 16) for word in words[1:7]] == wait.arguments
        time.sleep(_PAUSE_S)
    return False


def _go_on(task: Tracee) -> None:
    """With the signal of this stop, if it is for one; a group-stopped task stays so when its tracer ends."""
    if task.event == 0 and task.stop_signal != tracee.SYSCALL_STOP:
        task.cont(task.stop_signal)


def _is_in(registers: Registers, wait: Wait) -> bool:
    """Whether the kernel is about to restart that very sleep."""
    return (
        interrupted_call(registers) == ERESTART_RESTARTBLOCK
        and registers.call() in (wait.call, abi.of(wait.abi).restart_syscall)
        and list(registers.arguments()) == wait.arguments
    )


def catch_up(task: Tracee, wait: Wait, elapsed_ns: Callable[[], int]) -> None:
    """Take the time since the freeze off a timeout that the call is about to be made with again.

    It is asked for last of all: what goes by after that makes the wait longer.
    """
    if wait.how != "redo" or wait.remaining_ns is None:
        return
    call = abi.of(wait.abi).find(wait.call, wait.arguments)
    unit_ns = _UNIT_NS.get(call.encoding) if call is not None else None
    if call is None or call.timeout is None or unit_ns is None:
        return
    # Rounded up: a wait may end late by less than its unit, never early.
    address, pack = call.timeout_at(wait.arguments, task.read), call.timespec.pack
    units = -(-max(0, wait.remaining_ns - elapsed_ns()) // unit_ns)
    task.write(address, pack(*divmod(units, _NS // unit_ns)))
