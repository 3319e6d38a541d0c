"""Calls that put a signal mask of their own in place while they wait (ppoll, epoll_pwait, rt_sigsuspend …).

Any stop takes that mask away: the kernel puts the old one back and makes the call again (fs/select.c,
kernel/signal.c, restore_saved_sigmask). A signal that the call lets through then ends it as soon as it is
made again. One that it holds back is handled first, before it is made again; but a task of which livecr has
had the registers and the mask would answer EINTR. Used in the moment before a task is let go.
"""

from __future__ import annotations

from livecr.errors import Failed
from livecr.kernel import machine
from livecr.waits import abi, catalog
from livecr.waits.classify import due_signals
from livecr.waits.restart import as_kernel_resumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Tracee
    from livecr.waits.classify import Wait

__all__ = ["settle"]

_MASK_BYTES = 8
_OLD_SIGSET = 0xFFFFFFFF  # of the first 32 signals


def settle(task: Tracee, wait: Wait) -> None:
    """Let a signal that the call holds back be handled before the call is made again, and not end it."""
    inside = _mask_inside(task, wait)
    if inside is None:
        return
    due = due_signals(task.pid, task.tid)
    if due and not due & ~inside:
        task.set_registers(as_kernel_resumes(task.registers()))


def _mask_inside(task: Tracee, wait: Wait) -> int | None:
    """The signals that are blocked inside the call; None if it puts no mask of its own in place."""
    if wait.name not in catalog.TEMPORARY_MASKS:
        return None
    name, how = catalog.TEMPORARY_MASKS[wait.name]
    call = abi.of(wait.abi).find(wait.call, wait.arguments)
    assert call is not None
    address = wait.arguments[call.arguments.index(name)]
    if how == catalog.BY_VALUE:
        return address & _OLD_SIGSET
    try:
        if address and how == catalog.BY_STRUCT:
            size = 4 if wait.abi == machine.I386 else 8
            address = int.from_bytes(task.read(address, size), "little")
        return int.from_bytes(task.read(address, _MASK_BYTES), "little") if address else None
    except Failed:
        return None  # the call will find that too, and end with EFAULT
