"""Calls that answer EINTR to a mere freeze are made again, with the time that they have left.

With no signal of the program's own to be delivered, that EINTR is livecr's doing. A call without a timeout is
made again from its registers alone; one with a timeout through a shim (target/shim.py), since what is left of
it has to be told by another argument than the program's. Used by the checkpoint, as soon as the tasks are
frozen, and by the restore.
"""

from __future__ import annotations

from livecr._native import lib
from livecr.target.shim import Shims
from livecr.waits import abi, catalog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Registers, Tracee
    from livecr.waits.catalog import Call
    from livecr.waits.classify import Wait

__all__ = ["Reentry", "is_timed"]

_ENOSYS = 38
_SYSCALL_BYTES = 2
_NS_PER_MS = 1_000_000
_NS = 1_000_000_000


def is_timed(wait: Wait) -> bool:
    """Whether a shim is needed."""
    return wait.how == "eintr" and wait.remaining_ns is not None


class Reentry:
    """The tasks of one process that are made to enter their calls again."""

    def __init__(self, shims: Shims) -> None:
        self._shims = shims
        self._timed: dict[int, tuple[int, Call]] = {}  # TID: the address of the struct timespec, whose it is

    def registers(self, tid: int, wait: Wait, own: Registers, left_ns: int) -> Registers:
        """What task ``tid``, whose own registers are ``own``, has to go on with to make the call again."""
        if not is_timed(wait):
            return own.copy(rip=own.rip - _SYSCALL_BYTES, rax=wait.call, orig_rax=-1)
        call, changed = _replacement(wait)
        entry, timespec_at = self._shims.make(own, wait.call, _timespec(call, left_ns))
        names = self._shims.arguments
        arguments = dict(zip(names, wait.arguments, strict=True))
        for index, value in changed.items():
            arguments[names[index]] = timespec_at if value == catalog.LEFT_HERE else value
        if call.encoding == catalog.MILLISECONDS:
            arguments[names[3]] = -(-left_ns // _NS_PER_MS)  # no epoll_pwait2 before 5.11: up to 1 ms late
        else:
            self._timed[tid] = timespec_at, call
        return own.copy(rip=entry, rax=call.number, orig_rax=-1, **arguments)

    def refresh(self, tid: int, left_ns: int) -> None:
        """Just before a task is let go: what is left now."""
        if tid in self._timed:
            timespec_at, call = self._timed[tid]
            self._shims.set_left(timespec_at, _timespec(call, left_ns))

    def enter(self, tasks: list[Tracee], waits: dict[int, Wait], own: dict[int, Registers]) -> None:
        """Set the registers of all frozen tasks that have to enter again. Should livecr die now, they do."""
        again = [task for task in tasks if task.tid in waits and waits[task.tid].how == "eintr"]
        if any(is_timed(waits[task.tid]) for task in again):
            self._shims.occupy(tasks)
        for task in again:
            wait = waits[task.tid]
            again_with = self.registers(task.tid, wait, own[task.tid], wait.remaining_ns or 0)
            task.set_registers(again_with)


def _replacement(wait: Wait) -> tuple[Call, dict[int, int]]:
    """The call to be made, and the arguments of it that differ from the program's."""
    table = abi.of(wait.abi)
    own = table.find(wait.call, wait.arguments)
    assert own is not None
    number, changed = table.reentered[own.key]
    # epoll_pwait2 is the only other call, and has the same number by both conventions.
    if number != wait.call and lib.lcr_syscall(number, 2**64 - 1, 0, 0, 0, 0, 0) == -_ENOSYS:
        return own, {}
    return own if number == wait.call else table.calls[number], changed


def _timespec(call: Call, ns: int) -> bytes:
    return call.timespec.pack(*divmod(ns, _NS))
