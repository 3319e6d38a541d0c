"""Calls that answer EINTR to a mere freeze are made again, with the time that they have left.

With no signal of the program's own to be delivered, that EINTR is livecr's doing. A call without a timeout is
made again from its registers alone; one with a timeout through a shim (target/shim.py), since what is left of
it has to be told by another argument than the program's. Used by the checkpoint, as soon as the tasks are
frozen, and by the restore.
"""

from __future__ import annotations

from livecr._native import lib
from livecr.target.shim import ARGUMENTS, Shims
from livecr.waits import catalog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.target.tracee import Registers, Tracee
    from livecr.waits.classify import Wait

__all__ = ["Reentry", "is_timed"]

_ENOSYS = 38
_SYSCALL_BYTES = 2
_NS_PER_MS = 1_000_000


def is_timed(wait: Wait) -> bool:
    """Whether a shim is needed."""
    return wait.how == "eintr" and wait.remaining_ns is not None


class Reentry:
    """The tasks of one process that are made to enter their calls again."""

    def __init__(self, shims: Shims) -> None:
        self._shims = shims
        self._timed: list[tuple[Wait, int]] = []  # with the address of the struct timespec

    def registers(self, wait: Wait, own: Registers, left_ns: int) -> Registers:
        """What a task whose own registers are ``own`` has to go on with: it will make the call again."""
        if not is_timed(wait):
            return own.copy(rip=own.rip - _SYSCALL_BYTES, rax=wait.call, orig_rax=-1)
        number, changed = _replacement(wait)
        entry, timespec_at = self._shims.make(own, wait.call, left_ns)
        arguments = dict(zip(ARGUMENTS, wait.arguments, strict=True))
        for index, value in changed.items():
            arguments[ARGUMENTS[index]] = timespec_at if value == catalog.LEFT_HERE else value
        if number == wait.call and catalog.CATALOG[number].encoding == catalog.MILLISECONDS:
            arguments["r10"] = -(-left_ns // _NS_PER_MS)  # no epoll_pwait2 before 5.11: up to 1 ms late
        else:
            self._timed.append((wait, timespec_at))
        return own.copy(rip=entry, rax=number, orig_rax=-1, **arguments)

    def refresh(self, left_ns: Callable[[Wait], int]) -> None:
        """Just before the tasks are let go: what is left now."""
        for wait, timespec_at in self._timed:
            self._shims.set_left(timespec_at, left_ns(wait))

    def enter(self, tasks: list[Tracee], waits: dict[int, Wait], own: dict[int, Registers]) -> None:
        """Set the registers of all frozen tasks that have to enter again. Should livecr die now, they do."""
        again = [task for task in tasks if task.tid in waits and waits[task.tid].how == "eintr"]
        if any(is_timed(waits[task.tid]) for task in again):
            self._shims.occupy(tasks)
        for task in again:
            wait = waits[task.tid]
            task.set_registers(self.registers(wait, own[task.tid], wait.remaining_ns or 0))


def _replacement(wait: Wait) -> tuple[int, dict[int, int]]:
    """The call to be made, and the arguments of it that differ from the program's."""
    number, changed = catalog.REENTERED[wait.call]
    if number != wait.call and lib.lcr_syscall(number, 2**64 - 1, 0, 0, 0, 0, 0) == -_ENOSYS:
        return wait.call, {}
    return number, changed
