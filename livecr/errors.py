"""What can go wrong, as a short tree of exceptions; each says what, where, and the way out.

The command line prints them and ends with ``exit_code``; nothing else is ever printed about a failure
unless ``--debug`` asks for the traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BadImage", "Failed", "LivecrError", "NoSuchProcess", "Obstacle", "Refused", "UsageError"]


class LivecrError(Exception):
    """Base of every error that livecr reports.

    ``what`` is one sentence; ``where`` names the task and the object (may be empty); ``way_out`` tells
    the reader what to do (may be empty).
    """

    exit_code = 4

    def __init__(self, what: str, *, where: str = "", way_out: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.way_out = way_out

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.way_out}" if self.way_out else text


class UsageError(LivecrError):
    """The command or the arguments make no sense: nothing was touched."""

    exit_code = 2


class Obstacle:
    """One thing that stands in the way of a checkpoint: the task, the object, and the way out."""

    __slots__ = ("object", "task", "way_out")

    def __init__(self, task: str, object: str, way_out: str) -> None:
        self.task = task
        self.object = object
        self.way_out = way_out

    def __repr__(self) -> str:
        return f"Obstacle({self.task!r}, {self.object!r}, {self.way_out!r})"


class Refused(LivecrError):
    """livecr will not do it, and nothing was touched."""

    exit_code = 3

    @classmethod
    def because(cls, obstacles: Iterable[Obstacle]) -> Refused:
        """One refusal that lists every obstacle, not only the first."""
        found = list(obstacles)
        if len(found) == 1:
            return cls(found[0].object, where=found[0].task, way_out=found[0].way_out)
        lines = [f"{o.task}: {o.object}\n    {o.way_out}" for o in found]
        return cls(f"{len(found)} things stand in the way:\n  " + "\n  ".join(lines))


class NoSuchProcess(Refused):
    """It has ended, or never was."""

    def __init__(self, where: str) -> None:
        super().__init__("there is no such process", where=where)


class Failed(LivecrError):
    """Something went wrong half-way; the target runs on unharmed (or, in a restore, nothing is left)."""

    exit_code = 4


class BadImage(LivecrError):
    """The image is damaged, cut, altered, or not livecr's."""

    exit_code = 5
