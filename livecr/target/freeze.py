"""Stop a whole process and let it go again, unharmed whatever happens.

Every task is brought to PTRACE_EVENT_STOP by PTRACE_SEIZE and PTRACE_INTERRUPT, which no task and no parent
can see. Should livecr die, the kernel detaches all of them and they run on; a system call that the freeze
interrupted is restarted by the kernel itself, since no signal is there to be delivered.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from livecr._native import ffi, lib
from livecr.errors import Failed, NoSuchProcess, Refused
from livecr.kernel import leader, machine, procfs
from livecr.target import tracee
from livecr.target.process import Process
from livecr.target.tracee import Gone, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["confirm", "end", "freeze", "kill", "thaw"]

_STOP_TIMEOUT_MS = 5000
_END_TIMEOUT_S = 2.0
_ESRCH = 3
_ECHILD = 10
_EPERM = 1


def freeze(pid: int) -> Process:
    """Stop every task of ``pid``, also those that are born meanwhile.

    Raises Refused when the process does not exist, may not be traced or has a task that does not stop (then
    all others have been let go again).
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise NoSuchProcess(f"process {pid}") from None
    tasks: dict[int, Tracee] = {}
    others: set[int] = set()
    try:
        # A task is born from one that still runs; so when a look finds none that is new, none is left.
        while new := sorted(set(_task_ids(pid)) - tasks.keys() - others):
            # Workers of the kernel's own would stop too, but run no code and make no calls for the engine.
            others |= {tid for tid in new if tid != pid and procfs.is_worker(pid, tid)}
            for task in _stop(pid, [tid for tid in new if tid not in others]):
                tasks[task.tid] = task
            if not tasks:
                raise Refused("the process ended before it could be frozen", where=f"process {pid}")
            if pid not in tasks:
                others.add(pid)  # it has exited, but will be there as long as the others are
        leader.look(pid)
        if leader.has_exited(pid):
            pidfd = _replace(pidfd, pid)
        compat = machine.of_process(pid) == machine.I386
    except BaseException:
        _let_all_go(pid, list(tasks.values()))
        os.close(pidfd)
        raise
    ordered = sorted(tasks.values(), key=lambda task: (task.tid != pid, task.tid))
    signals = {task.stop_signal for task in ordered} - {tracee.SIGTRAP}
    return Process(pid, ordered, pidfd, max(signals, default=0), compat=compat)


def _replace(pidfd: int, pid: int) -> int:
    """By that of a thread: one of a leader that has exited leads to nothing."""
    try:
        new = leader.open_pidfd(pid)
    except OSError:
        raise Refused.because(leader.obstacles(pid)) from None
    os.close(pidfd)
    return new


def thaw(process: Process, just_before: Callable[[Tracee], None] | None = None) -> None:
    """Detach from every task; each goes on with the registers that it has, a group-stopped one stays so.

    ``just_before`` is called with each task in the moment before it is let go; a Failed that it raises
    does not keep the task.
    """
    _let_all_go(process.pid, process.tasks, just_before)
    os.close(process.pidfd)


def confirm(process: Process) -> None:
    """Is it still there? Raises Gone when it has been killed (nothing else ends a frozen process)."""
    process.leader.signal_mask()


def _is_our_child(pid: int) -> bool:
    try:
        return procfs.stat(pid)["ppid"] == os.getpid()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(process: Process) -> None:
    """Let the frozen process end."""
    lib.lcr_syscall(_NR_PIDFD_SEND_SIGNAL, process.pidfd, 9, 0, 0, 0, 0)


def end(process: Process) -> None:
    """Kill the frozen process and wait until it has ended. Its parent still gets its status."""
    kill(process)
    ours = _is_our_child(process.pid)
    for task in reversed(process.tasks):  # the leader's end is reported when all others are gone
        if task.tid != process.pid:
            _until_ended(task.tid)
    if ours:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        _until_ended(process.pid)
    os.close(process.pidfd)


