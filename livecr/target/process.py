"""A whole thread group in ptrace stops, or a tree of them, on the way into an image or out of one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Tracee

__all__ = ["Process", "Tree"]


class Process:
    """``tasks``: every task, the leader first, unless it has exited. ``pidfd``: ours, -1 before there is one.
    ``stop_signal``: what stopped it, or 0.

    ``compat``: it is a 32-bit program. ``sharing``: all that have the same memory, itself among them, parents
    before their children.
    """

    def __init__(
        self, pid: int, tasks: list[Tracee], pidfd: int = -1, stop_signal: int = 0, *, compat: bool = False
    ) -> None:
        self.pid = pid
        self.tasks = tasks
        self.pidfd = pidfd
        self.stop_signal = stop_signal
        self.compat = compat
        self.sharing = [self]

    @property
    def leader(self) -> Tracee:
        """The task whose TID is the PID, or if that has exited the one that stands for it."""
        return self.tasks[0]


class Tree:
    """A process and all its descendants.

    ``processes``: parents before their children, the root first. ``ended``: PIDs of those that have ended and
    not been waited for. ``parents``: the parent's PID by the child's.
    """

    def __init__(self, processes: list[Process], ended: list[int], parents: dict[int, int]) -> None:
        self.processes = processes
        self.ended = ended
        self.parents = parents

    @property
    def root(self) -> Process:
        """The process that everything descends from."""
        return self.processes[0]

    def children(self, pid: int) -> list[Process]:
        """Those of its processes that are children of another."""
        return [process for process in self.processes if self.parents.get(process.pid) == pid]

    @property
    def pids(self) -> list[int]:
        """Of those that live, the root first."""
        return [process.pid for process in self.processes]
