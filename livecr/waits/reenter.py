"""Calls that answer EINTR to a mere freeze are made again, with the time that they have left.

With no signal of the program's own to be delivered, that EINTR is livecr's doing. A call without a timeout is
made again from its registers alone; one with a timeout through a shim (target/shim.py), since what is left of
it has to be told by another argument than the program's; and so is one that had done a part of its work.
Used by the checkpoint, as soon as the tasks are frozen, and by the restore.
"""

from __future__ import annotations

from livecr._native import lib
from livecr.target.shim import Shims
from livecr.waits import abi, catalog
from livecr.waits.deadlines import getevents_arg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Registers, Tracee
    from livecr.waits.catalog import Call
    from livecr.waits.classify import Wait

__all__ = ["Reentry", "needs_shim"]

_ENOSYS = 38
_SYSCALL_BYTES = 2
_NS_PER_MS = 1_000_000
_NS = 1_000_000_000


def needs_shim(wait: Wait) -> bool:
    """Whether its arguments, or its result, have to differ from those of the program's own call."""
    return wait.how == "eintr" and (wait.remaining_ns is not None or wait.done > 0)


class Reentry:
    """The tasks of one process that are made to enter their calls again."""

    def __init__(self, shims: Shims) -> None:
        self._shims = shims
        self._timed: dict[int, tuple[int, Call]] = {}  # TID: the address of the struct timespec, whose it is

    def registers(self, tid: int, wait: Wait, own: Registers, left_ns: int) -> Registers:
        """What task ``tid``, whose own registers are ``own``, has to go on with to make the call again."""
        if not needs_shim(wait):
            return own.copy(rip=own.rip - _SYSCALL_BYTES, rax=wait.call, orig_rax=-1)
        is_timed = wait.remaining_ns is not None
        call, changed = _replacement(wait)
        is_enter = call.encoding == catalog.GETEVENTS_ARG
        sigmask = getevents_arg(wait.arguments, self._shims.read)[:2] if is_enter else (0, 0)
        timespec = _timespec(call, left_ns) if is_timed else b""
        slot = self._shims.make(own, wait.call, timespec, done=wait.done, sigmask=sigmask)
        arguments = list(wait.arguments)
        here = {catalog.LEFT_HERE: slot.timespec_at, catalog.ARG_HERE: slot.arg_at}
        for index, value in changed.items() if is_timed else ():
            arguments[index] = here.get(value, value)
        if is_timed and is_enter:
            arguments[3] &= ~catalog.ENTER_ABS_TIMER
        for index, difference in abi.of(wait.abi).done.get(wait.call, {}).items():
            arguments[index] += difference * wait.done
        if call.encoding == catalog.MILLISECONDS:
            arguments[3] = -(-left_ns // _NS_PER_MS)  # no epoll_pwait2 before 5.11: up to 1 ms late
        elif is_timed:
            self._timed[tid] = slot.timespec_at, call
        registers = dict(zip(self._shims.arguments, arguments, strict=True))
        return own.copy(rip=slot.entry, rax=call.number, orig_rax=-1, **registers)

    def refresh(self, tid: int, left_ns: int) -> None:
        """Just before a task is let go: what is left now."""
        if tid in self._timed:
            timespec_at, call = self._timed[tid]
            self._shims.set_left(timespec_at, _timespec(call, left_ns))

    def enter(self, tasks: list[Tracee], waits: dict[int, Wait], own: dict[int, Registers]) -> None:
        """Set the registers of all frozen tasks that have to enter again. Should livecr die now, they do."""
        again = [task for task in tasks if task.tid in waits and waits[task.tid].how == "eintr"]
        if any(needs_shim(waits[task.tid]) for task in again):
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
