"""What the manifest of an image holds: the process, its waits, and when it was frozen."""

from __future__ import annotations

from livecr.image.record import Record
from livecr.kinds.process import Process
from livecr.waits.classify import Wait
from livecr.waits.clocks import RELATIVE, Instant

__all__ = ["Content", "Waiting"]


class Waiting(Record):
    """A task and the call that it is blocked in."""

    tid: int
    wait: Wait


class Content(Record):
    """The image of one process."""

    name: str
    frozen_at: Instant
    process: Process
    waits: list[Waiting]
    time_model: str = RELATIVE  # what the program itself has wished for
