"""A whole thread group in ptrace stops, on its way into an image or out of one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Engine
    from livecr.target.tracee import Tracee

__all__ = ["Process"]


class Process:
    """``tasks``: every task, the leader first. ``engine``: runs system calls inside it. ``pidfd``: ours."""

    def __init__(self, pid: int, tasks: list[Tracee], pidfd: int) -> None:
        self.pid = pid
        self.tasks = tasks
        self.pidfd = pidfd
        self._engine: Engine | None = None

    @property
    def leader(self) -> Tracee:
        """The task whose TID is the PID."""
        return self.tasks[0]

    @property
    def engine(self) -> Engine:
        """The engine inside it; an error in livecr if it was not loaded."""
        assert self._engine is not None, "the engine is not loaded"
        return self._engine

    @engine.setter
    def engine(self, engine: Engine | None) -> None:
        self._engine = engine

    @property
    def has_engine(self) -> bool:
        """Whether an engine is loaded."""
        return self._engine is not None
