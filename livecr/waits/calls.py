"""The interrupted system calls of one frozen process: found, described, and gone on with.

What a freeze ends for good is entered again at once, so that a livecr that is killed leaves it so; the rest
is done in the moment before each task is let go. Called by checkpoint.py.
"""

from __future__ import annotations

from contextlib import contextmanager

from livecr.target.compat import refuse_mixed
from livecr.target.engine import Engine
from livecr.target.shim import Shims
from livecr.target.shim_code import offset
from livecr.waits import confined, lent, masks, written
from livecr.waits.classify import Wait, classify_all
from livecr.waits.deadlines import Evidence
from livecr.waits.reenter import Reentry
from livecr.waits.restart import as_kernel_resumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from livecr.kernel.bpf import TaskIterator, TaskState
    from livecr.target.process import Process
    from livecr.target.program import Program
    from livecr.target.tracee import Registers, Tracee

__all__ = ["Calls", "look_ahead"]


def look_ahead(pid: int, iterator: TaskIterator | None) -> Evidence:
    """What only a running process shows."""
    evidence = Evidence.before_freeze(pid, iterator)
    evidence.at_rmtp = written.remember(pid)
    return evidence


class Calls:
    """``registers``: the program's own, by TID; ``waits``: those that are blocked."""

    def __init__(self, frozen: Process, evidence: Evidence) -> None:
        """``evidence``: seen before the freeze, and in it."""
        self._frozen = frozen
        self._evidence = evidence
        shims = Shims(frozen.leader, compat=frozen.compat)
        self.registers: dict[int, Registers] = {task.tid: shims.own_registers(task) for task in frozen.tasks}
        for slot_at, slot in shims.lent.values():
            lent.take_back(frozen.pid, slot)
            shims.write(slot_at + offset("lent"), 0)
        evidence.made_again = shims.deadlines
        evidence.stopped = bool(frozen.stop_signal)
        for task in frozen.tasks:
            refuse_mixed(frozen, task, self.registers[task.tid])
        self.waits: dict[int, Wait] = classify_all(self.registers.items(), evidence, frozen.leader.read)
        for task in frozen.tasks:
            if task.tid in self.waits:
                confined.of_frozen(
                    self.waits[task.tid], task.filters, f"task {task.tid} of process {frozen.pid}"
                )
        self._reentry = Reentry(shims)

    @property
    def undoes(self) -> bool | None:
        """Whether the process has used semaphores with SEM_UNDO; None where that is not known."""
        return self._evidence.undoes()

    @property
    def seen(self) -> dict[int, TaskState]:
        """What BPF has read of each frozen task, by TID; empty without it."""
        return self._evidence.after

    def since_frozen_ns(self) -> int:
        """How much time has passed since the moment that remaining times count from."""
        return self._evidence.since_frozen_ns()

    def enter_again(self) -> None:
        """Those that the freeze has ended with EINTR."""
        shared = len(self._frozen.sharing) > 1
        self._reentry.enter(self._frozen.tasks, self.waits, self.registers, self._system_calls, shared=shared)

    @contextmanager
    def _system_calls(self) -> Iterator[Callable[[Program], list[int]]]:
        """Lend out the leader, to make system calls in the process."""
        with Engine(self._frozen, as_kernel_resumes) as engine, engine.borrow(self._frozen.leader) as lent:
            yield lent.run

    def set_time_left(self, task: Tracee) -> None:
        """Just before it is let go: look for signals, and last take off what has passed since the freeze."""
        wait = self.waits.get(task.tid)
        if wait is not None:
            masks.settle(task, wait)
            written.catch_up(task, wait, self.since_frozen_ns)
            self._reentry.refresh_minimum(task.tid, wait.minimum_ns - self.since_frozen_ns())
            self._reentry.refresh(task.tid, max(0, (wait.remaining_ns or 0) - self.since_frozen_ns()))

    def put_back(self) -> None:
        """Once the process has been let go: what its sockets have lent, what the kernel has written."""
        self._reentry.take_back(self._frozen.pid)
        written.put_back(self._frozen.pid, self.waits, self._evidence.since_frozen_ns)