def _until_ended(tid: int) -> None:
    """Returns at once if livecr neither traces it nor is its parent: a leader that had exited before."""
    status = ffi.new("int *")
    while lib.lcr_wait(tid, status, 0) > 0 and (status[0] & 0xFF) == 0x7F:
        pass


_NR_PIDFD_SEND_SIGNAL = 424


def _task_ids(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stop(pid: int, tids: list[int]) -> list[Tracee]:
    """Those of the tasks that are stopped now; the others have ended. Raises Refused if one will not stop."""
    numbers = ffi.new("int[]", tids)
    status = ffi.new("int[]", len(tids))
    lib.lcr_freeze(numbers, len(tids), tracee.O_TRACESYSGOOD, _STOP_TIMEOUT_MS, status)
    stopped = [
        Tracee(pid, tid, status[i]) for i, tid in enumerate(tids) if status[i] > 0 and _alive(status[i])
    ]
    refusal = None
    for i, tid in enumerate(tids):
        if status[i] == -_EPERM:
            refusal = _why_not(pid, tid) or refusal
        elif status[i] == 0:
            refusal = Refused(
                f"it did not stop within {_STOP_TIMEOUT_MS // 1000} s (uninterruptible sleep)",
                where=f"task {tid} of process {pid}",
                way_out="wait until the device or the child that it waits for answers, then try again",
            )
        elif status[i] < 0 and status[i] not in (-_ESRCH, -_ECHILD):
            refusal = Refused(os.strerror(-status[i]), where=f"task {tid} of process {pid}")
    try:
        if refusal is not None:
            raise refusal
        return [task for task in stopped if _bring_to_event_stop(task)]
    except BaseException:
        _let_all_go(pid, stopped)
        raise


def _alive(status: int) -> bool:
    return (status & 0xFF) == 0x7F


def _bring_to_event_stop(task: Tracee) -> bool:
    """A signal may have come first: let it be delivered; the interrupt is reported right behind it."""
    try:
        while task.event != tracee.EVENT_STOP:
            task.cont(task.stop_signal if task.event == 0 else 0)
            task.wait()
    except Gone:
        return False
    return True


def _let_all_go(pid: int, tasks: list[Tracee], just_before: Callable[[Tracee], None] | None = None) -> None:
    ours = _is_our_child(pid)
    for task in sorted(tasks, key=lambda task: task.tid == pid):  # a leader's end is reported last
        # An ended child of ours that is not reaped here is reported to whoever in livecr waits for its child.
        _let_go(task, just_before, reap=task.tid != pid or not ours)


def _let_go(task: Tracee, just_before: Callable[[Tracee], None] | None, *, reap: bool) -> None:
    try:
        if not task.stopped:
            task.stop_again()
        if just_before is not None:
            with suppress(Failed):  # detaching will tell if it is gone
                just_before(task)
        task.detach()
    except Failed:  # it has been killed: there is nothing to hand back, but its end
        if reap:
            _reap(task)


def _reap(task: Tracee) -> None:
    """A task that ends while traced stays a zombie, and its parent hears nothing, until the tracer waits."""
    status = ffi.new("int *")
    give_up = time.monotonic() + _END_TIMEOUT_S
    while time.monotonic() < give_up:
        result = lib.lcr_wait(task.tid, status, tracee.WNOHANG)
        if result < 0 or (result > 0 and not _alive(status[0])):
            return
        if result == 0:
            time.sleep(0.001)


def _why_not(pid: int, tid: int) -> Refused | None:
    """The reason why a task cannot be seized; None if it is that the task has just ended."""
    where = f"task {tid} of process {pid}"
    try:
        told = procfs.status(pid, tid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if told["State"][:1] in ("Z", "X"):
        return None
    tracer = int(told["TracerPid"])
    if tracer:
        return Refused(
            f"it is already traced by process {tracer}",
            where=where,
            way_out="end the debugger or strace there",
        )
    return Refused(
        "the kernel does not allow to trace it",
        where=where,
        way_out="run livecr as root; see `livecr doctor` for what is missing",
    )
