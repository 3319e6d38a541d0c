"""A whole thread group in ptrace stops, on its way into an image or out of one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.tracee import Tracee

__all__ = ["Process"]


class Process:
    """``tasks``: every task, the leader first. ``pidfd``: ours."""

    def __init__(self, pid: int, tasks: list[Tracee], pidfd: int) -> None:
        self.pid = pid
        self.tasks = tasks
        self.pidfd = pidfd

    @property
    def leader(self) -> Tracee:
        """The task whose TID is the PID."""
        return self.tasks[0]
